"""What people gave the responses of a suite's policies: a release of ratings that `rlhf collect export` wrote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf_plugins import RunError

Ratings = dict[tuple[str, str], dict[str, float]]  # (run, stage) -> prompt -> mean rating; run by its folder's name


def read(folder: Path) -> Ratings:
    """The mean of all dimensions of each rated response of a policy `RUN#STAGE`, worse ones on purpose left out.

    Raises:
        RunError: the folder holds no ratings.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.glob("*.jsonl")):
        # `splitlines` would cut at U+2028, which JSON strings may hold
        lines = file.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            for policy, prompt, rating in _of_row(line, f"{file}:{number}"):
                run, _, stage = policy.partition("#")
                found[Path(run).name, stage][prompt].append(rating)
    if not found:
        raise RunError(f"{folder}: no rated response of a policy; it should be what `rlhf collect export` wrote")
    return {who: {prompt: fmean(given) for prompt, given in mine.items()} for who, mine in found.items()}


def _of_row(line: str, where: str) -> Iterator[tuple[str, str, float]]:
    """Policy, prompt and rating of each response."""
    try:
        row: dict[str, Any] = json.loads(line)
        pairs = list(zip(row["responses"], row["origins"], strict=True))
        rated = [([v for k, v in response.items() if k != "text"], origin) for response, origin in pairs]
        for given, origin in rated:
            if "policy" in origin and "negative" not in origin:
                yield str(origin["policy"]), str(row["prompt"]), fmean(given)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{where}: no row of ratings; make the study with `--kind rating`") from error
