"""The processes that train one model together: the number of this one, and what they exchange.

A launcher (`accelerate launch`, `torchrun`) starts them. Each runs the whole recipe on its share of every batch; the
first, the main one, alone writes, so that all of them need the same folders. What is sent between them goes through
torch.distributed.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rlhf_plugins.errors import RlhfError, RunError, StopRun

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.run import Cost
    from rlhf_plugins.contract.zero import Zero

Made = TypeVar("Made")
Row = TypeVar("Row")
COUNT, PLACE = "WORLD_SIZE", "LOCAL_RANK"  # environment variables: launchers set both, schedulers only one
WORDS = ("connection closed by peer", "connection reset", "nccl", "gloo")  # in errors about a lost connection
PATIENCE = 10.0  # seconds to wait for a process that lost its connection to end
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"  # environment variables that accelerate sets
BY_ONE = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # one process alone loads a base, which `accelerate config` asks for
UNTRIED = {  # environment variable -> option of accelerate's configuration
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing",
}


class Peer(NamedTuple):
    """One of the processes."""

    place: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.place} (pid {self.pid} on {self.host})"


@dataclass
class _State:
    peers: tuple[Peer, ...] = ()
    alone: bool = False  # inside `alone()`: this process computes as if it were the only one
    silent: bool = False  # an error of the main process ends this one, which has nothing to add
    zero: Zero | None = None  # how DeepSpeed divides the training


_STATE = _State()
logger = logging.getLogger(__name__)


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get(COUNT, "") not in ("", "0", "1") and PLACE in os.environ


def join() -> None:
    """Connects this process with the others, if a launcher started several; a second call does nothing.

    Raises:
        RunError: the launch divides weights or optimizers in a way that was not tried.
    """
    if _is_set(DEEPSPEED):
        from rlhf_plugins.contract import zero

        given = {option: os.environ[name] for option, name in zero.NAMES.items() if name in os.environ}
        _STATE.zero = zero.asked_of_zero(given, is_launched())
    if not is_launched() or _STATE.peers:
        return
    if _is_set(FSDP):
        _take_fsdp()
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    PartialState(cpu=not torch.cuda.is_available() and not _is_set(DEEPSPEED))
    own = Peer(torch.distributed.get_rank(), socket.gethostname(), os.getpid())
    _STATE.peers = tuple(_all(own))


def zero_left_out() -> tuple[str, ...]:
    """Numbers of a training that a file of DeepSpeed's leaves to the recipe."""
    return _STATE.zero.left_out if _STATE.zero is not None else ()


def _take_fsdp() -> None:
    """Raises RunError for untried options of FSDP; warns that loading by one process is switched off."""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RunError("the launch asks for FSDP1, with which no recipe was tried: write `fsdp_version: 2`")
    if untried := [option for name, option in UNTRIED.items() if _is_set(name)]:
        raise RunError(f"the launch asks for {untried[0]}, with which no recipe was tried: write `false` there")
    if _is_set(BY_ONE):
        os.environ[BY_ONE] = "false"
        if os.environ.get("RANK", "0") == "0":
            logger.warning("each process loads the whole base: %s of the launch is taken as false", BY_ONE.lower())


def shards() -> bool:
    """Whether the connected processes hold trained weights in shards (FSDP or ZeRO-3)."""
    return fsdp() or zero3()


def fsdp() -> bool:
    """Whether FSDP shards the weights."""
    return bool(_STATE.peers) and _is_set(FSDP)


def divides_optimizer() -> bool:
    """Whether each of the connected processes holds a part of the optimizer's state (DeepSpeed's ZeRO)."""
    return bool(_STATE.peers) and _STATE.zero is not None


def zero3() -> bool:
    """Whether DeepSpeed shards the weights (ZeRO-3)."""
    return divides_optimizer() and _STATE.zero is not None and _STATE.zero.stage == "3"


def zero_precision() -> str:
    """The precision that a file of DeepSpeed's asks for: "bf16", "fp16", or "no" where none does."""
    return _STATE.zero.precision if _STATE.zero is not None else "no"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


def leave() -> None:
    """Disconnects this process from the others, once nothing is left to do together."""
    import torch

    if _STATE.peers:
        _STATE.peers = ()
        torch.distributed.destroy_process_group()


def count() -> int:
    """How many processes there are; 1 where this one computes alone."""
    return 1 if _STATE.alone or not _STATE.peers else len(_STATE.peers)


def launched() -> int:
    """How many processes there are, also where this one computes alone."""
    return max(1, len(_STATE.peers))


def index() -> int:
    """The rank of this process, from 0."""
    if not _STATE.peers:
        return 0
    import torch

    return int(torch.distributed.get_rank())


