"""Further prompts in the place of those whose responses all score alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of
from hypothesis import given
from hypothesis import strategies as st

from rlhf_plugins import PluginError, RunError
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.conversations import Conversations
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.ppo.options import ROUNDS
from rlhf_plugins.trainers.ppo.refilling import Drawn, Refill
from rlhf_plugins.trainers.ppo.rollout import Scored
from rlhf_plugins.trainers.ppo.scoring import ResponseRewards, equal_siblings

from .conftest import furthest, trained
from .online_parts import Bases, logged, objective, trainer

IN_LOSS = {"advantage": "grpo", "kl": {"use": "in_loss", "coef": 0.2}, "shaping": []}
RESAMPLES = {**IN_LOSS, "keeps_equal": False, "resamples": True}


def drawn(scores: list[float], prompts: list[str]) -> Drawn:
    """Two responses to each prompt, of as many tokens as the place of the prompt's letter in the alphabet."""
    lengths = [ord(prompt) - ord("a") + 1 for prompt in prompts]
    samples = Samples(prompts, prompts, [[1]] * len(prompts), [[2] * length for length in lengths])
    number, group = torch.tensor(scores), torch.arange(len(prompts)) // 2
    rewards = ResponseRewards(range(len(prompts)), number, number, torch.zeros(len(prompts), max(lengths)))
    equal = {"equal_siblings": equal_siblings(number, group)}
    left_out = {"abstained": 0}
    scored = Scored(samples, rewards, group, None, True, len(prompts), left_out, equal)
    return Drawn(Conversations.of_one_turn(samples), scored, number.unsqueeze(1))


def by_letter(good: str) -> Callable[[Any], Drawn]:
    """Responses of which those to these prompts do not score alike."""

    def draw(rows: Any) -> Drawn:
        prompts = [row["prompt"] for row in rows]
        return drawn([float(i % 2 and prompt in good) for i, prompt in enumerate(prompts)], prompts)

    return draw


def rows(letters: str) -> list[dict[str, str]]:
    return [{"prompt": letter} for letter in letters]


def test_what_is_missing_is_sampled_in_rounds_and_joined_in_order() -> None:
    refill, draw = Refill(rows("abcd"), 2, seed=1), by_letter("ac")
    order = torch.randperm(4, generator=torch.Generator().manual_seed(1)).tolist()
    assert order == [1, 3, 2, 0]  # b, d, c, a
    found, missing = refill(draw(rows("aabbdd")), draw)  # two are missing: b and d; still two: c and a
    assert (missing, "".join(found.talks.samples.prompts)) == (0, "aabbdd" + "bbdd" + "ccaa")
    assert found.scored.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert list(found.scored.rewards.places) == list(range(14))
    learned = [found.talks.samples.prompts[place] for place in found.scored.learned.nonzero().flatten()]
    assert "".join(learned) == "aaccaa"
    assert found.scored.rewards.token_rewards.shape == (14, 4)
    assert (found.scored.sampled, found.each.shape) == (6, (14, 1))
    assert refill.state_dict() == {"taken": 4}


def test_a_rollout_that_cannot_be_filled_is_given_up_after_its_rounds() -> None:
    refill, draw = Refill(rows("abcd"), 2, seed=1), by_letter("")
    found, missing = refill(draw(rows("aabb")), draw)
    assert (missing, len(found.talks.turn)) == (2, 4 * (1 + ROUNDS))
    assert not found.scored.learned.any()


@given(st.integers(1, 9), st.lists(st.integers(1, 7), max_size=6), st.integers(0, 99))
def test_the_order_takes_each_prompt_once_in_a_pass_however_it_is_asked(size: int, asked: list[int], seed: int) -> None:
    """And goes on from what was taken."""
    letters = "abcdefghi"[:size]
    whole = [row["prompt"] for row in Refill(rows(letters), 2, seed)._take(sum(asked))]
    found: list[str] = []
    for count in asked:
        refill = Refill(rows(letters), 2, seed)
        refill.load_state_dict({"taken": len(found)})
        found += [row["prompt"] for row in refill._take(count)]
    assert found == whole
    for start in range(0, len(whole) - size + 1, size):
        assert sorted(whole[start : start + size]) == list(letters)


