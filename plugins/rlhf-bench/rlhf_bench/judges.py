"""Who gave the scores of a suite's runs, and what to know of them. It opens a saved judge's run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_bench.apart import HELD_OUT, OF_OTHERS
from rlhf_plugins import Base, Data, RlhfError, RunError, RunRecord, component, open_run

Row = dict[str, Any]
GOLD = "gold reward"  # what the stage `evaluate` calls the true reward
WINS = "reward_wins"  # the task that counts how often an algorithm's own reward prefers it to the base
TRAINED_ON = "a policy that was trained on its judge is favoured"
JUDGED = {  # what to know of scores by each other kind of judge
    "reward model": "a reward model favours a policy that was trained on it",
    "pairs": "a score is the probability that a response is better than the reference's",
    "loss": "of held-out answers, so that it says nothing of what a policy writes",
}


def measured(record: RunRecord, known: dict[str, list[int] | None]) -> Row:
    """What a row says of the judge of a finished run.

    Args:
        known: what saved judges share with rows that were read before; filled.
    """
    report, results = record.report, record.finished
    judge = next(result for result in reversed(results) if result.evaluation).evaluation
    assert judge is not None
    of = report.judge
    stage = of.stage if of else ""
    spec = record.recipe["stages"][-1].get("reward") or {}
    where = spec.get("path") or spec.get("url")
    places = [place for place, result in enumerate(results) if result.name == stage]
    row: Row = {
        "judge": judge.judge,
        "judge_kind": of.kind if of else None,
        "judge_name": f"{spec['use']} {where}" if where else of.name if of else "",
        "judge_served": "url" in spec,
        "judge_stage": stage,
        "judge_digest": of.digest if of else "",
        "judge_after": bool(places) and not any(result.policies for result in results[places[0] :]),
        "judge_accuracy": _accuracy(record) if of and of.kind != "gold" else None,
        "judge_left_out": sum(_left_out(results[place].report.left_out) for place in places),
    }
    return row | ({"judge_shares": _shares(spec["path"], record, known)} if spec.get("use") == "saved" else {})


def _shares(path: str, record: RunRecord, known: dict[str, list[int] | None]) -> list[int] | None:
    """`shared` of a run, once for all runs on the same rows."""
    rows = json.dumps([path, *(record.recipe[key] for key in ("base", "data", "seed"))])
    if rows not in known:
        known[rows] = shared(path, record.data())
    return known[rows]


def _accuracy(record: RunRecord) -> list[float] | None:
    """The share of held-out pairs that the judge orders as they are, and their number."""
    found = record.report.reward_model
    return None if found is None or found.accuracy is None else [found.accuracy, found.n]


def _left_out(counts: Mapping[str, int]) -> int:
    return sum(count for reason, count in counts.items() if reason.endswith((OF_OTHERS, HELD_OUT)))


def shared(path: str, rows: Data) -> list[int] | None:
    """How many prompts that policies learn from a saved judge's run trained on, and of how many; None: unknown."""
    try:
        seen = prompts(learned(path))
    except RlhfError:
        return None
    own = prompts(rows)
    return [len(own & seen), len(own)]


def learned(path: str) -> Data:
    """The rows of the stage that trained a saved reward model, read again. Raises RlhfError where no run has it."""
    folder, _, name = path.partition("#")
    record = open_run(folder)
    made = [result.name for result in record.finished if result.rewards and name in ("", result.name)]
    if not made:
        raise RunError(f"{path}: no stage of that run trained a reward model")
    spec = next((stage.get("data") for stage in record.recipe["stages"] if stage["name"] == made[-1]), None)
    if spec is None:
        return record.data()
    options = {key: value for key, value in spec.items() if key != "format"}
    found: Data = component("data_format", spec["format"], **options).load(
        Base(record.recipe["base"]), record.recipe["seed"]
    )
    return found


def prompts(data: Data) -> set[str]:
    """The words of each prompt to train on."""
    return {group.prompt_words for group in (*data.train, *data.prompts.get("train", ()))}


