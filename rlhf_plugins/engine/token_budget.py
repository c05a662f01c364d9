"""How many tokens are in memory at once where nothing is trained: in passes that score, and in generation.

A stage says so for its block, with its own options; elsewhere the defaults hold. The switch is of the process. Where
memory runs out all the same, generation goes on for fewer prompts at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from rlhf_plugins.data.batches.branches import TOKENS_PER_BATCH
from rlhf_plugins.engine.forward import inner_of
from rlhf_plugins.engine.layers import CHECKPOINTING, checkpointing
from rlhf_plugins.engine.out_of_memory import attempted, random_state, release_memory, too_much, warn
from rlhf_plugins.errors import RunError

Found = TypeVar("Found")
CACHE_TOKENS = 16_384  # of prompts and responses on a GPU, whose memory their keys and values fill
FEWER = (
    "with keys and values of %d tokens at once: generated again for fewer prompts at a time, and so are "
    "later ones of more than %d; the samples are others than in one call, from the same distribution"
)
_FIT: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # tokens of cache that fit, of models where more did not


class _Room:
    tokens: int = TOKENS_PER_BATCH
    cache: int | None = None


@contextmanager
def room(tokens: int | None, cache: int | None = None) -> Iterator[None]:
    """For the block, passes without gradients lay out so many tokens at once, and a generation keeps keys of so many.

    Args:
        tokens: padding included; None is the default.
        cache: prompts and responses; None is `CACHE_TOKENS` on a GPU, and no limit on a CPU.
    """
    before = _Room.tokens, _Room.cache
    _Room.tokens, _Room.cache = tokens or TOKENS_PER_BATCH, cache
    try:
        yield
    finally:
        _Room.tokens, _Room.cache = before


def tokens_at_once() -> int:
    """Most tokens of a pass without gradients, padding included; one row alone may have more."""
    return _Room.tokens


def cache_at_once(device: str) -> int | None:
    """Most tokens whose keys and values are kept at once on a type of device; None is no limit."""
    return _Room.cache or (CACHE_TOKENS if device == "cuda" else None)


def cached_at_once(model: Any) -> int | None:
    """Most tokens whose keys and values are kept at once: those that there is room for, and that fitted so far."""
    limits = cache_at_once(model.device.type), _FIT.get(inner_of(model))
    return min((limit for limit in limits if limit is not None), default=None)


def note_most(model: Any, tokens: int) -> None:
    """Has later generations of a model keep keys and values of no more tokens at once: more did not fit."""
    _FIT[inner_of(model)] = min(tokens, _FIT.get(inner_of(model), tokens))


def in_batches(lengths: Sequence[int], rows: int, tokens: int | None) -> Iterator[slice]:
    """Neighbours of at most so many rows, padded to the longest of at most so many tokens; one alone may have more."""
    start = 0
    while start < len(lengths):
        end, longest = start + 1, lengths[start]
        while end < len(lengths) and end - start < rows:
            longest = max(longest, lengths[end])
            if tokens is not None and (end + 1 - start) * longest > tokens:
                break
            end += 1
        yield slice(start, end)
        start = end


def generated(
    model: Any,
    lengths: Sequence[int],
    rows: int,
    generate: Callable[[slice], Found],
    undo: Callable[[], Callable[[], None]] = random_state,
    refills: bool = False,
) -> Iterator[tuple[slice, Found]]:
    """What is generated for all rows in order, for neighbours that fit into memory together.

    Args:
        model: the one that generates; after a failure its gradient checkpointing is on again as before.
        lengths: tokens of each row at its end.
        rows: most at once.
        generate: is called with the places of some rows; with fewer of them where they do not fit.
        undo: called before each call; what it returns takes back what the call did, where it failed.
        refills: whether `generate` itself keeps keys of so many tokens at once as there is room for.

    Raises:
        RunError: one row alone does not fit, in two tries.
    """
    start, again = 0, False
    while start < len(lengths):
        limit = None if refills else cached_at_once(model)
        end = start + next(in_batches(lengths[start:], rows, limit)).stop
        restore, recomputed = undo(), checkpointing(model)
        found, reason = attempted(generate, slice(start, end))
        if found is not None:
            yield slice(start, end), found
            start, again = end, False
            continue
        restore()
        release_memory()
        for module in recomputed:
            setattr(module, CHECKPOINTING, True)
        tokens = (end - start) * max(lengths[start:end])
        if end - start > 1:
            note_most(model, tokens // 2)
            warn(FEWER, tokens, tokens // 2)
        elif again:
            raise RunError(too_much(reason, f"one response of {tokens} tokens, its prompt's included, is"))
        again = end - start == 1