def of_each_call(samples: Samples) -> list[float]:
    """Equal rewards for the last prompt of a call with several; a further round of one prompt has none that is."""
    last = len(samples.responses) - 3 if len(samples.responses) > 3 else 99
    return [7.0 if i >= last else float(i % 5) for i in range(len(samples.responses))]


@pytest.mark.parametrize("tokens", [None, 12], ids=["whole", "in micro-batches"])
def test_a_rollout_learns_from_as_many_groups_as_it_has(bases: Bases, tmp_path: Path, tokens: int | None) -> None:
    found = trainer(bases(), tmp_path, objective(of_each_call, **RESAMPLES), tokens_per_batch=tokens, max_steps=4)
    rollouts: list[Any] = []
    own = found._rollouts.experience
    object.__setattr__(found._rollouts, "experience", lambda *given: rollouts.append(own(*given)) or rollouts[-1])
    found.train()
    assert logged(found, "resampled") == [3.0, 3.0]
    assert logged(found, "equal_siblings") == [3.0, 3.0]
    assert logged(found, "unfilled") == [0.0, 0.0]
    for rollout in rollouts:
        assert len(rollout.samples.responses) == 15
        assert [len(rows) for rows in rollout.steps] == [6, 6]
        learned = torch.cat(rollout.steps).sort().values.tolist()
        assert learned == [*range(9), 12, 13, 14]
        weights = rollout.token_weights.sum()
        assert weights.item() == pytest.approx(2.0)  # 1 in each minibatch
    assert furthest(trained(found), trained(trainer(bases(), tmp_path, objective(of_each_call, **RESAMPLES)))) > 1e-4


def test_without_equal_groups_nothing_is_sampled_and_nothing_changes(bases: Bases, tmp_path: Path) -> None:
    made = []
    for resamples in (True, False):
        aim = objective(
            lambda s: [float(i % 5) for i in range(len(s.responses))], **{**RESAMPLES, "resamples": resamples}
        )
        made.append(trainer(bases(), tmp_path, aim))
        made[-1].train()
    assert set(logged(made[0], "resampled")) == {0.0}
    assert furthest(*map(trained, made)) == 0
    assert logged(made[0], "loss") == logged(made[1], "loss")


def test_the_report_counts_what_could_not_be_filled(tmp_path: Path) -> None:
    words: dict[str, Any] = {"use": "online", "reward": {"use": "length", "most": 99}, "advantage": "grpo"}
    words |= {"kl": "none", "equal_groups": "resample", "shaping": []}
    sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "max_steps": 2}
    stage = component("stage", {**words, "trainer": {**sizes, "disable_tqdm": True}})
    result = stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(16)))
    left_out = result.report.left_out
    assert left_out["prompt missing in a rollout: 10 rounds of further ones found none whose responses differ"] == 4
    assert left_out["response out of the loss: all to the prompt score alike"] == 2 * 8 * 11
    assert folder_of(result.policies).is_dir()


REFUSED = {
    "compares none": {"advantage": "gae"},
    "a shaping compares those of a rollout": {"advantage": "grpo", "shaping": ["quantile"]},
    "with an environment a rollout is conversations": {"advantage": "grpo", "environment": "sandbox", "turns": 2},
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_filled_is_refused(why: str) -> None:
    with pytest.raises(PluginError, match=f"equal_groups: resample .*{why}; leave it out"):
        component("stage", {"use": "online", "reward": "gold", "equal_groups": "resample", **REFUSED[why]})


def test_a_stream_of_prompts_is_refused() -> None:
    with pytest.raises(RunError, match="equal_groups: resample takes prompts by their number, and a stream has none"):
        Refill(iter(rows("ab")), 2, 0)
