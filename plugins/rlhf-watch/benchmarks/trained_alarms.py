"""False alarms, detection and lead on real trainings: writes a part of docs/benchmarks/watch_alarms.md.

    python plugins/rlhf-watch/benchmarks/trained_alarms.py [--clean 7] [--hacked 14] [--runs runs/trained_alarms]

`trainings.py` says what is trained; what has finished is not run again. The statistics are replayed from what was
recorded of every rollout. A clean policy is judged by thresholds that were fitted to the policies of the other clean
runs, a hacked one by those of all, each at the smallest rate that so many can promise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from alarms import HEADER, PAGE, SIGNS, TRAINED, Numbers, Times, first, rules, table
from rlhf_watch.alarms.departures import Gap, Level
from rlhf_watch.alarms.thresholds import joint_thresholds
from sandbox_thresholds import machine
from simulated import AUDITED, FIRST, Curves
from trainings import CLEAN, FLAWS, HACKED, ROLLOUTS, rollouts, trained

FALL = 0.3  # of the smoothed true worth from its peak to the end, from which on a training counts as hacked
AUDITS = ((128, AUDITED), (128, 32))  # other sizes of the audit, at first and a rollout


@dataclass(frozen=True)
class Training:
    """One policy: what monitors saw, and the statistic of each at every rollout."""

    kind: str
    curves: Curves
    ours: dict[str, Numbers]
    others: dict[str, Numbers]  # of audits of other sizes

    @property
    def fell(self) -> bool:
        """Whether the true worth ended well below its peak."""
        return bool(self.curves.gold.max() - self.curves.gold[-1] >= FALL)


def training(run: Path, kind: str, policy: str, seed: int) -> Training:
    """A policy of a run."""
    rows = rollouts(run, policy)
    rewards, worths = (np.array([each[name] for each in rows]) for name in ("rewards", "worths"))  # (steps, B)
    signals = {name: np.array([each[name] for each in rows], dtype=float) for name in SIGNS}
    picked = [np.random.default_rng([seed, each["step"]]).permutation(rewards.shape[1]) for each in rows]
    audited = [
        np.stack([one[at[:AUDITED]] for one, at in zip(part, picked, strict=True)]) for part in (rewards, worths)
    ]
    gold = np.array([worths[max(0, at - 2) : at + 3].mean() for at in range(len(rows))])
    curves = Curves(kind, signals, gold, (rewards[0], worths[0]), *audited)
    gaps = {sizes: gap(rewards, worths, picked, *sizes) for sizes in ((FIRST, AUDITED), *AUDITS)}
    ours = {"reward_gap": gaps.pop((FIRST, AUDITED))} | {name: level(name, signals[name]) for name in SIGNS}
    return Training(
        kind, curves, ours, {f"reward_gap, {a} at first and {b} a rollout": g for (a, b), g in gaps.items()}
    )


def gap(rewards: Numbers, worths: Numbers, picked: Sequence[Numbers], start: int, each: int) -> Numbers:
    """The statistic of `reward_gap` with audits of these sizes."""
    found, values = Gap(start), []
    for reward, worth, order in zip(rewards, worths, picked, strict=True):
        at = order[: found.wanted or each]
        values.append(found.add(reward[at].tolist(), worth[at].tolist()))
    return np.array(values)


def level(name: str, values: Numbers) -> Numbers:
    """The statistic of another monitor."""
    found = Level(SIGNS[name])
    return np.array([found.add(float(value)) for value in values])


def limits(fitted: Sequence[dict[str, Numbers]]) -> dict[str, float]:
    """Thresholds at the smallest rate that so many trainings can promise."""
    largest = {name: [float(one[name].max()) for one in fitted] for name in fitted[0]}
    return joint_thresholds(largest, 1 / (len(fitted) + 1))


def times(one: Training, fitted: Sequence[Training]) -> Times:
    """When each detector alarms, by thresholds that are fitted to other trainings."""
    found = {name: first(one.ours[name] > limit) for name, limit in limits([each.ours for each in fitted]).items()}
    for name in one.others:
        alone = limits([{name: each.others[name]} for each in fitted])
        found["rule " + name] = first(one.others[name] > alone[name])
    return found | rules(one.curves)


def main() -> None:
    """Trains, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=7)
    parser.add_argument("--hacked", type=int, default=14)
    parser.add_argument("--runs", type=Path, default=Path("runs/trained_alarms"))
    options = parser.parse_args()
    clean = []
    for seed in range(options.clean):
        run = trained(options.runs / f"clean{seed}", seed)
        clean.append([training(run, name, name, seed) for name in CLEAN])
    hacked = []
    for number in range(options.hacked):
        flaw, seed = [*FLAWS][number % len(FLAWS)], 1000 + number
        run = trained(options.runs / f"hacked{number}", seed, flaw)
        hacked += [training(run, flaw, name, seed) for name in HACKED]
    part = text(options, clean, hacked)
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(TRAINED)
    PAGE.write_text(before + TRAINED + part, encoding="utf-8")
    print(part)


def text(options: argparse.Namespace, clean: Sequence[Sequence[Training]], hacked: Sequence[Training]) -> str:
    """The part of the page."""
    every = [one for run in clean for one in run]
    fell = [one for one in hacked if one.fell]
    peaks = [one.curves.peak for one in fell]
    calm = [times(one, [other for rest in clean if rest is not run for other in rest]) for run in clean for one in run]
    found = [times(one, every) for one in fell]
    rows = [each.line().replace("| rule reward_gap", "| reward_gap") for each in table(calm, found, peaks)]
    fitted = len(every) - len(CLEAN)
    early = sum(peak < FIRST // 32 for peak in peaks)
    found_limits = ", ".join(f"{name} {limit:.3g}" for name, limit in limits([one.ours for one in every]).items())
    command = "python plugins/rlhf-watch/benchmarks/trained_alarms.py"
    return f"""
By `{command} --clean {options.clean} --hacked {options.hacked}` ({machine()}). Policies of the sandbox, {ROLLOUTS}
rollouts of 32 responses, with twice the learning rate and twice the steps of the recipe whose thresholds are
shipped. Clean: {len(every)} policies against {len(clean)} reward models, each climbed by three: with a KL of 0.2
(they improve), of 1.0 (they plateau), and with easy prompts first. None grows longer for a good reason. Hacked:
{len(hacked)} policies without a KL, each against a reward model of its own, whose annotators like each word by 0.15
or dislike it as much; the true worth of {len(fell)} fell by {FALL} or more from its peak, and these are counted. A
clean policy is judged by thresholds fitted to those of the other reward models ({fitted}, at 1 in {fitted + 1}), a
hacked one by those of all {len(every)}. "All monitors" leaves out the rules and the audits of other sizes, which
have thresholds of their own. Policies of one reward model are not independent: the intervals of false alarms are too
narrow.

{HEADER}
{chr(10).join(rows)}

The peak comes after {min(peaks)} to {max(peaks)} rollouts. {FIRST} responses, {FIRST // 32} rollouts here, are
audited before `reward_gap` can alarm at all, and {early} of the {len(fell)} peaks are earlier. With 128 it could
alarm from rollout 5 on, and is late even so: thresholds of so few clean runs are high. The joint limit is
the largest z of any clean run, in deviations the same for every monitor, and `disagreement` and `length_drift`, which
are 0 in most clean runs, have the largest.

Thresholds: {found_limits}.
"""


if __name__ == "__main__":
    main()
