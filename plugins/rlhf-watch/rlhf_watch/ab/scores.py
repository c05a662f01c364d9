"""Reads what is compared: the evaluation of a run, or a file of scored responses."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_plugins import DataError, Evaluation, RunError, nearest, nearest_path, open_run
from rlhf_watch.ab.votes import releases, votes
from rlhf_watch.rows import lines_of
from rlhf_watch.shift.units import conversation

SCORES = ("score", "reward")  # columns of a file, of which all its rows have the same one


@dataclass(frozen=True)
class Scored:
    """A policy's score on each prompt: the mean over its responses to it.

    Args:
        name: in the output.
        judge: what scored it; empty where a file does not say.
        scores: by prompt, in the order of the file.
        lengths: words of a response, by prompt; None where there are no responses.
        groups: the groups of a prompt, as a column of a file says.
        looks: releases so far of a study whose people go on judging; 0 where nobody does.
        merged: prompts that are not counted, since others of their conversation are.
    """

    name: str
    judge: str
    scores: Mapping[str, float]
    lengths: Mapping[str, float] | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    looks: int = 0
    merged: int = 0


@dataclass
class _Means:
    """Means of numbers by prompt."""

    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, prompt: str, value: float) -> None:
        self.sums.setdefault(prompt, []).append(value)

    def means(self) -> dict[str, float]:
        return {prompt: math.fsum(values) / len(values) for prompt, values in self.sums.items()}


def read(source: str, by: str = "") -> list[Scored]:
    """What a source holds, the reference of a run first.

    It is `FILE.jsonl`, `RUN`, one policy as `RUN#POLICY`, a release, or the folder of a study's releases.

    Args:
        source: any of these.
        by: the column of a file that names the group of a prompt.

    Raises:
        DataError: the file cannot be read, or a row has no prompt or score.
        RunError: there is no such run, evaluation or policy.
    """
    if Path(source).is_file():
        return [_of_file(Path(source), by)]
    folder, _, policy = source.partition("#")
    if not Path(folder).is_dir():
        raise DataError(f"{source}: neither a file nor a run{nearest_path(folder)}")
    if judged := releases(Path(folder)):
        looks = 0 if judged == [Path(folder)] else len(judged)
        return [_of_votes(name, rows, looks) for name, rows in sorted(votes(judged, _rows).items())]
    evaluation = _evaluation(folder)
    others = [name for name in evaluation.scores if name != evaluation.reference]
    names = [policy] if policy else [evaluation.reference, *others]
    if unknown := [name for name in names if name not in evaluation.scores]:
        raise RunError(f"{folder}: no policy {unknown[0]!r} was evaluated {nearest(unknown[0], evaluation.scores)}")
    prompts = [_key(prompt) for prompt in evaluation.prompts]
    return [_of_run(folder, name, evaluation, prompts) for name in names]


def by_conversation(every: Sequence[Scored]) -> list[Scored]:
    """One score for each conversation: its turns are not independent, and tests that took them so would find too much.

    It is the mean over the prompts of the conversation that all sources have; while people go on judging that of the
    first one alone, which later turns do not change.
    """
    turns: dict[Hashable, list[str]] = {}
    for prompt in dict.fromkeys(prompt for one in every for prompt in one.scores):
        turns.setdefault(_conversation(prompt), []).append(prompt)
    shared: dict[str, list[str]] = {}  # the prompt that is kept of a conversation -> those that count
    for prompts in turns.values():
        both = [prompt for prompt in prompts if all(prompt in one.scores for one in every)] or prompts[:1]
        shared[both[0]] = both[:1] if every[0].looks else both
    return [_merged(one, shared) for one in every]


def _merged(one: Scored, shared: Mapping[str, Sequence[str]]) -> Scored:
    known = {first: [prompt for prompt in shared.get(first, ()) if prompt in one.scores] for first in one.scores}
    kept = {first: of for first, of in known.items() if of}  # in the order of the source

    def means(values: Mapping[str, float]) -> dict[str, float]:
        return {first: math.fsum(map(values.__getitem__, of)) / len(of) for first, of in kept.items()}

    lengths = means(one.lengths) if one.lengths is not None and one.scores.keys() <= one.lengths.keys() else None
    groups = {first: one.groups[first] for first in kept if first in one.groups}
    merged = len(one.scores) - len(kept)
    return replace(one, scores=means(one.scores), lengths=lengths, groups=groups, merged=merged)


def _conversation(prompt: str) -> Hashable:
    """The conversation of a prompt that is a key of `scores`, where messages are written as JSON."""
    try:
        return conversation(json.loads(prompt)) if prompt.startswith("[") else prompt
    except ValueError:
        return prompt


def _evaluation(folder: str) -> Evaluation:
    found = [result.evaluation for result in open_run(folder).finished if result.evaluation is not None]
    if not found:
        raise RunError(f"{folder}: no stage of it has finished an evaluation; add a stage `evaluate`")
    return found[-1]


def _of_run(folder: str, name: str, evaluation: Evaluation, prompts: Sequence[str]) -> Scored:
    means, lengths = _Means(), _Means()
    for prompt, score in zip(prompts, evaluation.scores[name], strict=True):
        means.add(prompt, _finite(score, f"{folder}#{name}"))
    for prompt, words in zip(prompts, evaluation.lengths.get(name, ()), strict=False):
        lengths.add(prompt, words)
    return Scored(f"{folder}#{name}", evaluation.judge, means.means(), lengths.means() or None)


def _of_votes(model: str, rows: Sequence[tuple[Any, float, str]], looks: int) -> Scored:
    """The mean votes of people for a model, by prompt."""
    scores, lengths = _Means(), _Means()
    for prompt, worth, response in rows:
        scores.add(_key(prompt), worth)
        lengths.add(_key(prompt), len(response.split()))
    return Scored(model, "people", scores.means(), lengths.means(), looks=looks)


def _of_file(file: Path, by: str) -> Scored:
    scores, lengths = _Means(), _Means()
    judges, columns = set[str](), set[str]()
    groups: dict[str, str] = {}
    for where, row in _rows(file):
        prompt = _key(row.get("prompt"))
        columns |= {name for name in SCORES if name in row}
        if row.get("prompt") is None or not columns & row.keys():
            raise DataError(f"{where}: a row needs `prompt` and one of {', '.join(SCORES)}; it has {', '.join(row)}")
        if len(columns) > 1:
            raise DataError(f"{where}: rows have both `score` and `reward`; leave out the one that is not compared")
        (column,) = columns
        scores.add(prompt, _finite(row[column], where))
        if isinstance(row.get("response"), str):
            lengths.add(prompt, len(row["response"].split()))
        judges.add(str(row.get("judge", "")))
        group = row.get(by)
        if group is not None and groups.setdefault(prompt, str(group)) != str(group):
            raise DataError(f"{where}: its prompt is in the group {group}, in a row before in {groups[prompt]}")
    if len(judges) > 1:
        raise DataError(f"{file}: rows of several judges ({', '.join(sorted(judges))}); compare those of one")
    if not scores.sums:
        raise DataError(f"{file}: holds no row")
    whole = lengths.sums.keys() == scores.sums.keys()
    return Scored(str(file), judges.pop(), scores.means(), lengths.means() if whole else None, groups)


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, line in lines_of(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a row should be an object, got {type(row).__name__}")
        yield where, row


def _key(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def _finite(value: Any, where: str) -> float:
    """A score as a number. Raises DataError for NaN, infinity and text: a comparison would hide them."""
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number that no float holds
        pass
    raise DataError(f"{where}: a score should be a finite number, got {value!r:.40}")
