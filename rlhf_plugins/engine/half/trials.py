"""Trials of fast paths in half precision, on the device where they are going to compute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlhf_plugins import engine
from rlhf_plugins.engine import FastPath, unseen

logger = logging.getLogger(__name__)
_PASSED: dict[tuple[FastPath, torch.device, Any], bool] = {}  # of this process
_assumed: list[set[str]] = []  # of each forecast that goes on, the names of paths

COUNTED = "a forecast of memory that was made before counted on it"

Trial = Callable[[], bool]
Result = TypeVar("Result")


def is_half(dtype: torch.dtype) -> bool:
    """Whether numbers have 16 bits."""
    return dtype in (torch.bfloat16, torch.float16)


def precision(device: str) -> torch.dtype | None:
    """The precision of autocast on a type of device; None where it is off."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def passes(path: FastPath, device: torch.device, key: Any, trial: Trial) -> bool:
    """The result of a trial of a path, which runs once on a device for each key, and whose failure the log has.

    Where a forecast only pretends to be on a device, the trial is assumed to pass, unless one of the path has failed on
    such a device in this process. What counts or saves tensors meanwhile, as activation checkpointing does, sees
    nothing of the trial.
    """
    if engine.pretended():
        return _would_pass(path)
    if (path, device, key) not in _PASSED:
        with unseen():
            try:
                passed = trial()
            except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # the device lacks an operation
                from rlhf_plugins.engine.out_of_memory import inconclusive

                if inconclusive(error):
                    raise
                passed = False
        _PASSED[path, device, key] = passed
        if not passed:
            logger.info("%s: left to the model's own computation, since a trial failed; %s", path.what, COUNTED)
    return _PASSED[path, device, key]


def _would_pass(path: FastPath) -> bool:
    if path.what in failed(engine.pretended()):
        return False
    for names in _assumed:
        names.add(path.what)
    return True


def failed(device: str) -> frozenset[str]:
    """The names of the paths of which a trial has failed on a type of device, in this process."""
    return frozenset(path.what for (path, on, _), passed in _PASSED.items() if on.type == device and not passed)


@contextmanager
def assumed() -> Iterator[set[str]]:
    """For the block, gathers the names of the paths whose trials are assumed to pass on a device that is pretended."""
    _assumed.append(names := set[str]())
    try:
        yield names
    finally:
        _assumed.remove(names)


def by_numbers(compare: Callable[[Tensor], Result]) -> Result | None:
    """What a comparison finds of tensors like one in float32 on a CPU, where nothing can be tried; None if it fails."""
    with unseen(), torch.no_grad():
        try:
            return compare(torch.empty(0))
        except Exception:  # as of a trial, whatever a module raises
            return None


def results() -> dict[str, list[bool]]:
    """The results of all trials of this process, by the name of their path."""
    found: dict[str, list[bool]] = {}
    for (path, _, _), passed in _PASSED.items():
        found.setdefault(path.what, []).append(passed)
    return found


def wave(*shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers between -1 and 1 without a pattern that a product could hide, on the device of another tensor."""
    count = torch.Size(shape).numel()
    values = torch.arange(count, device=like.device, dtype=torch.float32).mul_(0.7).add_(count % 7).sin_()
    return values.view(shape).to(like.dtype if dtype is None else dtype)


def as_rounded(found: Sequence[Tensor], exact: Sequence[Tensor], terms: float = 0.01) -> bool:
    """Whether tensors in half precision are exact ones, each number to two roundings.

    Args:
        found: in half precision.
        exact: in float32.
        terms: size of what a number is the sum of, as a share of the largest number; one of the two is of its own size.
    """

    def near(one: Tensor, other: Tensor) -> bool:
        within = torch.finfo(one.dtype).eps * (other.abs() + terms * other.abs().max())
        return bool(((one.float() - other).abs() <= within).all())

    return all(near(one.detach(), other.detach()) for one, other in zip(found, exact, strict=True))


def within_rounding(found: Sequence[Tensor], expected: Sequence[Tensor], half: torch.dtype) -> bool:
    """Whether tensors differ by at most four roundings of the largest number in them; never where one is not finite."""
    eps = torch.finfo(half).eps
    pairs = [(one.float(), other.float()) for one, other in zip(found, expected, strict=True)]
    return all(bool((one - other).abs().max() <= 2 * eps * other.abs().max()) for one, other in pairs)
