"""Training in conversations: each turn is paid with the later ones, and one that never goes on changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from templates import chat_base

from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.conversations import Conversations
from rlhf_plugins.errors import ComponentError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.online.engine_or_trl import OnlineOptions, check
from rlhf_plugins.trainers.online.metrics import spread
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo import held_out
from rlhf_plugins.trainers.ppo.options import Objective, Turns

from .online_parts import FREE, Bases, logged, objective, prompts, rolled_out, samples_of, trainer


def asks(samples: Samples) -> list[str | None]:
    """Asks on, once, behind every second response."""
    return [" again" if row % 2 == 0 and " again" not in str(p) else None for row, p in enumerate(samples.prompts)]


def leaves(samples: Samples) -> list[str | None]:
    return [None] * len(samples.responses)


def in_turns(environment: Any = asks, discount: float = 0.5, **changes: Any) -> Objective:
    return replace(objective(**changes), turns=Turns(environment, 3, discount))


def trained(base: Base, folder: Path, aim: Objective, steps: int) -> OnlineTrainer:
    found = trainer(base, folder, aim, max_steps=steps)
    found.train()
    return found


def talked(found: OnlineTrainer) -> Conversations:
    openings = [row["prompt"] for row in prompts(2) for _ in range(3)]
    return found._rollouts.conversations(found, found._rollouts.sample(found, openings, {}))


def test_each_turn_is_paid_with_the_later_ones_at_its_last_token(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, in_turns(score=lambda s: [1.0 + len(p) for p in s.prompt_ids], **FREE))
    talks = talked(found)
    assert talks.turn == [0] * 6 + [1] * 3
    scored = found._rollouts.score(talks)
    own = [1.0 + len(ids) for ids in scored.samples.prompt_ids]
    paid = [r + 0.5 * own[6 + i // 2] if i < 6 and i % 2 == 0 else r for i, r in enumerate(own)]
    assert scored.rewards.scores.tolist() == pytest.approx(paid)
    assert scored.rewards.rewards.tolist() == pytest.approx(own)
    last = [len(ids) - 1 for ids in scored.samples.response_ids]
    assert scored.rewards.token_rewards[range(9), last].tolist() == pytest.approx(paid)
    assert scored.rewards.token_rewards.sum(1).tolist() == pytest.approx(paid)
    assert scored.sampled == 6
    assert scored.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]


def test_responses_before_a_turn_that_has_no_reward_are_left_out_and_counted(bases: Bases, tmp_path: Path) -> None:
    def score(samples: Samples) -> Prediction:
        later = torch.tensor([" again" in str(prompt) for prompt in samples.prompts])
        return Prediction(torch.ones(len(later)), abstained=later)

    found = trainer(bases(), tmp_path, in_turns(score=score, **FREE))
    scored = found._rollouts.score(talked(found))
    assert (scored.left_out["abstained"], scored.left_out["abstained_later"]) == (3, 3)
    assert scored.rewards.places == [1, 3, 5]


def test_turns_without_siblings_are_left_out_where_the_advantage_compares(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, in_turns(advantage="rloo", **FREE))
    scored = found._rollouts.score(talked(found))
    assert scored.left_out["too_few_siblings"] == 1  # the second opening has one second turn
    assert scored.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("discount", [1.0, 0.0])
def test_an_environment_that_always_leaves_changes_nothing(bases: Bases, tmp_path: Path, discount: float) -> None:
    ours, plain = (trained(bases(), tmp_path, aim, 3) for aim in (in_turns(leaves, discount), objective()))
    assert logged(ours, "loss") == logged(plain, "loss")
    assert logged(ours, "turns") == [1.0] * len(logged(ours, "turns"))
    same = zip(ours.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def test_without_discount_a_later_turn_changes_nothing_of_the_earlier_ones(bases: Bases, tmp_path: Path) -> None:
    plain = {"advantage": "monte_carlo", **FREE}
    alone = rolled_out(trainer(bases(), tmp_path, objective(**plain)), ["how"] * 3)
    found = trainer(bases(), tmp_path, in_turns(asks, 0.0, **plain))
    talks = found._rollouts.conversations(found, samples_of(found, ["how"] * 3))
    rollout = found._rollouts.experience(found._rollouts.score(talks), 0.1)
    assert talks.turn == [0, 0, 0, 1, 1]
    assert torch.equal(rollout.advantages[:3, : alone.mask.shape[1]], alone.advantages)


def test_it_trains_in_conversations_and_logs_them(bases: Bases, tmp_path: Path) -> None:
    found = trained(bases(), tmp_path, in_turns(), 4)
    assert logged(found, "turns") == [1.5, 1.5]  # of each rollout
    assert len(logged(found, "return")) == 2
    assert len(logged(found, "loss")) == 4


def test_a_later_turn_without_siblings_counts_as_no_group_of_equal_rewards() -> None:
    total = torch.tensor([1.0, 2.0, 3.0, 3.0, 5.0])
    assert spread(total[:, None], [], total, [0, 0, 1, 1, 2])["frac_reward_zero_std"] == 0.5
    assert spread(total[:, None], [], total, [0, 1, 2, 3, 4])["frac_reward_zero_std"] == 1.0


def test_a_conversation_without_room_for_a_response_ends_and_is_counted(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, in_turns())
    found._most_tokens = 2
    assert talked(found).turn == [0] * 6
    assert talked(found).cut == 3


def test_options_of_the_chat_template_hold_for_all_prompts(tmp_path: Path) -> None:
    """Of what is sampled, of ReMax's greedy response, of held-out prompts, and of the room for a response."""
    aim, options = objective(advantage="remax", **FREE), {"enable_thinking": False}
    asked = [{"role": "user", "content": "how"}]
    found = trainer(chat_base(tmp_path, "qwen"), tmp_path, aim, chat_template_kwargs=options)
    ids = found._tokenizer.apply_chat_template(asked, add_generation_prompt=True, **options)["input_ids"]
    plain = found._tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert len(ids) == len(plain) + 2  # <think> </think>
    samples = samples_of(found, [asked] * 3)
    greedy = found._rollouts.greedy(found, samples)
    assert greedy is not None
    assert [*samples.prompt_ids, *greedy.prompt_ids] == [ids] * 4
    assert held_out._talked(found, [asked], {}).samples.prompt_ids == [ids]
    rooms = []
    for found._most_tokens in (len(ids) + 5, len(ids) + 6):  # a response has 6
        rooms.append(found.has_room(asked))
    assert rooms == [False, True]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"advantage": "remax"}, {}, "compares with a greedy response"),
        ({}, {"use_vllm": True}, "was not tried with use_vllm"),
    ],
)
def test_what_does_not_go_with_conversations_is_refused(
    bases: Bases, tmp_path: Path, changes: Any, options: Any, message: str
) -> None:
    with pytest.raises(RunError, match=f"environment= .*{message}"):
        trainer(bases(), tmp_path, in_turns(**changes), **options)


def test_what_a_script_gives_is_checked_and_built_as_a_recipes_environment(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match="gave 1 turns for 6 responses"):
        talked(trainer(bases(), tmp_path, in_turns(lambda samples: [None])))
    reader = component("environment", "sandbox")
    assert talked(trainer(bases(), tmp_path, in_turns(reader))).turn == [0] * 6
    simulated = component("environment", {"use": "simulated", "user": "base"})
    with pytest.raises(RunError, match="environment= reads `.*` of a recipe's run, and a script has none"):
        trainer(bases(), tmp_path, in_turns(simulated))


def test_a_chat_template_that_refuses_a_later_turn_is_named(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, in_turns())
    found.prompt_tokens.tokenizer.chat_template = "{{ raise_exception('users speak once') }}"
    with pytest.raises(RunError, match="a conversation that the environment continued: .*users speak once"):
        found.has_room([{"role": "user", "content": "how"}] * 2)


@pytest.mark.parametrize("options", [{"turn_discount": 0.5}, {"max_length": 64}])
def test_options_of_conversations_are_refused_without_an_environment(options: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="turn_discount= and max_length= are of conversations: give environment= too"):
        check(OnlineOptions(**options), {})
