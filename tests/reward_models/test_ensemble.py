"""Ensembles: members joined by hand, asked only while they disagree, and one base in memory for their adapters."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from engine.conftest import EOS
from peft import PeftModel
from templates import chat_base
from torch import tensor

from rlhf_plugins.components.aggregation import Mean, Vote, WorstCase
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.turns import as_answer
from rlhf_plugins.engine.backbone import Backbone
from rlhf_plugins.engine.weights.loading import load_causal, load_row_encoder, load_trunk, with_adapter
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.ensemble import Ensemble, describe, disputed, epistemic, preferred
from rlhf_plugins.reward_models.handle import RewardHandle
from rlhf_plugins.reward_models.opening import open_reward, rated
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_base

SAMPLES = Samples(["a", "a", "b", "b"], list("wxyz"), [[5], [5], [6], [6]], [[7, EOS], [8, EOS], [9, EOS], [10, EOS]])


class Table:
    """A member that knows the rewards of the responses, and how many it was asked for."""

    def __init__(self, *rewards: float, variance: float | None = None) -> None:
        self.rewards, self.variance, self.asked = dict(zip("wxyz", rewards, strict=True)), variance, 0

    def __call__(self, samples: Samples) -> Prediction:
        assert samples.responses, "nothing is asked"
        self.asked += len(samples.responses)
        reward = tensor([self.rewards[response] for response in samples.responses], dtype=torch.float32)
        return Prediction(reward, None if self.variance is None else torch.full_like(reward, self.variance))


def test_members_are_joined_and_their_disagreement_is_given() -> None:
    members = Table(1, 0, 4, 0, variance=1.0), Table(3, 0, 0, 0, variance=3.0)
    found = Ensemble(members, Mean(), (1, 1))(SAMPLES)
    assert found.reward.tolist() == [2, 0, 2, 0]
    assert epistemic(found).tolist() == [1, 0, 4, 0]  # ((1 - 2)^2 + (3 - 2)^2) / 2, ((4 - 2)^2 + (0 - 2)^2) / 2
    assert found.variance is not None
    assert found.variance.tolist() == [2, 2, 2, 2]


def test_the_probability_of_a_vote_is_the_share_of_members() -> None:
    """Of w and x two of three prefer w; of y and z one prefers y, one z, and one neither."""
    members = Table(1, 0, 4, 0), Table(3, 0, 0, 5), Table(0, 9, 6, 6)
    first, second = tensor([0, 2]), tensor([1, 3])
    votes = Ensemble(members, Vote(), (1, 1, 1))(SAMPLES)
    assert preferred(votes, first, second).tolist() == pytest.approx([2 / 3, 0.5])
    mean = Ensemble(members, Mean(), (1, 1, 1))(SAMPLES)
    assert preferred(mean, first, second)[0] == pytest.approx(float(tensor(4 / 3 - 3).sigmoid()))


def test_a_prompt_that_two_members_order_alike_is_not_shown_to_the_third() -> None:
    members = Table(1, 0, 4, 0), Table(3, 0, -1, 0), Table(9, 9, 6, 0)  # of w and x agreed, of y and z not
    found = Ensemble(members, WorstCase(), (1, 1, 1), early_exit=True)(SAMPLES)
    assert [member.asked for member in members] == [4, 4, 2]
    assert found.reward.tolist() == [1, 0, -1, 0]
    assert found.members is not None
    assert found.members.isnan().sum(1).tolist() == [1, 1, 0, 0]


def test_a_vote_is_of_the_members_that_were_asked() -> None:
    members = Table(1, 0, 4, 0), Table(3, 0, -1, 0), Table(9, 9, 6, 0)
    votes = Ensemble(members, Vote(), (1, 1, 1), early_exit=True)(SAMPLES)
    assert preferred(votes, tensor([0, 2]), tensor([1, 3])).tolist() == pytest.approx([1.0, 2 / 3])


def test_members_dispute_the_order_within_a_prompt() -> None:
    rewards, group = tensor([[1.0, 2], [0, 0], [1, 0], [0, 1], [5, 5], [4, 4], [0, 0]]), tensor([0, 0, 1, 1, 2, 2, 3])
    assert disputed(rewards, group).tolist() == [False, False, True, True, False, False, True]


def test_what_members_predict_of_noise_is_given_though_some_were_not_called() -> None:
    members = tuple(Table(1, 0, 1, 0, variance=0.5) for _ in range(3))
    found = Ensemble(members, Mean(), (1, 1, 1), early_exit=True)(SAMPLES)
    assert found.variance is not None
    assert found.variance.tolist() == [0.5] * 4


def test_a_vote_on_responses_without_siblings_is_refused() -> None:
    """w and x have each other, and y has none: one half would look like a measurement."""
    votes = Ensemble((Table(1, 0, 0, 0),) * 2, Vote(), (1, 1), called="vote")
    assert votes(SAMPLES.take([0, 1])).reward.tolist() == [1, 0]
    with pytest.raises(RunError, match="aggregation vote compares .* 1 of 3 have no other .* that to 'b': score two"):
        votes(SAMPLES.take([0, 1, 2]))
    assert Ensemble((Table(1, 0, 0, 0),) * 2, Mean(), (1, 1))(SAMPLES.take([0])).reward.tolist() == [1]


def test_siblings_are_those_that_the_samples_name() -> None:
    """All to one prompt, w beside y and x beside z. By the prompt each would be compared with three."""
    one = Samples(["a", "a"], ["w", "x"], [[5]] * 2, [[7], [8]])
    other = Samples(["a", "a"], ["y", "z"], [[5]] * 2, [[9], [10]])
    votes = Ensemble((Table(9, 0, 4, 1), Table(9, 3, 4, 1)), Vote(), (1, 1))
    assert votes(one.beside(other)).reward.tolist() == [1, 0.5, 0, 0.5]
    assert votes(one + other).reward.tolist() == pytest.approx([1, 1 / 6, 2 / 3, 1 / 6])


def test_a_teacher_that_votes_rates_each_row_by_itself(tmp_path: Path) -> None:
    """By the prompt, which both rows have, y would beat two of three."""
    votes = Ensemble((Table(9, 0, 4, 1),) * 2, Vote(), (1, 1))
    found = rated([Group("a", ("w", "x")), Group("a", ("z", "y"))], votes, load_row_encoder(tiny_base(tmp_path)))
    assert [group.ratings for group in found] == [{"teacher": (1.0, 0.0)}, {"teacher": (0.0, 1.0)}]


def test_a_response_without_siblings_is_shown_to_all() -> None:
    alone = Samples(["a"], ["w"], [[5]], [[7]])
    members = [Table(1, 0, 0, 0) for _ in range(4)]
    Ensemble(tuple(members), Mean(), (1,) * 4, early_exit=True)(alone)
    assert [member.asked for member in members] == [1] * 4


def saved(base: Base, folder: Path, members: int = 3) -> list[list[float]]:
    """Reward models with random weights as one ensemble; gives back what each scores."""
    parts = {"pooling": {"use": "last_token"}, "head": {"use": "scalar"}}
    found = []
    for member in range(members):
        torch.manual_seed(member)
        trunk = with_adapter(load_trunk(base), base.adapter, "FEATURE_EXTRACTION")
        model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
        for weights in filter(lambda p: p.requires_grad, model.parameters()):
            weights.data += 0.1 * torch.randn_like(weights)
        adapter = None if base.adapter is None else vars(base.adapter)
        model.save(folder / str(member), {"base": {"path": base.path, "adapter": adapter}, **parts})
        found.append(model.score(SAMPLES, 0))
    describe(folder, [str(m) for m in range(members)], {"use": "mean"}, accuracy=[1.0] * members, early_exit=False)
    return found


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
def test_a_saved_ensemble_scores_as_its_members_did(tmp_path: Path, adapter: Adapter | None) -> None:
    path = tiny_base(tmp_path / "base").path
    expected = saved(Base(path, adapter=adapter), tmp_path / "model")
    found = open_reward(tmp_path / "model", component)(SAMPLES)
    assert found.members is not None
    torch.testing.assert_close(found.members.T, tensor(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.reward, tensor(expected).mean(0), rtol=1e-5, atol=1e-6)


def test_adapters_share_one_base_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Base(tiny_base(tmp_path / "base").path, adapter=Adapter(r=4))
    saved(base, tmp_path / "model")
    loaded: list[str] = []
    for module in ("ensemble", "reward_model"):
        place = f"rlhf_plugins.reward_models.{module}.load_trunk"
        monkeypatch.setattr(place, lambda base: loaded.append(base.path) or load_trunk(base))
    open_reward(tmp_path / "model", component)(SAMPLES)
    assert loaded == [base.path]


def test_members_that_nobody_holds_leave_the_base(tmp_path: Path) -> None:
    base = Base(tiny_base(tmp_path / "base").path, adapter=Adapter(r=4))
    saved(base, tmp_path / "model")
    backbone = Backbone(load_causal(base), base)
    handle = open_reward(tmp_path / "model", component, backbone=backbone)
    assert len(backbone.model.peft_config) == 3
    del handle
    gc.collect()
    assert not isinstance(backbone.model, PeftModel)
    (tmp_path / "model" / "1" / "head.safetensors").unlink()
    with pytest.raises(RunError, match=r"lacks head\.safetensors"):
        open_reward(tmp_path / "model", component, backbone=backbone)
    gc.collect()
    assert not isinstance(backbone.model, PeftModel)


def test_a_member_with_another_template_reads_the_texts(tmp_path: Path) -> None:
    seen = list[Samples]()

    def read(samples: Samples) -> Prediction:
        seen.append(samples)
        return Prediction(torch.zeros(len(samples.responses)))

    encoders = [load_row_encoder(chat_base(tmp_path / style, style)) for style in ("qwen", "llama3")]
    first, other = (RewardHandle(read, None, encoder) for encoder in encoders)
    asked = [{"role": "user", "content": "how"}]
    for member in (first, other):
        member.given(encoders[0])(Samples([asked], ["the cat"], [[1]], [[2]]))
    assert [samples.prompt_ids for samples in seen] == [[[1]], [encoders[1].encode(asked, as_answer("the cat"))[0]]]


def test_a_damaged_ensemble_is_refused(tmp_path: Path) -> None:
    saved(tiny_base(tmp_path / "base"), tmp_path / "model", members=2)
    (tmp_path / "model" / "1" / "head.safetensors").unlink()
    with pytest.raises(RunError, match="lacks head.safetensors"):
        open_reward(tmp_path / "model", component)
    (tmp_path / "model" / "reward_ensemble.json").write_text('{"members": ["0"]}')
    with pytest.raises(RunError, match="holds no ensemble"):
        open_reward(tmp_path / "model", component)


def test_siblings_have_one_prompt_whatever_tokens_merge_with_a_response() -> None:
    merged = Samples(["a", "a"], ["w", "x"], [[5, 6], [5]], [[7], [8]])
    assert Ensemble((Table(1, 0, 0, 0),) * 2, Vote(), (1, 1))(merged).reward.tolist() == [1.0, 0.0]
