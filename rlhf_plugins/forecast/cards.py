"""Graphics cards that people train on: their memory, and whether they compute in bfloat16. It knows no model."""

from __future__ import annotations

import re
from typing import NamedTuple

from rlhf_plugins.errors import RunError, nearest

MIB = 2**20


class Card(NamedTuple):
    """A graphics card."""

    name: str
    bytes: int
    bf16: bool = True  # in hardware; emulation, as on Turing, is slower than float32


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
    "l40s": 46068,
    "a100": 81920,
    "h100": 81559,
    "h200": 143771,
}
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
}
CARDS = {name: Card(name, mib * MIB) for name, mib in _MIB.items()}
CARDS |= {name: Card(name, mib * MIB, bf16=False) for name, mib in _WITHOUT_BF16.items()}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(G|M)(?:i?B)?", re.IGNORECASE)


def card(words: str) -> Card:
    """A card by its name or its memory: `rtx4090`, `RTX 4090`, `12GB`, `12288MiB`; a GB is what makers call one: a GiB.

    Raises:
        RunError: there is none of this name.
    """
    if size := _SIZE.fullmatch(words.strip()):
        return Card(words.strip(), round(float(size[1]) * (2**30 if size[2].upper() == "G" else MIB)))
    name = re.sub(r"nvidia|geforce|[^a-z0-9]", "", words.lower())
    if name in CARDS:
        return CARDS[name]
    raise RunError(f"unknown GPU {words!r} {nearest(name, CARDS)}; its memory will do, such as 12GB")


def smallest(needed: int) -> Card | None:
    """The smallest card that has so many bytes; None where none has."""
    return min((one for one in CARDS.values() if one.bytes >= needed), key=lambda one: one.bytes, default=None)


def present() -> Card | None:
    """The GPU of this machine; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Card(properties.name, properties.total_memory, torch.cuda.is_bf16_supported(including_emulation=False))
