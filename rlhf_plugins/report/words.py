"""Measured numbers in the words of tables and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

NONE = "-"
TASKS = "Tasks"  # the title of the section with an evaluation's tasks
PARTS = "Parts of the reward"  # and of that with the parts of what judged
FEWEST = 10  # values below which an interval says nothing
FEW = 50  # values below which an interval is itself uncertain


def number(value: float | None, digits: int = 3) -> str:
    """A fixed-point number; never a negative zero."""
    return NONE if value is None else f"{value:z.{digits}f}"


def share(value: float | None) -> str:
    """A share of 1 as a percentage with one decimal."""
    return NONE if value is None else f"{value:z.1%}"


def wide(n: int) -> str:
    """`n = 12: the interval is wide`, of few values; empty of more."""
    return f"n = {n}: the interval is wide" if n < FEW else ""


def called(spec: Mapping[str, object]) -> str:
    """A component by its name and options: `python score.py:score`."""
    return " ".join(str(value) for value in spec.values() if value is not None)


def handed(lineage: str) -> str:
    """What a stage opened, `dpo.policies.dpo`, in words: `policy dpo`, with the stage where its name is another."""
    for part, word in ((".policies.", "policy"), (".rewards.", "reward model")):
        stage, found, name = lineage.partition(part)
        if found:
            return f"{word} {name}" if name == stage else f"{word} {name} of {stage}"
    return f"base of {stage}" if (stage := lineage.removesuffix(".base")) != lineage else lineage


def p_value(value: float | None) -> str:
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def memory(size: int | None) -> str:
    """Bytes in binary units: MiB below 1 GiB, GiB above."""
    if size is None:
        return NONE
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def count(value: float | None) -> str:
    """A whole number with separated thousands; `-` for zero."""
    return f"{value:,.0f}" if value else NONE


def flops(value: float | None) -> str:
    """Floating-point operations as a power of ten."""
    if not value:
        return NONE
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def cell(value: object) -> str:
    """A value of a table whose columns are not known before."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value.is_integer() and 1 < abs(value) < 1e6:  # a count that JSON or a metric holds as a float
            return f"{value:,.0f}"
        return number(value) if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def seconds(value: float | None) -> str:
    """Seconds as a plain number, with a decimal below 10."""
    return NONE if value is None else f"{value:.{0 if value >= 10 else 1}f}"


def duration(value: float | None) -> str:
    """Seconds for reading: `0.4 s`, `42 s`, `3 min 5 s`, `2 h 14 min`."""
    if value is None:
        return NONE
    if value < 60:
        return f"{seconds(value)} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def elapsed(span: timedelta) -> str:
    return duration(max(span.total_seconds(), 0.0))
