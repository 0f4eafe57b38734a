"""Libraries that must be mapped in a way of their own, before or while Python imports what stands on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def map_library(library: str | Path, mode: int) -> bool:
    """Whether the system could map a library; other threads go on meanwhile."""
    import ctypes

    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    return dlopen(os.fsencode(library), mode) is not None


class TritonFinder(MetaPathFinder):
    """Has Triton's library call its own LLVM, not the one that draws a window.

    Mesa, which draws where no driver of NVIDIA does, brings an LLVM that all libraries see. Whoever imports
    Triton later, as PyTorch with CUDA does by itself, would mix the two, and the process would end.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Python's hook."""
        if fullname != "triton._C.libtriton" or "libLLVM" not in Path("/proc/self/maps").read_text():
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is not None and found.origin is not None:
            map_library(found.origin, os.RTLD_NOW | os.RTLD_DEEPBIND)
        return found


def keep_triton_apart() -> None:
    """From now on, in this process; on Linux alone libraries see each other so."""
    if sys.platform == "linux":
        sys.meta_path.insert(0, TritonFinder())
