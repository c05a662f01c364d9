"""The splits of a release: one prompt, however it is spelled, is on one side, and stays there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import pytest
from rlhf_collect import release as releases
from rlhf_collect.store.rows import Asked
from studies import Browser, pair, prefers_good, study

HALF = releases.Parameters(test_fraction=0.5)


def released(folder: Path, rows: list[Asked]) -> releases.Release:
    made = study(folder, rows, votes=1)
    Browser(made, "Ada").work(prefers_good)
    return releases.make(made, HALF)


@pytest.mark.parametrize("spelled", [lambda text: normalize("NFD", text), str.upper, lambda text: f"  {text}\n"])
def test_spellings_of_a_prompt_are_in_one_split(tmp_path: Path, spelled: Callable[[str], str]) -> None:
    prompts = [f"caf\u00e9 {n}?" for n in range(8)]
    both = [(text, spelled(text)) for text in prompts]
    rows = [replace(pair(2 * n + side), prompt=both[n][side]) for n in range(8) for side in (0, 1)]
    splits = {one.item.prompt: one.split for one in released(tmp_path, rows).rows}
    assert len(splits) == 16
    assert [splits[one] for one, _ in both] == [splits[other] for _, other in both]
    assert set(splits.values()) == {"train", "test"}


def test_long_prompts_with_one_beginning_are_split(tmp_path: Path) -> None:
    rows = [replace(pair(n), prompt=f"{'You are a clerk. ' * 20}Question {n}?") for n in range(8)]
    assert {one.split for one in released(tmp_path, rows).rows} == {"train", "test"}


def test_a_prompt_that_is_tested_in_one_cluster_is_not_trained_on_in_another(tmp_path: Path) -> None:
    splits = {cluster: releases._split(cluster, 0.5) for cluster in "abcdefgh"}
    train, test = (next(name for name, split in splits.items() if split == of) for of in ("train", "test"))
    rows = [
        replace(pair(n), prompt=text, cluster=own) for n, (text, own) in enumerate([("Why?", train), ("why?", test)])
    ]
    found = released(tmp_path, [*rows, pair(2, cluster=train)])
    assert [(one.item.prompt, one.split) for one in found.rows] == [("why?", "test"), ("prompt 2", "train")]
    assert found.left_out == {"prompt is in a cluster to test on too": 1}


def test_a_later_release_keeps_every_prompt_in_its_split(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(6)], votes=1)
    Browser(made, "Ada").work(prefers_good)
    first = {one.item.prompt: one.split for one in releases.make(made, HALF).rows}
    made.add([pair(n) for n in range(6, 30)])
    Browser(made, "Ben").work(prefers_good)
    later = {one.item.prompt: one.split for one in releases.make(made, HALF).rows}
    assert len(later) == 30
    assert {prompt: later[prompt] for prompt in first} == first
