"""The pairs of AI feedback beside the true reward, and the share of them that goes to people."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_constitution.agreement import Codes, agreement, by_length, length_controlled
from rlhf_constitution.constitution import Scored
from rlhf_constitution.feedback import Labels, Pair, pairs
from rlhf_constitution.outcome import Ok
from rlhf_constitution.scoring import Scorer
from rlhf_constitution.texts import plain
from rlhf_plugins import Run, Section

Row = dict[str, Any]  # a prompt, its responses, and the score of each


def with_truth(run: Run, rows: Sequence[Row], scored: Sequence[Sequence[Scored]], labels: Labels) -> list[Section]:
    """How far the judge agrees with the true reward on all pairs; nothing where that is not known."""
    gold = run.data.gold
    if gold is None:
        return []
    truth = [[gold(plain(row["prompt"]), text)["total"] for text in row["responses"]] for row in rows]
    every = [pairs(found, Labels(gap=0.0)) for found in scored]
    whole = _Differences(rows, scored, truth, every)
    kept = _Differences(rows, scored, truth, [pairs(found, labels) for found in scored])
    table = [{"pairs of": "all", **whole.all().row()}, {"pairs of": f"a gap of {labels.gap}", **kept.all().row()}]
    table += [{"pairs of": f"principle {name}", **one.row()} for name, one in whole.by_principle()]
    table += [{"pairs of": name, **one.row()} for name, one in whole.by_length()]
    fair = whole.length_controlled()
    text = f"Cohen's kappa with the true reward, 95% intervals. Length-controlled agreement of all pairs: {fair:.3f}."
    return [Section("Agreement with the true reward", text, table)]


def with_people(run: Run, score: Scorer, most: int) -> list[Section]:
    """How far the judge agrees with held-out pairs that people ordered; nothing where there are none to judge."""
    ordered = [(group, pair) for group in run.data.test for pair in group.comparisons if not pair.tied][:most]
    if not ordered:
        return []
    texts = [(g.prompt, g.responses[p.better], g.responses[p.worse]) for g, p in ordered]
    prompts, better, worse = map(list, zip(*texts, strict=True))
    scored = list(zip(prompts, score(prompts, better), score(prompts, worse), strict=True))
    known = [(prompt, a.key, b.key) for prompt, a, b in scored if None not in (a.satisfaction, b.satisfaction)]
    keys = [(a, b) for _, a, b in known]
    draw = random.Random(0)
    turned = [draw.choice((1.0, -1.0)) for _ in keys]  # kappa needs pairs in an order that has nothing to do with them
    judged = [side * ((a > b) - (a < b)) for side, (a, b) in zip(turned, keys, strict=True)]
    codes = _codes([plain(prompt) for prompt, *_ in known])
    found = agreement(np.array(judged, dtype=float), np.array(turned), prompts=codes)
    tied = sum(a == b for a, b in keys)
    row = {**found.row(), "ties of the judge": tied, "not scored": len(ordered) - len(keys)}
    return [Section("Agreement with people", f"On {len(ordered)} held-out pairs that people ordered.", [row])]


def _codes(names: Sequence[str]) -> Codes:
    """0, 1, ... by name."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([places[name] for name in names], dtype=np.int64)


class _Differences:
    """Differences of judged and of true scores, of pairs in an order that has nothing to do with them."""

    def __init__(
        self, rows: Sequence[Row], scored: Sequence[Sequence[Scored]], truth: Any, found: Sequence[Sequence[Pair]]
    ) -> None:
        self.scored = scored
        draw = random.Random(0)
        self.places = [
            (row, *((one.better, one.worse) if draw.random() < 0.5 else (one.worse, one.better)))
            for row, of_prompt in enumerate(found)
            for one in of_prompt
        ]
        better = {(row, one.better, one.worse) for row, of_prompt in enumerate(found) for one in of_prompt}
        self.judged = np.array([1.0 if place in better else -1.0 for place in self.places])
        self.gold = np.array([truth[row][a] - truth[row][b] for row, a, b in self.places])
        self.prompts = _codes([plain(rows[row]["prompt"]) for row, *_ in self.places])
        counts = [[float(len(text.split())) for text in row["responses"]] for row in rows]
        self.words = np.array([counts[row][a] - counts[row][b] for row, a, b in self.places])

    def all(self) -> Any:
        """The agreement of judge and truth on all pairs."""
        return agreement(self.judged, self.gold, prompts=self.prompts)

    def by_length(self) -> Iterator[tuple[str, Any]]:
        """The agreement of judge and truth in each quartile of the difference in length, with its name."""
        return by_length(self.judged, self.gold, self.words, self.prompts)

    def length_controlled(self) -> float:
        """See `agreement.length_controlled`."""
        return length_controlled(self.judged, self.gold, self.words)

    def by_principle(self) -> Iterator[tuple[str, Any]]:
        """Each principle as if it were the only one."""
        for name in self.scored[0][0].outcomes if self.scored and self.scored[0] else ():
            values = [
                (self.scored[row][a].outcomes[name], self.scored[row][b].outcomes[name]) for row, a, b in self.places
            ]
            judged = [a.value - b.value if isinstance(a, Ok) and isinstance(b, Ok) else 0.0 for a, b in values]
            yield name, agreement(np.array(judged), self.gold, prompts=self.prompts)


def for_people(chosen: Sequence[Sequence[Pair]], share: float, seed: int) -> set[tuple[int, int]]:
    """Which pairs people judge, as (prompt, place): half the least confident, half drawn at random."""
    places = [(row, place) for row, found in enumerate(chosen) for place in range(len(found))]
    count = round(share * len(places))

    def sure(place: tuple[int, int]) -> tuple[float, float]:
        one = chosen[place[0]][place[1]]
        return one.confidence, one.probability

    least = set(sorted(places, key=sure)[: (count + 1) // 2])
    left = [place for place in places if place not in least]
    return least | set(random.Random(seed).sample(left, min(count // 2, len(left))))


def write_for_people(
    file: Path, rows: Sequence[Row], chosen: Sequence[Sequence[Pair]], picked: set[tuple[int, int]]
) -> None:
    """Rows as `rlhf collect new --prompts` reads them: a prompt and two responses, in a random order."""
    draw, lines = random.Random(len(picked)), []
    for row, place in sorted(picked):
        one = chosen[row][place]
        sides = [rows[row]["responses"][one.better], rows[row]["responses"][one.worse]]
        draw.shuffle(sides)
        lines.append(json.dumps({"prompt": plain(rows[row]["prompt"]), "response_a": sides[0], "response_b": sides[1]}))
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
