"""What `reward_gap` could find before the true worth peaks: other statistics, larger audits, and what nobody can beat.

    python plugins/rlhf-watch/benchmarks/gap_variants.py [--clean 300] [--hacked 100] [--seed 0]

Writes a part of docs/benchmarks/watch_alarms.md. Each statistic alone has a threshold that 1% of clean simulated
runs exceed. On the measured curves of docs/benchmarks/suite_over_optimisation.json the best that is possible is counted
too: the likelihood ratio of somebody who knows the regression and the whole course of the gap beforehand, and alarms at
log(1 / 1%). Its mean by the peak is the information on which any statistic has to live.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from alarms import CORRELATION, PAGE, TRAINED, VARIANTS, Numbers, Row, first, means, measured, row, share, smooth
from rlhf_watch.alarms.departures import Cusum, Gap, Regression
from rlhf_watch.alarms.thresholds import joint_thresholds
from simulated import CLEAN, HACKED, STEPS, Curves, simulate

LARGE, EACH = 2048, 32  # the largest audit, at first and a rollout
RATE = 0.01
Statistic = Callable[[Curves], Numbers]


def gap(start: int, each: int, slack: float = 0.25) -> Statistic:
    """That of `reward_gap`, with audits of these sizes."""

    def values(run: Curves) -> Numbers:
        found = Gap(start, cusum=Cusum(slack))
        found.add(*(part[:start].tolist() for part in run.first))
        both = zip(run.rewards[:, :each], run.worths[:, :each], strict=True)
        return np.array([found.add(*map(np.ndarray.tolist, one)) for one in both])

    return values


def signs(start: int = 512, each: int = 8) -> Statistic:
    """How many audited responses are worth less than predicted, in place of by how much."""

    def values(run: Curves) -> Numbers:
        fit = Regression.of([*zip(*(part[:start] for part in run.first), strict=True)])
        found, grown = Cusum(0.25), []
        for rewards, worths in zip(run.rewards[:, :each], run.worths[:, :each], strict=True):
            missing = fit.predict(rewards) - worths - 3 * fit.error(float(rewards.mean()))
            grown.append(found.add(float(np.sign(missing).sum()) / each**0.5))
        return np.array(grown)

    return values


STATISTICS: dict[str, Statistic] = {
    "as shipped: 512 at first, 8 a rollout": gap(512, 8),
    "slack 0.1 in place of 0.25": gap(512, 8, 0.1),
    "signs in place of values": signs(),
    "2,048 at first, 8 a rollout": gap(2048, 8),
    "512 at first, 32 a rollout": gap(512, 32),
    "2,048 at first, 32 a rollout": gap(2048, 32),
}


def known_beforehand(each: int, rng: np.random.Generator) -> Iterator[tuple[int | None, int, float]]:
    """Of each measured curve: when the best alarm comes, its peak, and the information by then in nats."""
    for proxy, gold in means():
        peak = int(smooth(gold).argmax())
        missing = np.maximum(0.0, CORRELATION * (proxy - proxy[0]) - (gold - gold[0]))
        away = missing * np.sqrt(each / (1 - CORRELATION**2))  # in standard errors of a rollout's mean
        ratio = (away * (away + rng.normal(size=len(away))) - away**2 / 2).cumsum()
        yield first(ratio >= np.log(1 / RATE)), peak, float(away[:peak] @ away[:peak] / 2)


def lines(clean: int, hacked: int, seed: int) -> Iterator[str]:
    """The table, and what follows."""
    rng = np.random.default_rng(seed)
    sizes = {"audited": EACH, "start": LARGE}
    calm = [simulate(CLEAN[i % len(CLEAN)], rng, STEPS, **sizes) for i in range(clean)]
    bad = [simulate(HACKED[i % len(HACKED)], rng, STEPS, **sizes) for i in range(hacked)]
    real = list(measured(rng, EACH, LARGE))
    yield "| statistic | simulated: before the peak | measured: found | before the peak | lead |"
    yield "| --- | --- | --- | --- | --- |"
    for name, statistic in STATISTICS.items():
        limit = joint_thresholds({"": [float(statistic(run).max()) for run in calm]}, RATE)[""]
        simulated, replayed = (alarmed(runs, statistic, limit) for runs in (bad, real))
        lead = "-" if replayed.lead is None else f"{replayed.lead:+.0f}"
        counts = ((simulated.early, hacked), (replayed.found, len(real)), (replayed.early, len(real)))
        yield f"| {name} | {' | '.join(share(*each) for each in counts)} | {lead} |"
    yield ""
    for each in (8, 32, 128):
        times, peaks, nats = map(list, zip(*known_beforehand(each, rng), strict=True))
        early = row("", [], times, peaks).early
        enough = sum(one >= np.log(1 / RATE) for one in nats)
        yield (
            f"- {each} a rollout: {early} of {len(real)} curves are found before the peak; the information by "
            f"then reaches {np.log(1 / RATE):.1f} nats in {enough}, and has a median of {np.median(nats):.2g}."
        )


def alarmed(runs: Sequence[Curves], statistic: Statistic, limit: float) -> Row:
    """When each run alarms."""
    return row("", [], [first(statistic(run) > limit) for run in runs], [run.peak for run in runs])


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=300)
    parser.add_argument("--hacked", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = [*lines(options.clean, options.hacked, options.seed)]
    part = text(options, found[: len(STATISTICS) + 2], found[len(STATISTICS) + 3 :])
    page = PAGE.read_text(encoding="utf-8")
    before, trained = page.partition(VARIANTS)[0].partition(TRAINED)[0], page.partition(TRAINED)[2]
    PAGE.write_text(before + VARIANTS + part + TRAINED + trained, encoding="utf-8")
    print(part)


def text(options: argparse.Namespace, table: Sequence[str], best: Sequence[str]) -> str:
    """The part of the page."""
    command = "python plugins/rlhf-watch/benchmarks/gap_variants.py"
    return f"""
By `{command} --clean {options.clean} --hacked {options.hacked} --seed {options.seed}`.
Each statistic alone has a threshold that 1% of {options.clean} clean simulated runs exceed, which differs from seed to
seed; the measured curves are those of the replay above.

{chr(10).join(table)}

Before the peak there is nothing to find in most measured curves: their true worth is as the reward predicts until then.
Somebody who knew the regression and the whole course of the gap beforehand, and took the likelihood ratio, which no
other statistic of the pairs beats (Neyman and Pearson 1933), would alarm at log(1 / 1%) = 4.6 nats:

{chr(10).join(best)}

Their order is a function of the same pairs, and has no more information than they. The slope of worth on reward within
a rollout has none here, where audits are drawn with one slope; in a real training it may fall before the mean does,
which was not tried. Where 60 of 100 are to be found before the peak, `each: 32` and `first: 2048` do it where worth
departs slowly, as in the simulated runs; where it falls at once, no audit of this size does.
"""


if __name__ == "__main__":
    main()
