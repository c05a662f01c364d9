"""Graphics cards that people train on: their memory, and whether they compute in bfloat16."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from rlhf_plugins.errors import RunError, nearest

MIB, GIB = 2**20, 2**30
# Of CUDA in a process that has computed nothing, on an H200; the forecast counts it as the run's own.
STARTED = 621 * MIB


class Card(NamedTuple):
    """A graphics card.

    Args:
        name: the name as its makers or its owner call it.
        bytes: the bytes of its memory that a run can have.
        bf16: whether it computes that in hardware; emulation, as on Turing, is slower than float32.
        taken: bytes of its memory that something else holds: a screen, another process.
    """

    name: str
    bytes: int
    bf16: bool = True
    taken: int = 0


# By whether they compute in bfloat16: in MiB as nvidia-smi shows it, in GiB as the makers state it. Where one name has
# two sizes and no ending says which, the smaller.
_MEMORY = {
    True: {
        "rtx3050": 8192 * MIB,
        "rtx3060": 12288 * MIB,
        "rtx3060ti": 8192 * MIB,
        "rtx3070": 8192 * MIB,
        "rtx3080": 10240 * MIB,
        "rtx3080ti": 12288 * MIB,
        "rtx3090": 24576 * MIB,
        "rtx4060": 8188 * MIB,
        "rtx4060ti": 16380 * MIB,
        "rtx4070": 12282 * MIB,
        "rtx4070tisuper": 16376 * MIB,
        "rtx4080": 16376 * MIB,
        "rtx4090": 24564 * MIB,
        "rtx5060ti": 16311 * MIB,
        "rtx5070": 12227 * MIB,
        "rtx5080": 16303 * MIB,
        "rtx5090": 32607 * MIB,
        "rtxa4000": 16376 * MIB,
        "rtxa5000": 24564 * MIB,
        "rtxa6000": 49140 * MIB,
        "l4": 23034 * MIB,
        "a10": 23028 * MIB,
        "a40": 46068 * MIB,
        "l40": 46068 * MIB,
        "l40s": 46068 * MIB,
        "a100": 81920 * MIB,
        "h100": 81559 * MIB,
        "h200": 143771 * MIB,
        "rtx3050laptop": 4 * GIB,
        "rtx3060laptop": 6 * GIB,
        "rtx3070laptop": 8 * GIB,
        "rtx3070ti": 8 * GIB,
        "rtx3070tilaptop": 8 * GIB,
        "rtx308012gb": 12 * GIB,
        "rtx3080tilaptop": 16 * GIB,
        "rtx3090ti": 24 * GIB,
        "rtx4050laptop": 6 * GIB,
        "rtx4060laptop": 8 * GIB,
        "rtx4060ti8gb": 8 * GIB,
        "rtx4070laptop": 8 * GIB,
        "rtx4070super": 12 * GIB,
        "rtx4070ti": 12 * GIB,
        "rtx4080laptop": 12 * GIB,
        "rtx4080super": 16 * GIB,
        "rtx4090laptop": 16 * GIB,
        "rtx5050": 8 * GIB,
        "rtx5060": 8 * GIB,
        "rtx5060laptop": 8 * GIB,
        "rtx5060ti8gb": 8 * GIB,
        "rtx5070laptop": 8 * GIB,
        "rtx5070ti": 16 * GIB,
        "rtx5070tilaptop": 12 * GIB,
        "rtx5080laptop": 16 * GIB,
        "rtx5090laptop": 24 * GIB,
        "rtxa2000": 6 * GIB,
        "rtxa200012gb": 12 * GIB,
        "rtxa4500": 20 * GIB,
        "rtxa5500": 24 * GIB,
        "rtx2000ada": 16 * GIB,
        "rtx4000ada": 20 * GIB,
        "rtx4500ada": 24 * GIB,
        "rtx5000ada": 32 * GIB,
        "rtx6000ada": 48 * GIB,
        "rtxpro4000": 24 * GIB,
        "rtxpro4500": 32 * GIB,
        "rtxpro5000": 48 * GIB,
        "rtxpro6000": 96 * GIB,
        "a30": 24 * GIB,
        "a10040gb": 40 * GIB,
    },
    False: {
        "gtx1080ti": 11264 * MIB,
        "gtx1660": 6144 * MIB,
        "rtx2060": 6144 * MIB,
        "rtx2070": 8192 * MIB,
        "rtx2080": 8192 * MIB,
        "rtx2080ti": 11264 * MIB,
        "titanrtx": 24576 * MIB,
        "t4": 15360 * MIB,
        "v100": 16384 * MIB,
        "gtx1070": 8 * GIB,
        "gtx1080": 8 * GIB,
        "gtx1650": 4 * GIB,
        "gtx1660super": 6 * GIB,
        "gtx1660ti": 6 * GIB,
        "rtx2060super": 8 * GIB,
        "rtx2070super": 8 * GIB,
        "rtx2080super": 8 * GIB,
        "quadrortx4000": 8 * GIB,
        "quadrortx5000": 16 * GIB,
        "quadrortx6000": 24 * GIB,
        "quadrortx8000": 48 * GIB,
        "v10032gb": 32 * GIB,
    },
}
CARDS = {name: Card(name, size, bf16) for bf16, sizes in _MEMORY.items() for name, size in sizes.items()}
ALIAS = {"a10080gb": "a100", "h10080gb": "h100"}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(G|M)(?:i?B)?", re.IGNORECASE)


def card(words: str) -> Card:
    """A card by its name or its memory: `rtx4090`, `RTX 4090`, `12GB`, `12288MiB`; a GB is what makers call one: a GiB.

    Raises:
        RunError: there is none of this name, or its memory is nothing.
    """
    words = words.strip()
    if size := _SIZE.fullmatch(words):
        if not (memory := round(float(size[1]) * (GIB if size[2].upper() == "G" else MIB))):
            raise RunError(f"a GPU of {words} has no memory: write more, such as 12GB")
        return Card(words, memory)
    if re.fullmatch(r"\d+(\.\d+)?", words):
        raise RunError(f"unknown GPU {words!r}: write {words}GB for its memory, or a name such as rtx4090")
    name = re.sub(r"nvidia|geforce|generation|gpu|sxm\d*|pcie|hbm\d\w?|[^a-z0-9]", "", words.lower())
    name = ALIAS.get(name, name)
    if name in CARDS:
        return CARDS[name]
    raise RunError(f"unknown GPU {words!r}; its memory will do, such as 12GB {nearest(name, CARDS)}")


def smallest(needed: int) -> Card | None:
    """The smallest card that has so many bytes; None where none has."""
    return min((one for one in CARDS.values() if one.bytes >= needed), key=lambda one: one.bytes, default=None)


def present() -> Card | None:
    """The GPU of this machine, of several processes that of this one, with what is free of it; None without one."""
    import torch

    from rlhf_plugins.contract.processes import PLACE

    if not torch.cuda.is_available():
        return None
    place = min(int(os.environ.get(PLACE, 0)), torch.cuda.device_count() - 1)
    free, total = torch.cuda.mem_get_info(place)
    for_a_run = min(total, free + torch.cuda.memory_reserved(place) + STARTED)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Card(torch.cuda.get_device_properties(place).name, for_a_run, bf16, total - for_a_run)
