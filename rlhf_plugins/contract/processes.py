"""The processes that train one model together: which of them this is, and what they do in step. It knows no model.

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
COUNT, PLACE = "WORLD_SIZE", "LOCAL_RANK"  # in the environment, as launchers set both; schedulers set one alone
WORDS = ("connection closed by peer", "connection reset", "nccl", "gloo")  # of errors of a lost connection
PATIENCE = 10.0  # seconds that a process which lost its connection may take to end
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"  # in the environment, as accelerate sets them
BY_ONE = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # one process alone loads a base, which `accelerate config` asks for
UNTRIED = {  # of FSDP2, in the environment, and how a configuration leaves it out
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
    alone: bool = False  # while this process computes as if it were the only one
    silent: bool = False  # an error of the main process ends this one, which has nothing to add
    zero: Zero | None = None  # how DeepSpeed divides the training


_STATE = _State()
logger = logging.getLogger(__name__)


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get(COUNT, "") not in ("", "0", "1") and PLACE in os.environ


def join() -> None:
    """Meets the other processes, if a launcher started several; once in a process.

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
    """Raises RunError for what no recipe was tried with; that one process loads for all is left out, and said."""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RunError("the launch asks for FSDP1, with which no recipe was tried: write `fsdp_version: 2`")
    if untried := [option for name, option in UNTRIED.items() if _is_set(name)]:
        raise RunError(f"the launch asks for {untried[0]}, with which no recipe was tried: write `false` there")
    if _is_set(BY_ONE):
        os.environ[BY_ONE] = "false"
        if os.environ.get("RANK", "0") == "0":
            logger.warning("each process loads the whole base: %s of the launch is taken as false", BY_ONE.lower())


def shards() -> bool:
    """Whether the processes that have met hold weights that are trained in shards (FSDP, or ZeRO-3)."""
    return fsdp() or zero3()


def fsdp() -> bool:
    """Whether FSDP cuts them into shards."""
    return bool(_STATE.peers) and _is_set(FSDP)


def divides_optimizer() -> bool:
    """Whether the processes that have met hold parts of the optimizer's state (DeepSpeed's ZeRO)."""
    return bool(_STATE.peers) and _STATE.zero is not None


def zero3() -> bool:
    """Whether DeepSpeed cuts weights into shards (ZeRO-3)."""
    return divides_optimizer() and _STATE.zero is not None and _STATE.zero.stage == "3"


def zero_precision() -> str:
    """The precision that a file of DeepSpeed's asks for: "bf16", "fp16", or "no" where none does."""
    return _STATE.zero.precision if _STATE.zero is not None else "no"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


def leave() -> None:
    """Parts from the others, at the end of all that is done together."""
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
    """Which of them this is, from 0."""
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
    """The value of every process, in their order; all of them must ask."""
    return [value] if count() == 1 else _all(value)


def from_main(value: Made) -> Made:
    """The main process's value; all of them must ask."""
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
    """Which of so many rows are this process's: neighbours, in nearly equal parts, the first ones with one more."""
    return part(rows, index() if count() > 1 else 0, count())


def part(rows: int, place: int, parts: int) -> slice:
    """Part `place` of so many rows in `parts` nearly equal parts."""
    size, more = divmod(rows, parts)
    start = place * size + min(place, more)
    return slice(start, start + size + (place < more))


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, which must ask with equal shapes."""
    return value if count() == 1 else total(value) / count()


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, which must ask with equal shapes."""
    if count() == 1:
        return value
    import torch

    found = value.detach().clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(found)
    return found


def in_shares(rows: Sequence[Row], compute: Callable[[Sequence[Row]], Sequence[Made]]) -> list[Made]:
    """A result for each row, in order, of which each process computes those of its share; all of them must ask."""
    own = rows[share(len(rows))]
    with alone():
        found = list(compute(own)) if own else []
    return joined(gathered(found))


def joined(parts: Sequence[Sequence[Made]]) -> list[Made]:
    """The shares of all processes as one list, in order."""
    return [each for part in parts for each in part]


def cost_of_all(own: Cost) -> Cost:
    """The cost of all processes: sums, but for the time, which is the main one's, and the memory, the largest."""
    every = gathered(own)
    return replace(sum(every[1:], every[0]), seconds=every[0].seconds)


def spent(counter: object, names: Iterable[str]) -> dict[str, float]:
    """What all processes spent so far, by name of a counter's number: sums, of seconds the main one's."""
    every = gathered({name: getattr(counter, name) for name in names})
    return {name: own if name == "seconds" else sum(one[name] for one in every) for name, own in every[0].items()}


def goes_on_from(states: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What this process counts on from, of the states of the counters of all: its own, or where there were more or
    fewer of them the sum in the main one, with its seconds."""
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