def is_main() -> bool:
    """Whether this is the process that writes."""
    return index() == 0


def silent() -> bool:
    """Whether this process ends because of an error that the main process shows."""
    return _STATE.silent


@contextmanager
def alone() -> Iterator[None]:
    """For the block, this process computes as if it were the only one: its share, or what the others wait for."""
    before, _STATE.alone = _STATE.alone, True
    try:
        yield
    finally:
        _STATE.alone = before


def gathered(value: Made) -> list[Made]:
    """The value of every process, in the order of their ranks; all of them must call it."""
    return [value] if count() == 1 else _all(value)


def from_main(value: Made) -> Made:
    """The main process's value; all of them must call it."""
    return gathered(value)[0]


def on_main(make: Callable[[], Made]) -> Made:
    """What the main process makes, while the others wait; it is copied to them.

    Raises:
        Exception: that of the main process; in the others a RunError with its message, or a StopRun where it is one.
    """
    if count() == 1:
        return make()
    made: Any = None
    error: Exception | None = None
    if is_main():
        try:
            with alone():
                made = make()
        except Exception as raised:  # the others would wait for ever
            error = raised
    failure = None if error is None else (isinstance(error, StopRun), str(error))
    answer, failed = from_main((made, failure))
    if error is not None:
        raise error
    if failed is not None:
        _STATE.silent = True
        raise (StopRun if failed[0] else RunError)(failed[1])
    return answer


def share(rows: int) -> slice:
    """The rows of this process, of so many: neighbours, in nearly equal parts; the first parts may have one more."""
    return part(rows, index() if count() > 1 else 0, count())


def part(rows: int, place: int, parts: int) -> slice:
    """Part `place` of so many rows in `parts` nearly equal parts."""
    size, more = divmod(rows, parts)
    start = place * size + min(place, more)
    return slice(start, start + size + (place < more))


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, which must call it with equal shapes."""
    return value if count() == 1 else total(value) / count()


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, which must call it with equal shapes."""
    if count() == 1:
        return value
    import torch

    found = value.detach().clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(found)
    return found


def in_shares(rows: Sequence[Row], compute: Callable[[Sequence[Row]], Sequence[Made]]) -> list[Made]:
    """A result for each row, in order; each process computes those of its share. All of them must call it."""
    own = rows[share(len(rows))]
    with alone():
        found = list(compute(own)) if own else []
    return joined(gathered(found))


def joined(parts: Sequence[Sequence[Made]]) -> list[Made]:
    """The shares of all processes as one list, in order."""
    return [each for part in parts for each in part]


def cost_of_all(own: Cost) -> Cost:
    """The cost of all processes: sums, but the time of the main process and the largest peak of memory."""
    every = gathered(own)
    return replace(sum(every[1:], every[0]), seconds=every[0].seconds)


def spent(counter: object, names: Iterable[str]) -> dict[str, float]:
    """What all processes spent so far, by the names of a counter's numbers: sums, but the main process's seconds."""
    every = gathered({name: getattr(counter, name) for name in names})
    return {name: own if name == "seconds" else sum(one[name] for one in every) for name, own in every[0].items()}


def goes_on_from(states: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The state from which this process's counter goes on, given those of all processes that saved one.

    That is its own; where the number of processes changed, the main process goes on from the sum, the others from 0.
    """
    if len(states) == launched():
        return dict(states[index()])
    whole = {name: sum(each[name] for each in states) for name in states[0]}
    return {**(whole if is_main() else dict.fromkeys(whole, 0)), "seconds": states[0]["seconds"]}


def ended() -> list[Peer]:
    """The other processes on this machine that are gone."""
    import psutil

    def is_gone(peer: Peer) -> bool:
        try:
            return psutil.Process(peer.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    here = socket.gethostname()
    return [peer for peer in _STATE.peers if peer.host == here and peer.pid != os.getpid() and is_gone(peer)]


def lost(error: BaseException) -> str:
    """Which process is gone, where that is why another's call failed; empty where it is not."""
    if not _STATE.peers or isinstance(error, RlhfError):
        return ""
    of_connection = any(each in str(error).lower() for each in WORDS)
    until = time.monotonic() + (PATIENCE if of_connection else 0.0)
    while not (gone := ended()) and time.monotonic() < until:
        time.sleep(0.1)
    if gone:
        return f"{' and '.join(map(str, gone))} of {len(_STATE.peers)} ended, and the others cannot go on without it"
    hosts = ", ".join(sorted({peer.host for peer in _STATE.peers}))
    what = f"the connection to another of {len(_STATE.peers)} processes (on {hosts}) was lost"
    return f"{what}: {error}" if of_connection else ""


def _all(value: Any) -> list[Any]:
    import torch

    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found
