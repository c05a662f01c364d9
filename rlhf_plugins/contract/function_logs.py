"""What functions of users log beside their answers (`log_metric`, `log_extra` of TRL), for a training that listens."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import isinf, isnan
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.reward_rows import as_number, is_name

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples, Text


@dataclass
class Heard:
    """What was logged while somebody listened."""

    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    functions: dict[str, str] = field(default_factory=dict)  # the first that logged each number
    _extra: dict[tuple[str, str], dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))

    def means(self) -> dict[str, float]:
        """The mean of each number over the calls that measured it."""
        return {name: sum(values) / len(values) for name, values in self.metrics.items() if values}

    def extra(self, prompt: Text, response: str) -> Mapping[str, Any]:
        """The values of a response by column; of equal responses to a prompt those of the last."""
        return self._extra.get((str(prompt), response), {})

    def keep(self, samples: Samples, column: str, values: Sequence[Any]) -> None:
        """Keeps a value of each response."""
        for prompt, response, value in zip(samples.prompts, samples.responses, values, strict=True):
            self._extra[str(prompt), response][column] = _plain(value)


_LISTENERS: ContextVar[Heard | None] = ContextVar("listener", default=None)


@contextmanager
def listening() -> Iterator[Heard]:
    """Hears all that functions log in the block, which then nobody around it hears."""
    heard = Heard()
    token = _LISTENERS.set(heard)
    try:
        yield heard
    finally:
        _LISTENERS.reset(token)


def logs_of(samples: Samples, function: str = "") -> dict[str, Any]:
    """`log_metric` and `log_extra` for a function that is called with these samples; where nobody listens nothing
    becomes of what it logs.

    Args:
        samples: the samples.
        function: the function's file and name, for messages.
    """
    heard = _LISTENERS.get() or Heard()

    def log_metric(name: str, value: float) -> None:
        """Logs a number of this batch; NaN is unmeasured. Raises ValueError for anything else."""
        number = as_number(value)
        if not is_name(name):
            raise ValueError(f"log_metric: the name {name!r} is no text of printable characters")
        if number is None or isinf(number):
            raise ValueError(f"log_metric: {name!r} is {value!r:.60}, not a finite number, or NaN where it has none")
        heard.functions.setdefault(name, function)
        heard.metrics[name] += [] if isnan(number) else [number]

    def log_extra(column: str, values: Sequence[Any]) -> None:
        """Logs a value of each response. Raises ValueError where there are not as many."""
        if not is_name(column):
            raise ValueError(f"log_extra: the column {column!r} is no text of printable characters")
        if isinstance(values, str) or len(given := list(values)) != len(samples.responses):
            count = "a text" if isinstance(values, str) else f"{len(given)} value{'s' * (len(given) != 1)}"
            raise ValueError(f"log_extra: {column!r} has {count} for {len(samples.responses)} responses")
        heard.keep(samples, column, given)

    return {"log_metric": log_metric, "log_extra": log_extra}


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; anything else becomes text."""
    value = value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value
