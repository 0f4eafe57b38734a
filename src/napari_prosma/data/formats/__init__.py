"""One module per file format, and what several of them share.

A module with ``SUFFIXES``, ``read`` and ``read_header`` reads images, and is found by itself; one with
``label_names`` also tells the classes of its labels.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

_FIRST = ("pictures", "tiff", "nifti", "mgh", "dicom", "nrrd", "metaimage", "ome_zarr")
_LATE = ("dicom_codecs", "zarr_store")
"""Parts of formats that are slow to import, and wait for the first file that needs them."""


def image_formats() -> tuple[ModuleType, ...]:
    """Every module that reads images, the usual ones first."""
    names = dict.fromkeys((*_FIRST, *(module.name for module in iter_modules(__path__))))
    modules = [import_module(f"{__name__}.{name}") for name in names if name not in _LATE]
    wanted = ("SUFFIXES", "read", "read_header")
    return tuple(module for module in modules if all(hasattr(module, name) for name in wanted))
