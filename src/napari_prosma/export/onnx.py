"""A checkpoint as one ONNX file that takes images of any size, checked against PyTorch before it is kept."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from napari_prosma import __version__
from napari_prosma.data.atomic import written_whole
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.nn.build import Network
from napari_prosma.nn.ensemble import Ensemble

PARITY = 1e-4
"""Largest difference of a probability from PyTorch's."""
INPUT, OUTPUT = "image", "probabilities"
OPSET = 18
"""The one that PyTorch's exporter writes without converting."""
_TALKATIVE = ("torch.onnx._internal.exporter._registration", "torch.__trace")


def export_onnx(checkpoint: Checkpoint | Path | str, path: Path | str) -> Path:
    """Write a model, or an ensemble, as ONNX.

    The file takes ``image`` (batch, channels, [z,] y, x) float32, resampled and normalised as the plan says,
    of any batch and any size, and gives ``probabilities`` (batch, classes, [z,] y, x), background first. The
    plan, its classes and its intensity rule are in the file's metadata.

    Parameters
    ----------
    checkpoint : Checkpoint or path of one, or of a run folder
    path : path
        A ``.onnx`` file.

    Raises
    ------
    ConfigError
        A package for the export is not installed.
    CheckpointError, DataError
        The checkpoint cannot be read, or the file cannot be written.
    ProsmaError
        onnxruntime does not give PyTorch's probabilities to ``PARITY``; then nothing is left behind.
    """
    require_packages("onnx", "onnxscript", "onnxruntime")
    import onnx_ir

    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    path, spec = Path(path), checkpoint.spec
    model = AnySize(checkpoint.build()).eval().requires_grad_(False)  # or a backward pass is traced, too
    # Along every axis another length, or the exporter would take them for the same.
    size = tuple(model.divisor * (2 + axis) for axis in range(spec.dims))
    dynamic = dict.fromkeys((0, *range(2, 2 + spec.dims)), torch.export.Dim.DYNAMIC)
    with _quiet():
        program = torch.onnx.export(
            model,
            (torch.zeros(2, spec.in_channels, *size),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
    assert program is not None
    graph, classes = program.model.graph, len(checkpoint.plan.class_names)
    for value, channels in ((graph.inputs[0], spec.in_channels), (graph.outputs[0], classes)):
        value.shape = onnx_ir.Shape(["batch", channels, *"zyx"[-spec.dims :]])
    program.model.metadata_props.update(_metadata(checkpoint, model.divisor))
    with written_whole(path) as temporary:
        program.save(str(temporary), external_data=False)
        _require_parity(temporary, path, checkpoint, size)
    return path


class AnySize(nn.Module):
    """A network with its probabilities and its padding as operations that do not depend on the size.

    A network decides by the size of its input how to pad; in an exported graph such a decision would be
    frozen. Here the same elements are taken by index.
    """

    def __init__(self, network: Network | Ensemble) -> None:
        super().__init__()
        self.network = network
        self.divisor = network.divisor

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (B, K, *spatial) of ``image`` (B, C, *spatial)."""
        size = image.shape[2:]
        cells = [(n + self.divisor - 1) // self.divisor for n in size]
        image = _padded(image, [self.divisor * n for n in cells])
        if self.network.spec.norm == "instance":
            # One more cell along each axis where there is a single one, as in ProSMAUNet.
            more = 1 // math.prod(cells)
            image = _padded(image, [self.divisor * (n + more) for n in cells])
        logits = self.network(image)
        return probabilities_of(logits[(slice(None), slice(None), *(slice(0, n) for n in size))])


def probabilities_of(logits: Tensor) -> Tensor:
    """Probabilities (B, K, *spatial), background first, of logits (B, 1 or K, *spatial)."""
    if logits.shape[1] == 1:
        # Not sigmoid: onnxruntime's ends at 1.5e-8, and what windows are blended by is the logarithm.
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return torch.softmax(logits, dim=1)


def require_packages(*names: str) -> None:
    """Refuse to go on without packages of the extra ``export`` (raises ``ConfigError``)."""
    missing = [name for name in names if find_spec(name.split(".")[0]) is None]
    if missing:
        raise ConfigError(
            f"this export needs {', '.join(missing)}; install it with: python -m pip install "
            f'"napari-prosma[export]"'
        )


def _padded(image: Tensor, size: list[int]) -> Tensor:
    """As ``nn.unet.pad_to_multiple``: mirrored, or the edge repeated where there is too little to mirror."""
    for axis, padded in enumerate(size, 2):
        length = image.shape[axis]
        at = torch.arange(padded, device=image.device)
        enough = (padded - length + 0 * at) < length
        beyond = torch.where(enough, 2 * (length - 1) - at, length - 1)
        image = image.index_select(axis, torch.where(at < length, at, beyond))
    return image


def _metadata(checkpoint: Checkpoint, divisor: int) -> dict[str, str]:
    plan = checkpoint.plan
    return {
        "made_by": f"napari-prosma {__version__}",
        "classes": json.dumps(plan.class_names),
        "preparation": plan.in_words(),
        "plan": plan.model_dump_json(),
        "divisor": str(divisor),
    }


def _require_parity(file: Path, path: Path, checkpoint: Checkpoint, size: tuple[int, ...]) -> None:
    """Compare with PyTorch on a size of whole cells, on an odd one, and on one smaller than a cell."""
    import onnxruntime

    network = checkpoint.build()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    odd = tuple(n - 3 - axis for axis, n in enumerate(size))
    small = tuple(max(1, network.divisor // 2 - axis) for axis in range(len(size)))
    for batch, spatial in ((1, size), (2, odd), (1, small)):
        image = random.normal(size=(batch, checkpoint.spec.in_channels, *spatial)).astype(np.float32)
        with torch.inference_mode():
            wanted = probabilities_of(network(torch.from_numpy(image))).numpy()
        (found,) = session.run([OUTPUT], {INPUT: image})
        apart = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else math.inf
        if not apart <= PARITY:
            raise ProsmaError(
                f"the ONNX model differs from PyTorch by {apart:.2g} on an image of "
                f"{' x '.join(map(str, spatial))}, more than {PARITY:g}, so '{path}' was not written; update "
                f"torch, onnxscript and onnxruntime, and report it if that does not help"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that it does not need, and on every step it takes."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
