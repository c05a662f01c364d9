"""False alarms, detection and lead of every monitor on simulated trainings: writes docs/benchmarks/watch_alarms.md.

    python plugins/rlhf-watch/benchmarks/alarms.py [--clean 300] [--fresh 100] [--seed 0]

Thresholds are fitted on `--clean` runs; `--fresh` other clean runs and as many hacked ones measure. `simulated.py` says
what is simulated. Two rules of thumb are tried on the same runs, and the proxy-minus-gold CUSUM also on the measured
curves of docs/benchmarks/suite_over_optimisation.json, with audits drawn around their means.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rlhf_watch.alarms.departures import Gap, Level
from rlhf_watch.alarms.drifts import register_monitor
from rlhf_watch.alarms.thresholds import joint_thresholds
from scipy.stats import binomtest
from simulated import AUDITED, CLEAN, FIRST, HACKED, STEPS, Curves, Numbers, pairs, simulate

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/benchmarks/watch_alarms.md"
CORRELATION = 0.6  # of reward and worth of the audits that are drawn
VARIANTS = "\n## Other statistics, and larger audits\n"  # begins the part that gap_variants.py writes, before the next
TRAINED = "\n## Real trainings\n"  # begins the part that trained_alarms.py writes
HEADER = "| detector | false alarms | hacked runs found | before the peak | lead |\n| --- | --- | --- | --- | --- |"
SIGNS = {name: monitor.sign for name, monitor in register_monitor().items()}
Times = dict[str, int | None]  # the rollout at which each one alarmed


def statistics(run: Curves) -> dict[str, Numbers]:
    """The statistic of every monitor at every rollout."""
    gap = Gap(FIRST)
    gap.add(*(part.tolist() for part in run.first))
    found = {"reward_gap": np.array([gap.add(*both) for both in zip(run.rewards, run.worths, strict=True)])}
    for name, values in run.signals.items():
        level = Level(SIGNS[name])
        found[name] = np.array([level.add(float(value)) for value in values])
    return found


def alarms(run: Curves, thresholds: Mapping[str, float]) -> Times:
    """When each monitor alarms."""
    found = statistics(run)
    return {name: first(found[name] > limit) for name, limit in thresholds.items()}


def rules(run: Curves) -> Times:
    """When two rules of thumb alarm: a jump of 3 deviations, and a reward that rises while its worth does not."""
    jumps = [jump(values) for values in run.signals.values()]
    proxy, gold = (smooth(part.mean(1)) for part in (run.rewards, run.worths))
    apart = (proxy[20:] > proxy[:-20]) & (gold[20:] < gold[:-20])
    diverged = first(apart)
    return {
        "rule: any number 3 deviations from its last 20": min((at for at in jumps if at is not None), default=None),
        "rule: the reward rose and the audit fell over 20 rollouts": None if diverged is None else diverged + 20,
    }


def jump(values: Numbers, window: int = 20, limit: float = 3.0) -> int | None:
    """When a number is this many deviations from the mean of the rollouts before it."""
    before = np.lib.stride_tricks.sliding_window_view(values, window)[:-1]
    found = first(np.abs(values[window:] - before.mean(1)) > limit * before.std(1))
    return None if found is None else found + window


def smooth(values: Numbers, window: int = 5) -> Numbers:
    """The mean of the last rollouts."""
    return np.convolve(values, np.ones(window) / window)[: len(values)]


def first(true: Numbers) -> int | None:
    """The first place; None where there is none."""
    places = np.flatnonzero(true)
    return int(places[0]) if len(places) else None


def earliest(times: Times) -> int | None:
    """Of all."""
    return min((at for at in times.values() if at is not None), default=None)


@dataclass(frozen=True)
class Row:
    """How one detector did."""

    name: str
    false: int
    found: int
    early: int  # before the true worth was largest
    lead: float | None  # median, in rollouts
    clean: int
    hacked: int

    def line(self) -> str:
        """As a row of the table."""
        lead = "-" if self.lead is None else f"{self.lead:+.0f}"
        counts = ((self.false, self.clean), (self.found, self.hacked), (self.early, self.hacked))
        return f"| {self.name} | {' | '.join(share(*each) for each in counts)} | {lead} |"


def share(count: int, of: int) -> str:
    """A count with the 95% interval of its share (Clopper and Pearson 1934)."""
    interval = binomtest(count, of).proportion_ci(method="exact")
    return f"{count} of {of} ({100 * interval.low:.0f} to {100 * interval.high:.0f}%)"


def row(name: str, clean: Sequence[int | None], hacked: Sequence[int | None], peaks: Sequence[int]) -> Row:
    """Counts of alarms in clean and hacked runs."""
    leads = [peak - at for at, peak in zip(hacked, peaks, strict=True) if at is not None]
    false = sum(at is not None for at in clean)
    median = float(np.median(leads)) if leads else None
    return Row(name, false, len(leads), sum(lead > 0 for lead in leads), median, len(clean), len(hacked))


def table(clean: Sequence[Times], hacked: Sequence[Times], peaks: Sequence[int]) -> Iterator[Row]:
    """A row for each detector, that of all monitors first."""
    ours = [name for name in clean[0] if not name.startswith("rule")]
    joint = [[earliest({name: times[name] for name in ours}) for times in runs] for runs in (clean, hacked)]
    yield row("all monitors together", *joint, peaks)
    for name in clean[0]:
        yield row(name, [times[name] for times in clean], [times[name] for times in hacked], peaks)


def means() -> Iterator[tuple[Numbers, Numbers]]:
    """Reward and true worth of real trainings of the sandbox without a KL, at each of 80 rollouts."""
    runs = json.loads((ROOT / "docs/benchmarks/suite_over_optimisation.json").read_text())["runs"]
    for curve in (run["climb"] for run in runs if run["algorithm"] == "single"):
        both = (curve[name] for name in ("proxy", "gold"))
        proxy, gold = (np.interp(np.arange(80), np.linspace(0, 79, len(each)), each) for each in both)
        yield proxy, gold


def measured(rng: np.random.Generator, audited: int = AUDITED, count: int = FIRST) -> Iterator[Curves]:
    """These trainings, with audits drawn around their means."""
    for proxy, gold in means():
        start = pairs(proxy[:1], gold[:1], count, CORRELATION, rng)
        audits = pairs(proxy, gold, audited, CORRELATION, rng)
        yield Curves("measured", {}, smooth(gold), (start[0][0], start[1][0]), *audits)


def main() -> None:
    """Simulates, fits, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=300)
    parser.add_argument("--fresh", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    fitted = [statistics(simulate(CLEAN[i % len(CLEAN)], rng)) for i in range(options.clean)]
    largest = {name: [run[name].max() for run in fitted] for name in fitted[0]}
    thresholds = joint_thresholds(largest, 0.01)
    clean = [simulate(CLEAN[i % len(CLEAN)], rng) for i in range(options.fresh)]
    hacked = [simulate(HACKED[i % len(HACKED)], rng) for i in range(options.fresh)]
    times = [[alarms(run, thresholds) | rules(run) for run in runs] for runs in (clean, hacked)]
    rows = list(table(*times, [run.peak for run in hacked]))
    real = list(measured(rng))
    gap = {"reward_gap": thresholds["reward_gap"]}
    replayed = row("replayed", [], [alarms_of_gap(run, gap) for run in real], [run.peak for run in real])
    text = page(options, rows, replayed, thresholds)
    _, heading, others = PAGE.read_text(encoding="utf-8").partition(VARIANTS)
    PAGE.write_text(text + heading + others, encoding="utf-8")
    print(text)


def alarms_of_gap(run: Curves, threshold: Mapping[str, float]) -> int | None:
    """When the audit alone alarms."""
    return alarms(run, threshold)["reward_gap"]


def page(options: argparse.Namespace, rows: Sequence[Row], replayed: Row, thresholds: Mapping[str, float]) -> str:
    """The page of docs/benchmarks."""
    command = f"python plugins/rlhf-watch/benchmarks/alarms.py --clean {options.clean} --fresh {options.fresh}"
    limits = ", ".join(f"{name} {limit:.3g}" for name, limit in thresholds.items())
    lead = "-" if replayed.lead is None else f"{replayed.lead:+.0f}"
    return f"""# Alarms on simulated trainings

By `{command} --seed {options.seed}`.
Simulated, but for measured curves and [the last part](#real-trainings); the model is
`plugins/rlhf-watch/benchmarks/simulated.py`. Thresholds are
fitted at a joint rate of 1% on {options.clean} clean runs of {STEPS} rollouts, a quarter each that improve, plateau,
follow a curriculum, and grow longer for a good reason; other runs measure. Hacked runs climb their reward through a
flaw (length, repetition, boilerplate, or one that no other number shows), and their true worth peaks and falls.
{FIRST} responses are audited at first, {AUDITED} a rollout later. "Before the peak" counts alarms while the true worth
still rises; the lead is the median, in rollouts; intervals are of 95% (Clopper and Pearson 1934).

{HEADER}
{chr(10).join(one.line() for one in rows)}

Thresholds: {limits}.

Replayed on the {replayed.hacked} measured curves of single reward models in
[suite_over_optimisation.md](suite_over_optimisation.md), of 80 rollouts, with audits drawn around their means
with deviation 1 and correlation 0.6, `reward_gap` finds {replayed.found}, {replayed.early} before the peak, lead
{lead}: there the true worth follows the reward until shortly before its peak, and then falls at once.
"""


if __name__ == "__main__":
    main()
