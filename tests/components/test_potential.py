"""Potential-based shaping: by hand, and in a problem whose every answer is enumerated the optimum stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.objectives import by_potential
from rlhf_plugins.components.reward import Python
from rlhf_plugins.components.reward_dense import Guided, Prefixes
from rlhf_plugins.contract.function_logs import listening
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rollout import ScoredResponses
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.errors import RlhfError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_run

WORDS, LENGTH = 3, 3
ANSWERS = list(product(range(WORDS), repeat=LENGTH))  # every response
State = tuple[int, ...]


def test_the_arithmetic_by_hand() -> None:
    """Potentials 2, 6 and 7 (the last state's counts as 0), a half off each step: 1 - 0, 3 - 2, 10 + 0 - 6."""
    mask = tensor([[True, True, True, False], [True, False, False, False]])
    found = by_potential(tensor([10.0, 5.0]), tensor([[2.0, 6.0, 7.0, 9.0]] * 2), mask, 0.5)
    assert found.tolist() == [[1.0, 1.0, 4.0, 0.0], [5.0, 0.0, 0.0, 0.0]]


def test_the_shaping_by_hand() -> None:
    """Numbers 2, 4 and 1 of tokens, whose sums are the potential; without any there is none."""
    potential = component("shaping", {"use": "potential", "discount": 0.5})
    scored = ScoredResponses(tensor([7.0]), tensor([3]), tensor([True]), tensor([[2.0, 4.0, 1.0]]))
    assert potential(scored).tolist() == [[1.0, 1.0, 1.0]]
    with pytest.raises(RlhfError, match="needs a reward that gives each token a number"):
        potential(ScoredResponses(tensor([7.0]), tensor([3]), tensor([True])))


def values(tokens: Tensor, discount: float) -> Mapping[State, list[float]]:
    """Q*(s, a) of every state by backward induction, given the rewards of every response's tokens."""
    paid = {answer[: t + 1]: tokens[row, t].item() for row, answer in enumerate(ANSWERS) for t in range(LENGTH)}
    found: dict[State, list[float]] = {}
    for size in reversed(range(LENGTH)):
        for state in product(range(WORDS), repeat=size):
            after = [(*state, word) for word in range(WORDS)]
            found[state] = [paid[one] + discount * max(found.get(one, [0.0])) for one in after]
    return found


def best(found: Mapping[State, list[float]]) -> dict[State, int]:
    return {state: each.index(max(each)) for state, each in found.items()}


def paid_at_the_end(scores: Tensor) -> Tensor:
    return torch.nn.functional.pad(scores.unsqueeze(1), (LENGTH - 1, 0))


def problem(seed: int) -> tuple[Tensor, Tensor]:
    """Rewards of all responses, and numbers of their tokens that follow from the prefix and sum to the rewards."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(ANSWERS), generator=draw, dtype=torch.float64)
    guess = {s: 3 * torch.randn((), generator=draw).item() for n in (1, 2) for s in product(range(WORDS), repeat=n)}
    levels = [[guess[answer[:1]], guess[answer[:2]], scores[row].item()] for row, answer in enumerate(ANSWERS)]
    return scores, torch.tensor(levels, dtype=torch.float64).diff(dim=1, prepend=torch.zeros(len(ANSWERS), 1))


@given(st.integers(0, 10_000), st.floats(0.1, 0.99))
def test_the_optimum_of_every_state_stays(seed: int, discount: float) -> None:
    """And Q* is less by the potential of the state, as the theorem says."""
    scores, tokens = problem(seed)
    many = torch.full((len(ANSWERS),), LENGTH)
    shaped = component("shaping", {"use": "potential", "discount": discount})(
        ScoredResponses(scores, many, many > 0, tokens)
    )
    plain, moved = values(paid_at_the_end(scores), discount), values(shaped, discount)
    assert best(moved) == best(plain)
    for row, answer in enumerate(ANSWERS):
        for t in range(1, LENGTH):
            phi = tokens[row, :t].sum().item()
            assert_close(tensor(moved[answer[:t]]), tensor(plain[answer[:t]]) - phi, rtol=0, atol=1e-4)


def test_the_numbers_of_tokens_as_rewards_move_it() -> None:
    """With a discount: what the shaping is for."""
    problems = [problem(seed) for seed in range(20)]
    plain = [best(values(paid_at_the_end(scores), 0.5)) for scores, _ in problems]
    assert sum(best(values(tokens, 0.5)) != one for (_, tokens), one in zip(problems, plain, strict=True)) > 10


@dataclass(frozen=True)
class Given(Reward):
    """What a function says of token ids; it abstains on those that are listed."""

    says: Callable[..., Any]
    silent: Sequence[list[int]] = ()

    def build(self, run: Any) -> Any:
        def score(samples: Samples) -> Any:
            found = [self.says(list(ids)) for ids in samples.response_ids]
            silent = tensor([list(ids) in self.silent for ids in samples.response_ids])
            if not isinstance(found[0], list):
                return Prediction(tensor(found), abstained=silent)
            tokens = torch.nn.utils.rnn.pad_sequence([tensor(each) for each in found], batch_first=True)
            return Prediction(tokens.sum(1), tokens=tokens, abstained=silent)

        return score


def samples(*ids: list[int]) -> Samples:
    return Samples(["how"] * len(ids), ["x"] * len(ids), [[15]] * len(ids), list(ids))


def test_a_guide_by_hand() -> None:
    """R = 10: the guide's 1 and 2, then 10 - 3. One token alone is paid R."""
    reward = Guided(reward=Given(lambda ids: 10.0), guide=Given(lambda ids: [1.0, 2.0, 4.0][: len(ids)])).build(None)
    found = reward(samples([3, 4, 5], [3]))
    assert found.tokens.tolist() == [[1.0, 2.0, 7.0], [10.0, 0.0, 0.0]]
    with pytest.raises(RlhfError, match="the guide should give each token a number"):
        Guided(reward=Given(lambda ids: 1.0), guide=Given(lambda ids: 1.0)).build(None)(samples([3]))


def test_where_either_abstains_nothing_is_known() -> None:
    guide = Given(lambda ids: [1.0], silent=([4],))
    found = Guided(reward=Given(lambda ids: 10.0, silent=([3],)), guide=guide).build(None)(samples([3], [4], [5]))
    assert found.abstained.tolist() == [True, True, False]


def test_a_guide_leaves_the_optimum_and_an_added_reward_does_not() -> None:
    moved = 0
    for seed in range(10):
        scores = torch.randn(len(ANSWERS), generator=torch.Generator().manual_seed(seed))
        draw = torch.Generator().manual_seed(100 + seed)
        numbers = {a[:n]: 3 * torch.randn((), generator=draw).item() for a in ANSWERS for n in range(1, LENGTH + 1)}
        reward = Given(lambda ids, scores=scores: scores[ANSWERS.index(tuple(ids))].item())
        guide = Given(lambda ids, numbers=numbers: [numbers[tuple(ids[:n])] for n in range(1, LENGTH + 1)])
        asked = samples(*map(list, ANSWERS))
        found, plain = Guided(reward=reward, guide=guide).build(None)(asked), best(values(paid_at_the_end(scores), 1.0))
        assert best(values(found.tokens, 1.0)) == plain
        added = guide.build(None)(asked).tokens + paid_at_the_end(scores)
        moved += best(values(added, 1.0)) != plain
    assert moved > 5


@dataclass(frozen=True)
class Compared(Reward):
    """The sum of ids less the mean over all that are asked together."""

    def build(self, run: Any) -> Any:
        def score(samples: Samples) -> Any:
            sums = tensor([float(sum(ids)) for ids in samples.response_ids])
            return (sums - sums.mean()).tolist()

        return score


def test_prefixes_are_no_siblings_of_whole_responses(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    found = Prefixes(reward=Compared(), every=2).build(run)(samples([3, 4, 5], [4]))
    assert found.reward.tolist() == [4.0, -4.0]  # 12 and 4, without the 7 of a prefix
    assert found.tokens.tolist() == [[0.0, 0.0, 4.0], [-4.0, 0.0, 0.0]]


def test_parts_are_of_whole_responses_and_logs_of_prefixes_are_not_heard(tmp_path: Path) -> None:
    """The function is called for both responses, of 5 and 2 tokens, and for prefixes of 2 and 4."""
    (tmp_path / "r.py").write_text(
        "def own(completion_ids, log_metric):\n"
        "    log_metric('longest', max(map(len, completion_ids)))\n"
        "    return [{'score': 1.0, 'tokens': len(ids)} for ids in completion_ids]\n"
    )
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    with listening() as heard:
        found = Prefixes(reward=Python(f"{tmp_path / 'r.py'}:own"), every=2).build(run)(
            samples([3, 4, 5, 6, 9], [7, 8])
        )
    assert found.dimensions["tokens"].tolist() == [5.0, 2.0]
    assert heard.means() == {"longest": 5.0}


def test_prefixes_by_hand(tmp_path: Path) -> None:
    """R is the sum of ids: every two tokens what they added; 9 is left for the end."""
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    found = Prefixes(reward=Given(lambda ids: float(sum(ids))), every=2).build(run)(samples([3, 4, 5, 6, 9], [7, 8]))
    assert found.reward.tolist() == [27.0, 15.0]
    assert found.tokens.tolist() == [[0.0, 7.0, 0.0, 11.0, 9.0], [0.0, 15.0, 0.0, 0.0, 0.0]]


def test_a_prefix_on_which_the_reward_abstains_pays_nothing(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    reward = Given(lambda ids: float(sum(ids)), silent=([3, 4],))
    found = Prefixes(reward=reward, every=2).build(run)(samples([3, 4, 5, 6, 9], [7, 8, 9]))
    assert found.tokens.tolist() == [[0.0, 0.0, 0.0, 18.0, 9.0], [0.0, 15.0, 9.0, 0.0, 0.0]]
    assert not found.abstained.any()


@dataclass(frozen=True)
class Long(Reward):
    """The characters of a response."""

    def build(self, run: Any) -> Any:
        return lambda samples: [float(len(text)) for text in samples.responses]


def test_a_reward_of_texts_reads_the_text_of_a_prefix(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    ant, bee, pad = 3, 4, 0
    found = Prefixes(reward=Long(), every=2).build(run)(
        Samples(["how"], ["ant ant bee"], [[15]], [[ant, pad, ant, bee]])
    )
    assert found.tokens.tolist() == [[0.0, 3.0, 0.0, 8.0]]  # special tokens are no text
