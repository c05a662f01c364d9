"""Graphics cards that people train on: their memory, and whether they compute in bfloat16. It knows no model."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from rlhf_plugins.errors import RunError, nearest

MIB = 2**20
# Of CUDA in a process that has computed nothing, on an H200; the forecast counts it as the run's own.
STARTED = 621 * MIB


class Card(NamedTuple):
    """A graphics card.

    Args:
        name: as its makers or its owner call it.
        bytes: of its memory that a run can have.
        bf16: whether it computes that in hardware; emulation, as on Turing, is slower than float32.
        taken: bytes of its memory that something else holds: a screen, another process.
    """

    name: str
    bytes: int
    bf16: bool = True
    taken: int = 0


_MIB = {  # as nvidia-smi shows it
    "rtx3050": 8192,
    "rtx3060": 12288,
    "rtx3060ti": 8192,
    "rtx3070": 8192,
    "rtx3080": 10240,
    "rtx3080ti": 12288,
    "rtx3090": 24576,
    "rtx4060": 8188,
    "rtx4060ti": 16380,
    "rtx4070": 12282,
    "rtx4070tisuper": 16376,
    "rtx4080": 16376,
    "rtx4090": 24564,
    "rtx5060ti": 16311,
    "rtx5070": 12227,
    "rtx5080": 16303,
    "rtx5090": 32607,
    "rtxa4000": 16376,
    "rtxa5000": 24564,
    "rtxa6000": 49140,
    "l4": 23034,
    "a10": 23028,
    "a40": 46068,
    "l40": 46068,
    "l40s": 46068,
    "a100": 81920,
    "h100": 81559,
    "h200": 143771,
}
_GIB = {  # as the makers state it; where one name has two sizes and no ending says which, the smaller
    "rtx3050laptop": 4,
    "rtx3060laptop": 6,
    "rtx3070laptop": 8,
    "rtx3070ti": 8,
    "rtx3070tilaptop": 8,
    "rtx308012gb": 12,
    "rtx3080tilaptop": 16,
    "rtx3090ti": 24,
    "rtx4050laptop": 6,
    "rtx4060laptop": 8,
    "rtx4060ti8gb": 8,
    "rtx4070laptop": 8,
    "rtx4070super": 12,
    "rtx4070ti": 12,
    "rtx4080laptop": 12,
    "rtx4080super": 16,
    "rtx4090laptop": 16,
    "rtx5050": 8,
    "rtx5060": 8,
    "rtx5060laptop": 8,
    "rtx5060ti8gb": 8,
    "rtx5070laptop": 8,
    "rtx5070ti": 16,
    "rtx5070tilaptop": 12,
    "rtx5080laptop": 16,
    "rtx5090laptop": 24,
    "rtxa2000": 6,
    "rtxa200012gb": 12,
    "rtxa4500": 20,
    "rtxa5500": 24,
    "rtx2000ada": 16,
    "rtx4000ada": 20,
    "rtx4500ada": 24,
    "rtx5000ada": 32,
    "rtx6000ada": 48,
    "rtxpro4000": 24,
    "rtxpro4500": 32,
    "rtxpro5000": 48,
    "rtxpro6000": 96,
    "a30": 24,
    "a10040gb": 40,
}
_GIB_WITHOUT_BF16 = {
    "gtx1070": 8,
    "gtx1080": 8,
    "gtx1650": 4,
    "gtx1660super": 6,
    "gtx1660ti": 6,
    "rtx2060super": 8,
    "rtx2070super": 8,
    "rtx2080super": 8,
    "quadrortx4000": 8,
    "quadrortx5000": 16,
    "quadrortx6000": 24,
    "quadrortx8000": 48,
    "v10032gb": 32,
}
_MIB |= {name: gib * 1024 for name, gib in _GIB.items()}
_WITHOUT_BF16 = {
    "gtx1080ti": 11264,
    "gtx1660": 6144,
    "rtx2060": 6144,
    "rtx2070": 8192,
    "rtx2080": 8192,
    "rtx2080ti": 11264,
    "titanrtx": 24576,
    "t4": 15360,
    "v100": 16384,
    **{name: gib * 1024 for name, gib in _GIB_WITHOUT_BF16.items()},
}
CARDS = {name: Card(name, mib * MIB) for name, mib in _MIB.items()}
CARDS |= {name: Card(name, mib * MIB, bf16=False) for name, mib in _WITHOUT_BF16.items()}
ALIAS = {"a10080gb": "a100", "h10080gb": "h100"}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(G|M)(?:i?B)?", re.IGNORECASE)


def card(words: str) -> Card:
    """A card by its name or its memory: `rtx4090`, `RTX 4090`, `12GB`, `12288MiB`; a GB is what makers call one: a GiB.

    Raises:
        RunError: there is none of this name, or its memory is nothing.
    """
    words = words.strip()
    if size := _SIZE.fullmatch(words):
        if not (memory := round(float(size[1]) * (2**30 if size[2].upper() == "G" else MIB))):
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
