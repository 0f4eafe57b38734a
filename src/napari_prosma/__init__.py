"""Train ProSMA-UNet, segment, and see what every gated skip connection let through.

The public names are loaded on first use; importing this package costs neither torch nor Qt.
"""

import os
from importlib import import_module
from typing import Any

from napari_prosma.libraries import keep_triton_apart

keep_triton_apart()

# Torch's threads on the CPU would spin while they wait for each other; where another program (or the window)
# holds one of the cores that costs them and it dearly. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_HOMES = {
    "ProsmaError": "errors",
    "Case": "data.case",
    "Geometry": "geometry",
    "Image": "data.case",
    "find_cases": "data.layouts",
    "read_image": "data.readers",
    "write_dicom": "data.writers",
    "write_labels": "data.writers",
    "ModelSpec": "nn.spec",
    "ProSMAUNet": "nn.unet",
    "GateTrace": "nn.gates",
    "build_model": "nn.build",
    "TrainConfig": "training.config",
    "train": "training.run",
    "Checkpoint": "model.checkpoint",
    "load_checkpoint": "model.checkpoint",
    "segment": "segmentation.segment",
    "next_images": "segmentation.informative",
    "next_slices": "segmentation.informative",
    "inspect_gates": "inspection.trace",
    "Change": "nn.gates",
    "WhatIf": "inspection.what_if",
    "compare": "inspection.compare",
    "leave_one_out": "inspection.faithfulness",
    "deletion_curve": "inspection.faithfulness",
    "threshold_sweep": "inspection.faithfulness",
    "sanity_check": "inspection.faithfulness",
    "noise_test": "inspection.faithfulness",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
