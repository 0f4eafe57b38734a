"""A device that is not there: tensors that say where they lie, compute on the CPU, and refuse to mix.

A wrapper tensor holds the true one. The dispatch mode below puts what is made "on the device" into wrappers
and refuses operations on tensors of both kinds, as CUDA does; the function mode above it takes the few
calls that PyTorch would decide by the place that it knows of in C++, where wrappers lie on "meta". Both hold
for a thread, so threads that start within ``pretended`` enter them, too.

What it cannot show: kernels, their speed and memory, autocast (which casts by the place known in C++) and
streams.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.accelerators import MPSAccelerator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
GIB = 2**30
aten = torch.ops.aten

COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
"""Their indices may lie on the CPU where the indexed tensor lies on the device, not the other way round."""


LACKED_BY_METAL = {aten.grid_sampler_3d.default, aten.grid_sampler_3d_backward.default}


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on ``where``; ``true`` holds its values."""

    true: torch.Tensor
    where: torch.device

    @staticmethod
    def __new__(cls, true: torch.Tensor, where: torch.device) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            true.size(),
            strides=true.stride(),
            storage_offset=true.storage_offset(),
            dtype=true.dtype,
            device="meta",
        )
        made.true, made.where = true, where
        return made

    def __init__(self, true: torch.Tensor, where: torch.device) -> None:
        pass

    @property
    def device(self) -> torch.device:
        return self.where

    @property
    def is_cuda(self) -> bool:
        return self.where.type == "cuda"

    @property
    def is_mps(self) -> bool:
        return self.where.type == "mps"

    @property
    def is_cpu(self) -> bool:
        return False

    @property
    def is_meta(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Elsewhere({self.true!r}, {self.where})"

    def numpy(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError(f"can't convert {self.where} device type tensor to numpy; use Tensor.cpu() first")

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        where = next(t.where for t in _tensors((args, kwargs)) if isinstance(t, Elsewhere))
        return computed(func, args, kwargs, where)


def _tensors(value: Any) -> list[torch.Tensor]:
    """All in the arguments of an operation: alone, in lists and tuples, and by name."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for part in value for tensor in _tensors(part)]


def _with_each(change: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Arguments or results of an operation in which each tensor is changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _with_each(change, part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_with_each(change, part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def computed(func: Any, args: Any, kwargs: dict[str, Any], where: torch.device) -> Any:
    """An operation, on the CPU; its results lie where they would, or it is refused as it would be."""
    tensors = _tensors((args, kwargs))
    away = [t for t in tensors if isinstance(t, Elsewhere)]
    if away:
        _refuse_mixture(func, args, tensors)
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
        kwargs.pop("pin_memory", None)
        to_device = asked.type == where.type or (asked.type == "meta" and bool(away))
    else:
        to_device = bool(away)
    if where.type == "mps" and to_device:
        _refuse_double(tensors, kwargs)
        if func in LACKED_BY_METAL:
            raise NotImplementedError(f"The operator '{func}' is not implemented for the MPS device")
    out = func(*_with_each(_true, args), **_with_each(_true, kwargs)) if away else func(*args, **kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not to_device:
        return out
    held = {id(t.true): t for t in away}  # what was written in place stays the same tensor

    def placed(tensor: torch.Tensor) -> Elsewhere:
        return held[id(tensor)] if id(tensor) in held else Elsewhere(tensor, where)

    return _with_each(placed, out)


def _true(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.true if isinstance(tensor, Elsewhere) else tensor


def _refuse_mixture(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    if func in COPIES:
        return
    if func in INDEXED:
        if not isinstance(args[0], Elsewhere):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor")
        return
    for tensor in tensors:
        if not isinstance(tensor, Elsewhere) and tensor.ndim:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, not a CPU one {tuple(tensor.shape)}: {func}"
            )


def _refuse_double(tensors: list[torch.Tensor], kwargs: dict[str, Any]) -> None:
    if kwargs.get("dtype") == torch.float64 or any(
        t.dtype == torch.float64 and isinstance(t, Elsewhere) for t in tensors
    ):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework has no float64")


class _Dispatch(TorchDispatchMode):
    def __init__(self, where: torch.device) -> None:
        super().__init__()
        self.where = where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.is_pinned.default:
            return False
        if func is aten._pin_memory.default:
            return args[0]
        return computed(func, args, kwargs or {}, self.where)


class _Calls(TorchFunctionMode):
    """Calls whose device C++ would look up itself."""

    def __init__(self, where: torch.device) -> None:
        super().__init__()
        self.where = where

    def _named(self, value: Any) -> Any:
        """The device with its index: ``cuda`` is ``cuda:0``."""
        if isinstance(value, torch.device | str) and str(value).split(":")[0] == self.where.type:
            return self.where
        return value

    def _index(self, value: Any) -> Any:
        if isinstance(value, list | np.ndarray):
            value = torch.as_tensor(value)
        if isinstance(value, torch.Tensor) and not isinstance(value, Elsewhere) and value.ndim:
            return Elsewhere(value, self.where)
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func in (torch.Tensor.to, torch.Tensor.cuda) or "device" in kwargs:
            args = tuple(map(self._named, args))
            kwargs = {key: self._named(value) if key == "device" else value for key, value in kwargs.items()}
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], Elsewhere):
            return first.to(self.where, args[1].dtype)
        if isinstance(first, Elsewhere):
            if func is torch.Tensor.to and set(kwargs) == {"memory_format"} and len(args) == 1:
                return first.contiguous(**kwargs)
            if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
                many = isinstance(args[1], tuple)
                index = tuple(map(self._index, args[1])) if many else self._index(args[1])
                return func(first, index, *map(self._index, args[2:]))
            if func is torch.Tensor.tolist:
                return first.true.tolist()
            if func is torch.Tensor.new_tensor:
                return torch.tensor(args[1], dtype=kwargs.get("dtype", first.dtype)).to(self.where)
        if (
            func in (torch.tensor, torch.as_tensor, torch.scalar_tensor)
            and kwargs.get("device") == self.where
        ):
            return func(*args, **{k: v for k, v in kwargs.items() if k != "device"}).to(self.where)
        return func(*args, **kwargs)


@contextmanager
def entered(where: torch.device) -> Iterator[None]:
    """In this thread, too, torch has the device that is pretended."""
    with _Dispatch(where), _Calls(where):
        yield


@contextmanager
def pretended(kind: str = "cuda", memory: int = 80 * GIB) -> Iterator[torch.device]:
    """Within it torch has one device of ``kind`` ("cuda" or "mps") with so many bytes."""
    where = torch.device(kind, 0)
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        # Parameters become other tensors when a module moves; else the optimizer would hold the ones before.
        torch.__future__.set_swap_module_params_on_conversion(True)
        _loads_in_place(patch)
        _starts_threads_within(patch, where)
        _answers(patch, where, memory)
        try:
            with entered(where):
                yield where
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)


def _loads_in_place(patch: pytest.MonkeyPatch) -> None:
    load = torch.nn.Module.load_state_dict

    def loaded(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        torch.__future__.set_swap_module_params_on_conversion(False)
        try:
            return load(module, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(True)

    patch.setattr(torch.nn.Module, "load_state_dict", loaded)


def _starts_threads_within(patch: pytest.MonkeyPatch, where: torch.device) -> None:
    run = threading.Thread.run

    def within(thread: threading.Thread) -> None:
        with entered(where):
            run(thread)

    patch.setattr(threading.Thread, "run", within)


def _answers(patch: pytest.MonkeyPatch, where: torch.device, memory: int) -> None:
    """What torch says of the device."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    patch.setattr(torch.accelerator, "synchronize", nothing)
    if where.type == "mps":
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        patch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
        patch.setattr(torch.mps, "empty_cache", nothing)
        return
    properties = SimpleNamespace(
        total_memory=memory, name="Pretended GPU", major=9, minor=0, multi_processor_count=132
    )
    told: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "Pretended GPU",
        "get_device_properties": properties,
        "mem_get_info": (memory - GIB, memory),
        "max_memory_allocated": GIB,
        "memory_allocated": GIB,
        "is_bf16_supported": True,
        "current_device": 0,
        "get_device_capability": (9, 0),
        **dict.fromkeys(
            ("empty_cache", "reset_peak_memory_stats", "set_device", "synchronize", "_lazy_init")
        ),
        **dict.fromkeys(("get_rng_state", "set_rng_state")),
    }
    for name, answer in told.items():
        patch.setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
