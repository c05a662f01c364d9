"""Remembered rewards: asked for once, in order, across processes; never a wrong one, and no file taken on trust."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from warm import Warm

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.engine.cost import add, counting
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.reward_models.score_cache import ScoreCache, identity

Pair = tuple[list[int], list[int]]
FIRST, SECOND, THIRD = ([1, 2], [3]), ([1], [2, 3]), ([1, 2], [3, 4])


def samples_of(*pairs: Pair) -> Samples:
    texts = [str(pair) for pair in pairs]
    return Samples(texts, texts, [prompt for prompt, _ in pairs], [response for _, response in pairs])


class Counting:
    """Scores a response by its ids and its prompt's, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Pair]] = []

    def __call__(self, samples: Samples) -> list[float]:
        pairs = [(list(p), list(r)) for p, r in zip(samples.prompt_ids, samples.response_ids, strict=True)]
        assert [*samples.prompts] == [*samples.responses] == [str(pair) for pair in pairs]
        self.asked.append(pairs)
        return [reward_of(pair) for pair in pairs]


def reward_of(pair: Pair) -> float:
    return sum(pair[0]) + 0.1 * sum(pair[1])


@pytest.fixture
def cache() -> Iterator[ScoreCache]:
    with closing(ScoreCache(None)) as made:
        yield made


def test_only_what_is_missing_is_asked_for_and_once(cache: ScoreCache) -> None:
    score = Counting()
    assert cache.scores("a", samples_of(SECOND, FIRST, SECOND), score) == [1.5, 3.3, 1.5]
    assert cache.scores("a", samples_of(THIRD, SECOND), score) == [3.7, 1.5]
    assert cache.scores("a", samples_of(FIRST, THIRD), score) == [3.3, 3.7]
    assert score.asked == [[SECOND, FIRST], [THIRD]]
    assert (cache.misses, cache.hits) == (3, 4)


def test_another_model_is_called_again(cache: ScoreCache) -> None:
    assert cache.scores("a", samples_of(FIRST), lambda samples: [1.0]) == [1.0]
    assert cache.scores("b", samples_of(FIRST), lambda samples: [2.0]) == [2.0]
    assert cache.scores("a", samples_of(FIRST), lambda samples: [3.0]) == [1.0]


def test_long_arrays_of_columns_that_differ_are_other_responses(cache: ScoreCache) -> None:
    vectors = [np.zeros(2000), np.r_[np.zeros(1000), 1.0, np.zeros(999)]]  # the same text, which numpy shortens
    samples = replace(samples_of(FIRST, FIRST), columns={"vector": vectors})
    assert cache.scores("a", samples, lambda samples: [v.sum() for v in samples.columns["vector"]]) == [0.0, 1.0]


def test_nothing_is_asked_of_nothing(cache: ScoreCache) -> None:
    score = Counting()
    assert cache.scores("a", samples_of(), score) == []
    assert (score.asked, cache.hits, cache.misses) == ([], 0, 0)


ids = st.lists(st.integers(0, 3), max_size=3)


@given(st.lists(st.lists(st.tuples(st.sampled_from(["", "a", "\0"]), ids, ids), max_size=6), max_size=4))
def test_a_cache_never_changes_a_reward(calls: list[list[tuple[str, list[int], list[int]]]]) -> None:
    """Where a prompt ends and a response begins is part of what is remembered."""
    asked = 0
    with closing(ScoreCache(None)) as cache:
        for call in calls:
            for name in sorted({model for model, _, _ in call}):
                pairs = [(p, r) for model, p, r in call if model == name]
                rewards = [hash((name, str(pair))) / 7 for pair in pairs]
                found = dict(zip(map(str, pairs), rewards, strict=True))
                score = lambda samples, found=found: [found[text] for text in samples.prompts]  # noqa: E731
                assert cache.scores(name, samples_of(*pairs), score) == rewards
                asked += len(pairs)
        assert cache.hits + cache.misses == asked
        assert cache.misses == len({(name, str(p), str(r)) for call in calls for name, p, r in call})