def scored(rows: Sequence[Row]) -> str:
    """What the scores of finished runs are called: the gold reward where the truth gave all of them."""
    given = {row.get("judge", GOLD) for row in rows if row["status"] == "finished"}
    return GOLD if given <= {GOLD} else "score"


def who(row: Row) -> str:
    """Who gave a run's scores."""
    stage, name = row.get("judge_stage"), row.get("judge_name")
    if row["judge"] == GOLD:
        return "the true reward"
    if stage:
        return f"the reward model of stage `{stage}`"
    if row.get("judge_kind") == "loss" and name:
        return f"the {name}"
    if row.get("judge_kind") == "pairs":
        return f"the judge `{name}`"
    return f"the reward `{name}`" if name else str(row["judge"])


def notes(rows: Sequence[Row]) -> Iterator[str]:
    """What to know of each judge that is not the truth, and whether all algorithms of a task had the same one."""
    judged: dict[str, list[Row]] = {}
    for row in rows:
        judged.setdefault(who(row), []).append(row)
    for name, mine in sorted(judged.items()):
        if mine[0]["judge"] != GOLD:
            tasks = dict.fromkeys(row["task"] for row in mine)
            on = f" on {', '.join(tasks)}" if len(judged) > 1 else ""
            yield f"Judged{on} by {name}: {'; '.join(_known(mine))}."
    yield from _unlike(rows)


def _known(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    kind = first.get("judge_kind") or ""
    opened = kind in ("reward model", "pairs") and not first.get("judge_stage")
    if first.get("judge_after"):
        yield "trained after the policies, none of which was trained on it, on prompts that none of them learned from"
        if lost := max(row.get("judge_left_out", 0) for row in rows):
            yield f"up to {lost} of its own rows were left out for that"
    elif opened or first.get("judge_served"):
        yield from _of_others(rows)
    else:
        yield JUDGED.get(kind, TRAINED_ON)
    if accurate := [row["judge_accuracy"] for row in rows if row.get("judge_accuracy")]:
        share = sum(share for share, _ in accurate) / len(accurate)
        yield f"it orders {share:.0%} of {max(n for _, n in accurate):.0f} held-out pairs as they were judged"
    if len({row.get("judge_digest") for row in rows}) > 1:
        yield "each seed has its own, on its own scale, so that gains and wins can be compared and scores less so"


def _of_others(rows: Sequence[Row]) -> Iterator[str]:
    """Says of a judge from outside the suite whether it was trained on prompts that policies learn from."""
    if rows[0].get("judge_kind") == "pairs":
        yield JUDGED["pairs"]
    found = [row.get("judge_shares") for row in rows]
    known = [pair for pair in found if pair is not None]
    if len(known) < len(found):
        yield "what it was trained on is not known here"
        return
    most, of = max(known, key=lambda pair: pair[0])
    yield f"its run trained on {f'{most} of' if most else 'none of'} the {of} prompts that policies learn from"


def _unlike(rows: Sequence[Row]) -> Iterator[str]:
    """The tasks and seeds whose algorithms were judged by different weights."""
    found: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        if row.get("judge_after"):
            found.setdefault((row["task"], row["seed"]), set()).add(row["judge_digest"])
    for (task, seed), digests in found.items():
        if len(digests) > 1:
            yield f"{task}, seed {seed}: the judge is not the same under all algorithms, so that gains say little."


def over_optimised(lines: Sequence[Any], key: str) -> Iterator[str]:
    """How often each algorithm is above the base by the reward that it was trained on, and by the judge."""
    for line in lines:
        own, judge = line.means.get(key), line.means.get("win_rate")
        if own is not None and judge is not None:
            turned = ": over-optimised, or within what chance makes" if own > 0.5 >= judge else ""
            yield (
                f"{line.task}, {line.algorithm}: {own:.0%} of its responses are above the base's by the reward that it "
                f"was trained on, and {judge:.0%} by the judge{turned}."
            )
