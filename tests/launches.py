"""Counts what would be launched on a GPU, the bytes that it would move, and how often the host would wait for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_scaled_dot_product")  # how their names begin
UNWRITTEN = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
MARKS = {"_record_function_enter_new", "_record_function_exit"}  # of a profiler
WRITES_OVER = {"copy_", "fill_", "zero_"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "repeat_interleave"}
INDEXES = {
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
}  # a mask is an index once it is known where it is set
COPIES = {"tolist", "cpu", "numpy"}
PICKS = {"embedding", "gather", "index", "index_select"}


class Launches(TorchDispatchMode):
    """Counts operations that compute anything, the casts of floating-point numbers among them, and bytes.

    `bytes` are those that operations other than matrix products and attention read and write: each tensor that an
    operation is given, once, and each that it makes or changes. An expanded dimension is read once, rows that an
    index picks are read as often as they are picked, and what is only written over is not read. Views, and tensors
    that are made without being written, move nothing. On a GPU caches may save some of it; nothing else does.

    `waits` are operations whose result the host needs, as if every tensor were on the GPU; copies to it are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all, self.casts, self.bytes, self.waits = 0, 0, 0, 0
        self._copies = _Copies(self)

    def __enter__(self) -> Launches:
        self._copies.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._copies.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.casts += args[0].is_floating_point() and (kwargs or {}).get("dtype") not in (None, args[0].dtype)
        self.waits += _waits(func, args)
        result = func(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(result)
        self.all += not (func.overloadpacket.__name__ in UNWRITTEN | MARKS or _is_view(func, given, made))
        self.bytes += _moved(func, given, made)
        return result


class _Copies(TorchFunctionMode):
    """Counts copies to the host, which are no operation on a CPU."""

    def __init__(self, counts: Launches) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._counts.waits += getattr(func, "__name__", "") in COPIES
        return func(*args, **(kwargs or {}))


def _waits(func: Any, args: Any) -> bool:
    name = func.overloadpacket.__name__
    masks = (
        [each for each in args[1] if isinstance(each, Tensor) and each.dtype == torch.bool] if name in INDEXES else []
    )
    return name in WAITS or bool(masks)


def _moved(func: Any, given: list[Tensor], made: list[Tensor]) -> int:
    name = func.overloadpacket.__name__
    if name.startswith(PRODUCTS) or name in UNWRITTEN or _is_view(func, given, made):
        return 0
    if name in PICKS:
        given = [*given[1:], *made]
    elif name in WRITES_OVER:
        given = given[1:]
    return sum(map(_bytes, given)) + sum(map(_bytes, made))


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Also of operations that are not declared to be one, such as `_unsafe_view`."""
    storages = {each.untyped_storage()._cdata for each in given}
    return not func._schema.is_mutable and any(each.untyped_storage()._cdata in storages for each in made)


def _tensors(found: Any) -> list[Tensor]:
    return list({id(each): each for each in tree_leaves(found) if isinstance(each, Tensor)}.values())


def _bytes(tensor: Tensor) -> int:
    """That have an address of their own."""
    own = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return tensor.element_size() * torch.Size(own).numel() * bool(tensor.numel())