def test_a_file_is_used_by_a_later_process(python: Warm, tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.sqlite"
    code = (
        "import sys; from pathlib import Path; from rlhf_plugins.contract.rows import Samples\n"
        "from rlhf_plugins.reward_models.score_cache import ScoreCache\n"
        "cache = ScoreCache(Path(sys.argv[1]))\n"
        "cache.scores('a', Samples(['p'], ['r'], [[1, 2]], [[3]]), lambda samples: [0.1 + 0.2])\n"
        "import os; os._exit(1)"  # dies without closing
    )
    python("-c", code, str(path))
    score = Counting()
    with closing(ScoreCache(path)) as cache:
        assert cache.scores("a", samples_of(FIRST), score) == [0.1 + 0.2]  # to the last bit
    assert score.asked == []


def test_two_caches_share_a_file(tmp_path: Path) -> None:
    with closing(ScoreCache(tmp_path / "s")) as one, closing(ScoreCache(tmp_path / "s")) as other:
        one.scores("a", samples_of(FIRST), lambda samples: [1.0])
        assert other.scores("a", samples_of(FIRST), lambda samples: [2.0]) == [1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_not_finite_is_refused_and_not_remembered(cache: ScoreCache, bad: float) -> None:
    with pytest.raises(RunError, match="^1 of 2 rewards are not finite numbers$"):
        cache.scores("a", samples_of(FIRST, SECOND), lambda samples: [bad, 0.5])
    score = Counting()
    assert cache.scores("a", samples_of(FIRST, SECOND), score) == [3.3, 0.5]
    assert score.asked == [[FIRST]]


@pytest.mark.parametrize("rewards", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_wrong_number_of_rewards_is_refused(cache: ScoreCache, rewards: list[float]) -> None:
    with pytest.raises(PluginError, match=f"gave {len(rewards)} numbers for 2 responses"):
        cache.scores("a", samples_of(FIRST, SECOND, FIRST), lambda samples: rewards)


def test_a_score_that_fails_leaves_what_was_remembered(tmp_path: Path) -> None:
    def interrupted(samples: Samples) -> list[float]:
        raise KeyboardInterrupt

    with closing(ScoreCache(tmp_path / "s")) as cache:
        cache.scores("a", samples_of(FIRST), lambda samples: [1.0])
        with pytest.raises(KeyboardInterrupt):
            cache.scores("a", samples_of(FIRST, SECOND), interrupted)
    with closing(ScoreCache(tmp_path / "s")) as cache:
        assert cache.scores("a", samples_of(FIRST), interrupted) == [1.0]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores"
    path.write_text("prompt,response,reward\n" * 100)
    with pytest.raises(RunError, match="scores is no cache of scores, or is damaged: file is not a database; delete"):
        ScoreCache(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores"
    with closing(ScoreCache(path)) as cache:
        cache.scores("a", samples_of(*(([i], [i]) for i in range(1000))), Counting())
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    with closing(ScoreCache(path)) as cache, pytest.raises(RunError, match="is damaged: .*malformed"):
        cache.scores("a", samples_of(FIRST), Counting())


@pytest.mark.parametrize("reward", ["'much'", "9e999", "x'00'"])
def test_a_remembered_reward_that_is_none_is_refused(tmp_path: Path, reward: str) -> None:
    path = tmp_path / "scores"
    with closing(ScoreCache(path)) as cache:
        cache.scores("a", samples_of(FIRST), Counting())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE scores SET reward = {reward}")
    with closing(ScoreCache(path)) as cache, pytest.raises(RunError, match="is damaged: it holds the number"):
        cache.scores("a", samples_of(FIRST), Counting())


def test_another_programs_table_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "scores")) as connection, connection:
        connection.execute("CREATE TABLE scores (game TEXT)")
    with closing(ScoreCache(tmp_path / "scores")) as cache, pytest.raises(RunError, match="scores: .* no such column"):
        cache.scores("a", samples_of(FIRST), Counting())


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "scores"):
        with pytest.raises(RunError, match="cannot be read or written"):
            ScoreCache(path)


def folder_of(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def test_a_model_is_known_by_what_its_files_are_called_and_hold(tmp_path: Path) -> None:
    model = identity(folder_of(tmp_path / "a", head="1", config="2"))
    assert model == identity(folder_of(tmp_path / "b", config="2", head="1"))
    others = [{"head": "1"}, {"head": "1", "config": "3"}, {"head": "2", "config": "1"}, {"head": "1", "x/config": "2"}]
    found = [identity(folder_of(tmp_path / f"other{i}", **files)) for i, files in enumerate(others)]
    assert len({model, *found}) == 5


def test_a_folder_without_a_model_has_no_identity(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="holds no file of a reward model"):
            identity(folder)


def test_a_model_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    folder = folder_of(tmp_path, head="1")
    monkeypatch.setattr(Path, "open", refuse)  # a mode of 000 stops everybody but root
    with pytest.raises(RunError, match="cannot be read: .*Permission denied: .*head"):
        identity(folder)


def test_an_abstention_is_handed_on_and_not_remembered(cache: ScoreCache) -> None:
    samples = Samples(["p", "p"], ["a", "b"], [[1], [1]], [[2], [3]])
    assert cache.scores("model", samples, lambda _: [1.0, None]) == [1.0, None]
    assert cache.scores("model", samples, lambda rest: [float(len(rest.responses))]) == [1.0, 1.0]


def test_an_asker_that_asks_again_is_charged_what_the_answers_took(tmp_path: Path) -> None:
    def score(samples: Samples) -> list[float]:
        add(flops=7.0)
        return [1.0] * len(samples.responses)

    with closing(ScoreCache(tmp_path / "scores")) as cache, counting() as counter:
        for asker in ("dpo train", "ipo train", "dpo train", ""):  # the second asks for what is known
            cache.scores("model", samples_of(FIRST), score, asker)
        assert counter.flops == 14.0
