"""How many slots a static cache has, and of what capacity, so that a step is recorded for few sizes."""

from __future__ import annotations

CAPACITY = 128  # of whose multiples a slot has tokens


def capacity_for(tokens: int) -> int:
    """Tokens of a slot for a prompt and a response of so many."""
    return -(-tokens // CAPACITY) * CAPACITY


def slots_for(rows: int, capacity: int, limit: int | None) -> int:
    """How many slots so many rows get: a power of two, or what there is room for.

    Args:
        rows: the rows that are asked for.
        capacity: tokens of a slot.
        limit: tokens of all slots; None is none.
    """
    enough = 1 << (rows - 1).bit_length()
    return enough if limit is None else max(1, min(enough, limit // capacity))
