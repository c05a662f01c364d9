"""Steps that keep good rows, by hand: the best and most different, those accepted, those a classifier finds safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from rlhf_plugins import DataError, PluginError, RunError
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.data.changes.diversity import chosen, ranked
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing.tiny import GOOD, tiny_encoder

SAFE = "def safe(prompt, response):\n    return 'mud' not in f'{prompt} {response}'\n"


def step(name: str, groups: list[Group], **options: Any) -> Data:
    return component("data_step", {"use": name, **options})(Data(tuple(groups)), 0)


def answers(*texts: str, **ratings: tuple[float, ...]) -> list[Group]:
    return [
        Group(f"q{i}", (text,), ratings={name: (values[i],) for name, values in ratings.items()})
        for i, text in enumerate(texts)
    ]


def test_what_is_chosen_is_worked_by_hand() -> None:
    rows = csr_array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])  # cosines: .8 of the first two, .6 of the last two
    quality = np.array([1.0, 0.9, 0.1])
    # the first has .5 * 1 + .5; then the second .5 * .9 + .5 * (1 - .8) = .55, the third .5 * .1 + .5 = .55 - e
    assert chosen(rows, quality, 3, 0.5) == [0, 1, 2]
    assert chosen(rows, quality, 2, 0.4) == [0, 2]  # .4 * .9 + .6 * .2 = .48 to .4 * .1 + .6 = .64


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.floats(0, 1), st.integers(0, 99))
def test_choosing_is_greedy(count: int, weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.random((count, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    quality, cosine, found = rng.random(count), rows @ rows.T, list[int]()
    while len(found) < count:
        nearest = cosine[:, found].max(1, initial=0.0)
        value = weight * quality + (1 - weight) * (1 - nearest)
        value[found] = -np.inf
        found.append(int(value.argmax()))
    assert chosen(csr_array(rows), quality, count, weight) == found


def test_places_of_equal_values_are_shared() -> None:
    assert ranked([3.0, 1.0, 3.0]).tolist() == [0.75, 0.0, 0.75]


def test_good_rows_that_differ_are_kept() -> None:
    rows = answers("ant bee", "ant bee", "cat dog", "elk", helpful=(3.0, 2.0, 1.0, 0.0))
    found = step("diverse", rows, quality=0.5)
    assert [group.prompt for group in found.train] == ["q0", "q2"]  # 1 + 0 .5; then .5/3 + .5 beats 1/3 + 0
    assert found.dropped == {"diverse: not chosen": 2}
    assert [group.prompt for group in step("diverse", rows, quality=1.0).train] == ["q0", "q1"]


def test_a_row_without_a_rating_is_counted_and_an_unknown_one_refused() -> None:
    rows = [*answers("ant", "bee", helpful=(1.0, 2.0)), Group("q", ("cat",))]
    assert step("diverse", rows, share=0.9).dropped == {"diverse: no rating": 1}
    with pytest.raises(DataError, match=r"no row has a number 'helpfull' \(did you mean helpful\?"):
        step("diverse", rows, by="helpfull")
    with pytest.raises(PluginError, match="no rating is read"):
        step("diverse", rows, by="helpful", quality=0.0)


def test_a_function_says_which_rows_stay(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SAFE)
    rows = [Group("how", ("ant", "mud"), (0, 1)), Group("who", ("bee", "cat"), (0, 1))]
    path = f"{tmp_path / 's.py'}:safe"
    found = step("accepted", rows, path=path)
    assert (found.train, found.dropped) == (tuple(rows[1:]), {"accepted: not by safe": 1})
    assert step("accepted", rows, path=path, over="best").train == tuple(rows)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def sane(p, r): ...", "no function 'safe'"),
        ("def safe(p, r): ...", "gave None, not True"),
        ("def safe(p): ...", "s.py:safe: TypeError: safe"),
    ],
)
def test_a_function_that_will_not_do_is_refused(code: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(code)
    with pytest.raises((DataError, RunError), match=message):
        step("accepted", answers("ant"), path=f"{tmp_path / 's.py'}:safe")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder with a head of random weights, which finds some texts toxic."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    tiny_encoder(folder)
    labels = {"id2label": {0: "fine", 1: "toxic"}, "label2id": {"fine": 0, "toxic": 1}}
    AutoModelForSequenceClassification.from_pretrained(folder, **labels).save_pretrained(folder)
    return str(folder)


def test_a_classifier_leaves_out_what_it_gives_a_label(classifier: str) -> None:
    from rlhf_plugins.engine.classifying import open_classifier

    rows = [Group(f"{word} is", (word,)) for word in GOOD[:4]]
    found = open_classifier(classifier)([f"{word} is\n{word}" for word in GOOD[:4]])
    second, third = sorted(one["toxic"] for one in found)[1:3]
    options = {"model": classifier, "labels": ["toxic"], "threshold": (second + third) / 2}
    made = step("classified", rows, **options)
    assert (len(made.train), made.dropped) == (2, {"classified: toxic": 2})
    with pytest.raises(DataError, match=r"no label 'toxc' \(did you mean toxic\?"):
        step("classified", rows, **{**options, "labels": ["toxc"]})
