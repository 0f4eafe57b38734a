"""A checkpoint as a package for bioimage.io: ONNX weights, what to do before them, and tensors to test them.

What the specification can say of a plan's preparation is said there, the rest in the package's README.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_prosma import __version__
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.phantoms import ct_case, ultrasound_case
from napari_prosma.data.preparation import cut_axis, normalise, prepare
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.export.onnx import (
    INPUT,
    OPSET,
    OUTPUT,
    PARITY,
    export_onnx,
    probabilities_of,
    require_packages,
)
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.nn.network_kinds import OURS

if TYPE_CHECKING:
    from bioimageio.spec.model.v0_5 import ModelDescr

PAPER = "Cheng et al. 2026, ProSMA-UNet: Decoder Conditioning for Proximal-Sparse Skip Feature Selection"
PAPER_DOI = "10.48550/arXiv.2603.03187"
# Earlier ones take two arguments of a serializer for others, and refuse their own description.
SPEC_WITH_PYDANTIC_2_14 = (0, 5, 14, 3)
_AS_IT_IS = {"intensity": "ct", "clip": (-np.inf, np.inf), "mean": 0.0, "std": 1.0}
_WEIGHTS, _README = "weights.onnx", "README.md"
_TEST_INPUT, _TEST_OUTPUT = "test_input.npy", "test_output.npy"


def export_bioimageio(
    checkpoint: Checkpoint | Path | str,
    path: Path | str,
    *,
    name: str | None = None,
    description: str = "",
    authors: Sequence[str] = (),
    license: str | None = None,
    sample: Image | None = None,
    card: str = "",
) -> Path:
    """Write a model, or an ensemble, as a package that bioimageio.core's own test accepts.

    Parameters
    ----------
    checkpoint : Checkpoint or path of one, or of a run folder
    path : path
        A ``.zip`` file.
    name : str, optional
        5 to 128 letters, digits, blanks, ``_+-()``; by default of the classes.
    authors : names
    license : str, optional
        An SPDX identifier such as ``CC-BY-4.0``.
    sample : Image, optional
        An image like those that the model was trained on; a piece of it goes into the package to test it.
        By default a phantom.
    card : str
        What the model is worth, as Markdown (``app.card_pages.as_markdown``): the README begins with it.

    Raises
    ------
    ConfigError
        A package for the export is not installed, or bioimage.io does not take the name or the licence.
    CheckpointError, DataError
        The checkpoint cannot be read, the sample does not fit its plan, or the file cannot be written.
    ProsmaError
        The ONNX model differs from PyTorch, or bioimageio.core's test fails; then nothing is left behind.
    """
    require_packages("onnx", "onnxscript", "onnxruntime", "bioimageio.core")
    _require_pydantic()
    from bioimageio.core import test_description
    from bioimageio.spec import ValidationContext, save_bioimageio_package
    from pydantic import ValidationError

    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    path, title = Path(path), name or _title(checkpoint)
    with TemporaryDirectory() as made, written_whole(path) as temporary, _quiet():
        folder = Path(made)
        divisor = _write_tensors(folder, checkpoint, sample)
        (folder / _README).write_text(_readme(checkpoint, title, description, card), encoding="utf-8")
        (folder / _WEIGHTS).touch()
        # The package is looked at whole below; here it would ask the network whether its links exist.
        with ValidationContext(perform_io_checks=False):
            try:
                model = _described(checkpoint, divisor, folder, title, description, authors, license)
            except ValidationError as error:
                wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise ConfigError(
                    f"bioimage.io does not take this description ({wrong}); change it"
                ) from error
            export_onnx(checkpoint, folder / _WEIGHTS)
            save_bioimageio_package(model, output_path=temporary)
        summary = test_description(temporary, weight_format="onnx", devices=["cpu"])
        if summary.status != "passed":
            wrong = "; ".join(error.msg for detail in summary.details for error in detail.errors)
            raise ProsmaError(
                f"bioimageio.core does not accept the package ({wrong}), so '{path}' was not written; export "
                f"ONNX instead, and report it"
            )
    return path


def _write_tensors(folder: Path, checkpoint: Checkpoint, sample: Image | None) -> int:
    """Write what goes in and what comes out by PyTorch and our own preparation; the divisor."""
    plan, network = checkpoint.plan, checkpoint.build()
    given = _piece(plan, sample, network.divisor)
    seen = normalise(given, plan) if _can_say_intensity(plan) else given
    with torch.inference_mode():
        expected = probabilities_of(network(torch.from_numpy(seen)[None])).numpy()
    np.save(folder / _TEST_INPUT, given[None])
    np.save(folder / _TEST_OUTPUT, expected)
    return network.divisor


def _piece(plan: Plan, sample: Image | None, divisor: int) -> np.ndarray:
    """Middle of an image (C, *spatial) as the package takes it: on the plan's grid, sizes of whole cells."""
    if sample is None:
        sample, plan = _phantom(plan), plan.model_copy(update={"spacing": None, "side": None})
    if _can_say_intensity(plan):
        plan = plan.model_copy(update=_AS_IT_IS)
    prepared = prepare(sample, plan)
    array, across = prepared.array, 1 + cut_axis(plan, sample.geometry)
    while array.ndim > plan.dims + 1:
        array, across = array.take(array.shape[across] // 2, across), 1
    short = [max(0, divisor - n) for n in array.shape[1:]]
    array = np.pad(array, [(0, 0), *((0, n) for n in short)], mode="edge")
    cut = [slice(None)]
    for n, window in zip(array.shape[1:], plan.window, strict=True):
        size = min(n, max(window, divisor)) // divisor * divisor
        cut.append(slice((n - size) // 2, (n - size) // 2 + size))
    return np.ascontiguousarray(array[tuple(cut)])


def _phantom(plan: Plan) -> Image:
    """A made-up patient with the plan's axes and channels."""
    volume = plan.dims == 3 or plan.axes == 3 or plan.intensity == "ct"
    image = (ct_case(0) if volume else ultrasound_case(0, (512, 512))).read_image()
    return Image(np.repeat(image.array, plan.channels, axis=0), image.geometry)


def _can_say_intensity(plan: Plan) -> bool:
    """Whether the rule can be applied to what the network sees; not if it needs the whole volume."""
    return plan.intensity == "ct" or plan.axes in (0, plan.dims)


def _described(
    checkpoint: Checkpoint,
    divisor: int,
    folder: Path,
    name: str,
    description: str,
    authors: Sequence[str],
    license: str | None,
) -> ModelDescr:
    from bioimageio.spec.generic.v0_3 import Doi
    from bioimageio.spec.model import v0_5

    plan, network = checkpoint.plan, checkpoint.spec.network
    space = [v0_5.AxisId(axis) for axis in "zyx"[-plan.dims :]]
    image = v0_5.InputTensorDescr(
        id=v0_5.TensorId(INPUT),
        description=_grid_in_words(plan),
        axes=[
            v0_5.BatchAxis(),
            v0_5.ChannelAxis(channel_names=[f"channel_{n}" for n in range(plan.channels)]),
            *(
                v0_5.SpaceInputAxis(id=a, size=v0_5.ParameterizedSize(min=divisor, step=divisor))
                for a in space
            ),
        ],
        pad=v0_5.ReflectPadding(mode="reflect"),
        data=v0_5.IntervalOrRatioDataDescr(type="float32"),
        test_tensor=v0_5.FileDescr(source=folder / _TEST_INPUT),
        preprocessing=_preprocessing(plan),
    )
    probabilities = v0_5.OutputTensorDescr(
        id=v0_5.TensorId(OUTPUT),
        description="probability of each class, background first; they sum to 1",
        axes=[
            v0_5.BatchAxis(),
            v0_5.ChannelAxis(channel_names=list(plan.class_names)),
            *(
                v0_5.SpaceOutputAxis(id=a, size=v0_5.SizeReference(tensor_id=image.id, axis_id=a))
                for a in space
            ),
        ],
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0, 1)),
        test_tensor=v0_5.FileDescr(source=folder / _TEST_OUTPUT),
    )
    tolerance = v0_5.ReproducibilityTolerance(relative_tolerance=0, absolute_tolerance=PARITY)
    return v0_5.ModelDescr(
        name=name,
        description=description or f"Segments {', '.join(plan.class_names[1:])}.",
        documentation=v0_5.FileDescr(source=folder / _README),
        authors=[v0_5.Author(name=author) for author in authors],
        license=None if license is None else v0_5.LicenseId(license),
        cite=[v0_5.CiteEntry(text=PAPER, doi=Doi(PAPER_DOI))] if network == OURS else [],
        tags=list(dict.fromkeys(("segmentation", "unet", network, f"{plan.dims}d"))),
        inputs=[image],
        outputs=[probabilities],
        weights=v0_5.WeightsDescr(onnx=v0_5.OnnxWeightsDescr(source=folder / _WEIGHTS, opset_version=OPSET)),
        config=v0_5.Config.model_validate(
            {
                "bioimageio": v0_5.BioimageioConfig(reproducibility_tolerance=[tolerance]),
                "prosma": {"version": __version__, "plan": plan.model_dump(mode="json")},
            }
        ),
    )


def _preprocessing(plan: Plan) -> list[Any]:
    """The plan's intensity rule in the specification's words; empty where it has none."""
    from bioimageio.spec.model import v0_5

    if not _can_say_intensity(plan):
        return []
    if plan.intensity == "ct":
        low, high = plan.clip
        fixed = v0_5.FixedZeroMeanUnitVarianceKwargs(mean=plan.mean, std=plan.std)
        return [
            v0_5.ClipDescr(kwargs=v0_5.ClipKwargs(min=low, max=high)),
            v0_5.FixedZeroMeanUnitVarianceDescr(kwargs=fixed),
        ]
    each = v0_5.ZeroMeanUnitVarianceKwargs(axes=[v0_5.AxisId(axis) for axis in "zyx"[-plan.dims :]])
    return [v0_5.ZeroMeanUnitVarianceDescr(kwargs=each)]


def _require_pydantic() -> None:
    """Refuse the releases of pydantic that bioimageio.spec cannot write a description with.

    Raises ``ConfigError``.
    """
    found, spec = version("pydantic"), version("bioimageio.spec")
    if _release(found) >= (2, 14) and _release(spec) < SPEC_WITH_PYDANTIC_2_14:
        raise ConfigError(
            f"bioimageio.spec {spec} does not work with pydantic {found}; install an older one with: "
            f'python -m pip install "pydantic<2.14"'
        )


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (2, 14, 0) of 2.14.0 and of 2.14.0b1."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


def _network_name(checkpoint: Checkpoint) -> str:
    return "ProSMA-UNet" if checkpoint.spec.network == OURS else checkpoint.spec.network


def _title(checkpoint: Checkpoint) -> str:
    """A name that bioimage.io takes, of the network and the classes."""
    plan = checkpoint.plan
    classes = re.sub(r"[^A-Za-z0-9_+\- ()]+", " ", " ".join(plan.class_names[1:])).strip()
    return f"{_network_name(checkpoint)} {plan.dims}D {classes}"[:64].strip()


def _grid_in_words(plan: Plan) -> str:
    if plan.side is not None:
        return f"image resampled to a short side of {plan.side} pixels"
    if plan.spacing is None:
        return "image as it is, not resampled"
    spacing = " x ".join(f"{s:g}" for s in plan.spacing)
    if plan.unit == "pixel":
        return f"image shrunk by {spacing} along its axes"
    return f"image resampled to {spacing} {plan.unit}"


def _readme(checkpoint: Checkpoint, name: str, description: str, card: str = "") -> str:
    """What a person has to know to use the package, and what no program will do for them."""
    plan = checkpoint.plan
    is_resampled = plan.spacing is not None or plan.side is not None
    resampling = "" if not is_resampled else " **Programs that read this package do not do it for you.**"
    rule = plan.in_words().rpartition("intensity: ")[2]
    if _can_say_intensity(plan):
        rule += ". Programs that read this package apply it."
    else:
        rule += (
            ", over the whole volume. **It is not part of this package**, which sees one slice at a time: do "
            "it first, then give the slices."
        )
    seen = "What a gate lets through" if checkpoint.spec.gated_levels else "What it finds"
    figures = "".join(f"\n- {figure}: {value:.3f}" for figure, value in checkpoint.metrics.items())
    parts = [
        card.strip() or f"# {name}",
        description,
        f"A {plan.dims}D {_network_name(checkpoint)}, trained and exported with napari-prosma {__version__}. "
        f"It gives the probability of {len(plan.class_names)} classes: {', '.join(plan.class_names)}.",
        f"## Before the network\n\n- Grid: {_grid_in_words(plan)}.{resampling}\n- Intensity: {rule}",
        f"## Large images\n\nThe network was trained on patches of {' x '.join(map(str, plan.patch))}. "
        f"{seen} depends on the whole window: run windows of {' x '.join(map(str, plan.window))} that "
        "overlap by half, and blend them, as `prosma segment` does.",
        f"## Validation\n{figures or chr(10) + 'No figures were kept with this model.'}",
        "Not a medical device.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what bioimageio logs on the way; what is wrong is in its summary."""
    from loguru import logger

    logger.disable("bioimageio")
    try:
        yield
    finally:
        logger.enable("bioimageio")
