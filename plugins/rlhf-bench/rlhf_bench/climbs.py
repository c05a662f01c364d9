"""How gold goes with KL while an algorithm climbs its reward: where it is highest, where it ends, and Gao's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any, NamedTuple

from rlhf_bench.intervals import Estimate, estimate
from rlhf_bench.laws import LEAST_KL, Curve, Fit, fit, gains, mean_curve, moving_mean
from rlhf_bench.markup import Table, number, shown
from rlhf_bench.suite import Suite
from rlhf_plugins import StageResult

CURVES = {"kl": "kl", "gold": "gold_reward", "proxy": "reward"}  # our name of each curve -> an online stage's
DIGITS = 4
ABOUT = (
    "Of what online stages sampled as they trained, those that end an algorithm and start from their reference: the "
    "reward that is climbed (proxy) and the true one (gold), at the first logged step and then as moving means over "
    "5. Beside is the difference from the baseline, seed by seed, not corrected for their number. Gao's form, d (a - b "
    "log d) with d = sqrt(KL), is fitted to the mean curve of the seeds at the same KL, as far as the median seed "
    "goes; its top is named where it lies within (Gao et al. 2022)."
)
HEADER = (
    "task", "algorithm", "proxy, start to end", "gold at the start", "highest", "beside", "at KL", "at the end",
    "beside", "at KL", "a", "b", "R squared", "of the median seed", "top at KL",
)  # fmt: skip


class Course(NamedTuple):
    """One seed's gold at its first point, and of moving means where it is highest and at its end, with the KL there."""

    start: float
    highest: float
    end: float
    kl_highest: float
    kl_end: float
    proxy_start: float
    proxy_end: float


@dataclass(frozen=True)
class Climb:
    """An algorithm on a task: means over seeds."""

    task: str
    algorithm: str
    course: Course
    highest: Estimate | None  # less the baseline's, seed by seed; None of the baseline itself
    end: Estimate | None
    fit: Fit | None  # the form `rl` fitted to the mean curve; None where too few points have a KL
    of_seeds: float | None  # the median R squared of each seed's own fit

    def record(self) -> dict[str, Any]:
        """Returns the fields as a dictionary that JSON can hold."""
        parts = {name: getattr(self, name) for name in ("course", "highest", "end", "fit")}
        return {**asdict(self), **{name: value and value._asdict() for name, value in parts.items()}}


def read(result: StageResult) -> dict[str, list[float]] | None:
    """KL, gold and proxy at each step that logs all three; None where there are none.

    None, too, of a stage that did not start at its reference: Gao's form is of a policy that leaves it.
    """
    if not result.curves.keys() >= set(CURVES.values()):
        return None
    points = {name: dict(result.curves[own].points) for name, own in CURVES.items()}
    steps = sorted(set.intersection(*map(set, points.values())))
    found = {name: [round(float(of[step]), DIGITS) for step in steps] for name, of in points.items()}
    return found if steps and abs(found["kl"][0]) <= LEAST_KL else None


def climbs(suite: Suite, rows: Sequence[Mapping[str, Any]]) -> list[Climb]:
    """One for each task and algorithm whose finished runs all have a curve."""
    found: dict[tuple[str, str], dict[int, Curve | None]] = {}
    for row in rows:
        if row["status"] == "finished":
            found.setdefault((row["task"], row["algorithm"]), {})[row["seed"]] = row["climb"]
    whole = {who: {seed: curve for seed, curve in of.items() if curve} for who, of in found.items()}
    known = {who: of for who, of in whole.items() if len(of) == len(found[who])}
    order = list(suite.tasks)
    return [
        _climb(who, known[who], {} if who[1] == suite.baseline else known.get((who[0], suite.baseline), {}))
        for who in sorted(known, key=lambda who: order.index(who[0]))
    ]


def _climb(who: tuple[str, str], curves: Mapping[int, Curve], baseline: Mapping[int, Curve]) -> Climb:
    own, other = ({seed: course(curve) for seed, curve in of.items()} for of in (curves, baseline))
    mean = Course(*map(fmean, zip(*own.values(), strict=True)))
    highest, end = (_beside(own, other, name) for name in ("highest", "end"))
    return Climb(*who, mean, highest, end, *_fits(list(curves.values())))


def course(curve: Curve) -> Course:
    """What one seed's curve comes to."""
    kl, gold, proxy = (moving_mean(curve[name]).tolist() for name in CURVES)
    top = gold.index(max(gold))
    return Course(curve["gold"][0], gold[top], gold[-1], kl[top], kl[-1], curve["proxy"][0], proxy[-1])


def _beside(own: Mapping[int, Course], other: Mapping[int, Course], name: str) -> Estimate | None:
    """The difference of a number, of the seeds that both have."""
    pairs = [(own[seed], other[seed]) for seed in own if seed in other]
    return estimate([[getattr(one, name) - getattr(base, name)] for one, base in pairs]) if pairs else None


def _fits(curves: Sequence[Curve]) -> tuple[Fit | None, float | None]:
    """Gao's form fitted to the mean curve, and the median R squared over seeds; None, None where a fit fails."""
    try:
        squares = [fit("rl", *gains(curve)).r_squared for curve in curves]
        return fit("rl", *mean_curve(curves)), median(squares)
    except ValueError:
        return None, None


def table(found: Sequence[Climb]) -> Table | None:
    """None where no algorithm climbed."""
    return Table("Gold as the reward is climbed", ABOUT, HEADER, [_row(one) for one in found]) if found else None


def _row(one: Climb) -> list[str]:
    of, law = one.course, one.fit
    top = law.peak_kl if law and law.turns else None
    return [
        one.task,
        one.algorithm,
        f"{of.proxy_start:.2f} to {of.proxy_end:.2f}",
        f"{of.start:.2f}",
        f"{of.highest:.2f}",
        shown(one.highest, "+"),
        f"{of.kl_highest:.2f}",
        f"{of.end:.2f}",
        shown(one.end, "+"),
        f"{of.kl_end:.2f}",
        *(number(law and value, ".3f") for value in (law and law.a, law and law.b)),
        number(law and law.r_squared, ".2f"),
        number(one.of_seeds, ".2f"),
        number(top, ".1f"),
    ]
