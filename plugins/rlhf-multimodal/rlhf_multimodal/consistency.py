"""The stage `consistency`: whether a reward judges an image as it judges its caption, and whether its parts agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rlhf_multimodal.media import CAPTION, FEATURES, captioned
from rlhf_plugins import (
    DataError,
    DataFormat,
    Group,
    Reward,
    Run,
    RunError,
    Section,
    Stage,
    StageResult,
    hookimpl,
    ratio_interval,
    strict_pairs,
    uses,
    wilson_interval,
)

Gaps = npt.NDArray[np.float64]  # (pairs,): the better response's reward less the worse one's
PARTS = ("text", "visual")
ABOUT = (
    "{pairs} held-out pairs about {images} images. Two readings agree on a pair that they order alike; a tie counts "
    "one half. Intervals are 95% over images. Readings that err independently with the accuracies beside "
    "would agree as `if independent` says: agreement beyond it is consistency, and not accuracy alone."
)


class Estimate(NamedTuple):
    """A share of pairs with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Consistency(Stage, takes={"reward"}):
    """Agreement between modalities: of the reward with an image and with its caption, and of its two parts.

    With the caption the image is blank, and the caption's words are before the prompt: a reward that understands both
    orders two responses alike. Its parts are the dimensions `text` and `visual` of the heads of this package.
    """

    reward: Reward = uses("reward", "model")
    caption: Annotated[str, Field(min_length=1, description="the column with the image's caption")] = CAPTION
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "consistency"

    def run(self, run: Run) -> StageResult:
        """Leaves its table in the report.

        Raises:
            RunError: no held-out pair is strictly ordered, or the reward has no tokenizer.
            DataError: a row has no image or no caption.
        """
        pairs = [pair for group in run.data.test for pair in strict(group)]
        if not pairs:
            raise RunError(f"{self.name}: no held-out pair is strictly ordered")
        judge: Any = run.open("reward", run.spec(self.reward))
        seen = gaps(judge, pairs)
        by_caption = gaps(judge, [captioned(pair, self.caption) for pair in pairs])["reward"]
        numbers: dict[str, int] = {}
        images = np.array([numbers.setdefault(repr(pair.columns[FEATURES]), len(numbers)) for pair in pairs])
        rows = [row("image", "caption", seen["reward"], by_caption, images, run.seed)]
        if set(PARTS) <= seen.keys():
            rows.append(row("text", "visual", seen["text"], seen["visual"], images, run.seed))
        about = ABOUT.format(pairs=len(pairs), images=len(numbers))
        return StageResult(
            sections=[Section("Consistency between modalities", about, [shown(one) for one in rows])],
            metrics={f"{one['of']}_and_{one['and']}": one for one in rows},
        )


def strict(group: Group) -> list[Group]:
    """The strictly ordered pairs of a group, the better response first. Raises DataError where it has no image."""
    if FEATURES not in group.columns:
        raise DataError(f"{group.origin or 'a row'}: has no {FEATURES}: take data of the format with_images")
    return strict_pairs([group])


def gaps(judge: Any, pairs: Sequence[Group]) -> dict[str, Gaps]:
    """The better response's value less the worse one's on every pair, (pairs,), of the reward and of each dimension."""
    better, worse = (judge.encode(pairs, [pair.responses[place] for pair in pairs]) for place in (0, 1))
    found = judge.predict(better.beside(worse))
    each = {"reward": found.reward, **found.dimensions}
    sides = {name: values.view(2, -1) for name, values in each.items()}
    return {name: np.asarray(ours - theirs, dtype=np.float64) for name, (ours, theirs) in sides.items()}


def row(of: str, other: str, one: Gaps, two: Gaps, images: npt.NDArray[Any], seed: int) -> Mapping[str, Any]:
    """How two readings of the same pairs agree, and how often each is right."""
    right = [float((np.sign(reading) / 2 + 0.5).mean()) for reading in (one, two)]
    found = estimate(agree(one, two), images, seed)
    chance = right[0] * right[1] + (1 - right[0]) * (1 - right[1])
    return {"of": of, "and": other, **found._asdict(), "independent": chance, "right": right}


def agree(one: Gaps, two: Gaps) -> Gaps:
    """1 where two readings order a pair alike, 0 where they do not, 1/2 where either ties."""
    return np.sign(one) * np.sign(two) / 2 + 0.5


def estimate(values: Gaps, clusters: npt.NDArray[Any], seed: int) -> Estimate:
    """The mean of shares, with the interval of `ratio_interval` over clusters, within 0 to 1; NaN of one cluster.

    Where all values are 0, or all 1, each draw is the same: the interval is then Wilson's (1927) over clusters.
    """
    _, codes = np.unique(clusters, return_inverse=True)
    if values.mean() in (0, 1):
        n = int(codes.max()) + 1
        return Estimate(float(values.mean()), *wilson_interval(float(values.mean()), n))
    mean, low, high = ratio_interval(np.bincount(codes, values), np.bincount(codes), seed)
    return Estimate(mean, float(np.maximum(low, 0)), float(np.minimum(high, 1)))


def shown(found: Mapping[str, Any]) -> dict[str, str]:
    """A row as the report has it."""
    of, other, (first, second) = found["of"], found["and"], found["right"]
    return {
        "readings": f"{of} and {other}",
        "agree": f"{found['value']:.3f}",
        "95% interval": f"{found['low']:.3f} to {found['high']:.3f}"
        if found["low"] == found["low"]
        else "of one image",
        "if independent": f"{found['independent']:.3f}",
        "right": f"{of} {first:.3f}, {other} {second:.3f}",
    }


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"consistency": Consistency}
