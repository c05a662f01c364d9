"""The comparison of PPO, DPO and IPO by needs, stability, cost and sensitivity, each beside what the textbook says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rlhf_bench.markup import Table

Bench = dict[str, Any]
THREE = ("ppo", "dpo", "ipo")
MAIN, SEEDS, SWEPT = "three_ways", "stability", "frontier"
ABOUT = (
    "Means over tasks, with the lowest and the highest task in brackets. Then what textbooks say of the three, and "
    "whether the means agree with it; means of few seeds may agree by chance. All three have the same FLOPs by "
    "construction, so that of their cost seconds and memory alone can differ; these are of processes that shared the "
    "machine, and get no verdict."
)
THEORY = (
    "the clipped objective has no theorem of its own (Schulman et al. 2017, section 3); it takes the place of a trust "
    "region, whose bound needs exact advantages and a bounded KL (Schulman et al. 2015, theorem 1)",
    "under Bradley-Terry or Plackett-Luce, each class of equivalent rewards is beta log pi / pi_ref of one policy; "
    "needs pi_ref > 0 everywhere and beta > 0 (Rafailov et al. 2023, theorem 1)",
    "its loss has one minimum, global and local, and needs no Bradley-Terry; needs pairs from all of the support of "
    "pi_ref (Azar et al. 2023, theorem 2)",
)


class Property(NamedTuple):
    """A row: values by algorithm and task, how they are written, and what textbooks say."""

    title: str
    values: Mapping[str, Sequence[float]]
    suite: str
    form: str = ".2f"
    said: str = ""
    agrees: Callable[[Mapping[str, float]], bool] | None = None

    def cells(self) -> list[str]:
        """The cells of this row in the table."""
        means = {name: sum(of) / len(of) for name, of in self.values.items() if of}
        verdict = "-"
        if self.agrees and len(means) == len(THREE):
            verdict = "yes" if self.agrees(means) else "no"
        cells = [self.cell(name) for name in THREE]
        return [self.title, *cells, self.said or "-", verdict, f"`rlhf bench {self.suite}`"]

    def cell(self, name: str) -> str:
        """The mean over tasks, with the lowest and the highest."""
        of = self.values.get(name)
        if not of:
            return "-"
        ends = f" ({min(of):{self.form}} to {max(of):{self.form}})" if len(of) > 1 else ""
        return f"{sum(of) / len(of):{self.form}}{ends}"


def properties(suites: Mapping[str, Bench]) -> Table:
    """The table; a dash where a suite did not run."""
    main, swept = suites.get(MAIN, {}), suites.get(SWEPT, {})
    many = Property("stability over ten seeds", by_task(suites.get(SEEDS, {}), "spread"), SEEDS)
    rows = [each.cells() for each in (*of_lines(main), many, *of_changes(main), of_knobs(swept))]
    theory = ["theory", *THEORY, "all three have guarantees", "-", "-"]
    return Table(
        "PPO, DPO and IPO", ABOUT, ["", *map(str.upper, THREE), "textbooks", "agrees", "made by"], [*rows, theory]
    )


def of_lines(bench: Bench) -> list[Property]:
    """What the runs needed, how seeds differ, and what they cost."""
    values = partial(by_task, bench)
    rose = values("converged_seconds")
    return [
        Property("responses rewarded: needs a reward model", values("reward_calls"), MAIN, ".0f", "PPO alone", alone),
        Property("tokens sampled in training: online", values("generated_tokens"), MAIN, ".0f", "PPO alone", alone),
        Property("stability: sd of gold over seeds", values("spread"), MAIN, ".2f", "PPO medium, others high", highest),
        Property("cost: seconds", values("seconds"), MAIN, ".0f", "PPO least efficient"),
        Property(f"cost: seconds until 90% of the way{_some(bench, rose)}", rose, MAIN, ".0f"),
        Property("cost: peak memory, GiB", values("peak_bytes", 2**30), MAIN, ".2f", "PPO most"),
        Property("cost: tokens a second", values("tokens_per_second"), MAIN, ".0f"),
    ]


def by_task(bench: Bench, key: str, unit: float = 1.0) -> dict[str, list[float]]:
    """A number of each algorithm's lines, on the tasks on which all that the suite has of the three ran."""
    names = [name for name in THREE if name in bench.get("algorithms", ())]
    found = {
        (line["task"], line["algorithm"]): line["means"].get(key, line.get(key)) for line in bench.get("lines", ())
    }
    whole = [task for task in bench.get("tasks", ()) if all(found.get((task, name)) is not None for name in names)]
    return {name: [found[task, name] / unit for task in whole] for name in names}


def _some(bench: Bench, values: Mapping[str, Sequence[float]]) -> str:
    """On how many tasks the values are, where not on all."""
    count = max(map(len, values.values()), default=0)
    return f", {count} of {len(bench['tasks'])} tasks" if 0 < count < len(bench["tasks"]) else ""


def of_changes(bench: Bench) -> list[Property]:
    """How gold changes on tasks that are read against another."""
    against: dict[str, None] = dict.fromkeys(change["against"] for change in bench.get("changes", ()))
    return [
        Property(
            f"robustness: gold less that on {other}",
            {
                name: [
                    change["change"]["mean"]
                    for change in bench["changes"]
                    if (change["against"], change["algorithm"]) == (other, name)
                ]
                for name in THREE
            },
            MAIN,
            "+.2f",
        )
        for other in against
    ]


def of_knobs(bench: Bench) -> Property:
    """How far gold varies over the values of an algorithm's own knob."""
    found = {
        name: [one["sensitivity"] for one in bench.get("frontiers", ()) if one["algorithm"] == name] for name in THREE
    }
    title = "sensitivity: highest less lowest gold over the knob's values"
    return Property(title, found, SWEPT, ".2f", "PPO high, others low", highest)


def alone(means: Mapping[str, float]) -> bool:
    """Whether PPO alone has any."""
    return means["ppo"] > 0 == means["dpo"] == means["ipo"]


def highest(means: Mapping[str, float]) -> bool:
    """Whether PPO has the most."""
    return means["ppo"] > max(means["dpo"], means["ipo"])
