"""One file that holds a model whole: weights by safetensors, everything else as JSON in its header.

Opening one runs no code. It is written under a temporary name, flushed and renamed: whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.fingerprint import Plan
from napari_prosma.errors import CheckpointError
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet

FORMAT = 1
STATE = "state"
BEST, LAST = "best.safetensors", "last.safetensors"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with everything needed to use it.

    Attributes
    ----------
    spec : ModelSpec
    plan : Plan
        What was done to the images; done again in segmentation.
    weights : tensors by name
    config : dict
        The whole ``TrainConfig`` as JSON values.
    epoch : int
        Epochs finished when it was written.
    metrics : dict
        Validation figures of that epoch.
    split : dict
        Names of the ``training`` and ``validation`` cases.
    state : tensors by name
        Of the optimizer and the objective; empty but in the last checkpoint of a run.
    place : dict
        Where the run stands: ``step``, ``losses`` of the epoch so far, ``best``, ``seconds``.
    path : Path, optional
        Where it was read from.
    """

    spec: ModelSpec
    plan: Plan
    weights: dict[str, Tensor]
    config: dict[str, Any]
    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)
    split: dict[str, list[str]] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    place: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def steps(self) -> int:
        """Training steps that the batch norms have seen."""
        return int(self.weights["encoder.0.body.1.num_batches_tracked"])

    def build(self, device: torch.device | str = "cpu") -> ProSMAUNet:
        """The network with these weights, in evaluation mode."""
        with torch.device("meta"):
            model = build_model(self.spec)
        # Copied, not assigned: in memory the weights lie as in training, in a file contiguous, and the two
        # round differently.
        model.to_empty(device=device).load_state_dict(self.weights)
        return model.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write whole or not at all; what stood at ``path`` stays valid until the new file is complete.

    Raises
    ------
    DataError
        The folder cannot be made or written to, or is full.
    """
    header = {
        "format": FORMAT,
        "spec": asdict(checkpoint.spec),
        "plan": checkpoint.plan.model_dump(mode="json"),
        "config": checkpoint.config,
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "split": checkpoint.split,
        "place": checkpoint.place,
    }
    state = {f"{STATE}.{name}": tensor for name, tensor in checkpoint.state.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in (checkpoint.weights | state).items()}
    content = save(tensors, metadata={"prosma": json.dumps(header)})
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint, or the best one of a run folder.

    Raises
    ------
    CheckpointError
        Missing, cut short, not ours, of a newer format, or with a tensor of the wrong name or shape.
    """
    path = Path(path)
    if path.is_dir():
        inside = [path / name for name in (BEST, LAST) if (path / name).is_file()]
        if not inside:
            raise CheckpointError(
                f"folder '{path}' holds no checkpoint ({BEST} or {LAST}); train a model into it"
            )
        path = inside[0]
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; give a .safetensors file or a run folder")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "prosma" not in metadata:
                raise CheckpointError(
                    f"'{path}' is a safetensors file but no ProSMA checkpoint; choose one that we wrote"
                )
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"'{path}' is no checkpoint or is cut short ({error}); choose another file, such as the run's "
            f"{LAST}, or copy it again"
        ) from error
    return _assemble(path, metadata["prosma"], weights)


def split_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with ``prefix`` and a dot, under the rest of their name."""
    start = f"{prefix}."
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def _assemble(path: Path, text: str, weights: dict[str, Tensor]) -> Checkpoint:
    try:
        header = json.loads(text)
        if header["format"] > FORMAT:
            raise CheckpointError(
                f"'{path}' was written by a newer version (format {header['format']}, this one reads "
                f"{FORMAT}); update napari-prosma"
            )
        checkpoint = Checkpoint(
            spec=TypeAdapter(ModelSpec).validate_python(header["spec"]),
            plan=Plan(**header["plan"]),
            weights={name: t for name, t in weights.items() if not name.startswith(f"{STATE}.")},
            config=header["config"],
            epoch=header["epoch"],
            metrics=header["metrics"],
            split=header["split"],
            state=split_prefix(weights, STATE),
            place=header.get("place", {}),
            path=path,
        )
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        wrong = "; ".join(e["msg"] for e in error.errors()) if isinstance(error, ValidationError) else error
        raise CheckpointError(
            f"the header of '{path}' is damaged ({wrong}); choose another checkpoint"
        ) from error
    spec, plan = checkpoint.spec, checkpoint.plan
    if (spec.dims, spec.in_channels, spec.out_channels) != (plan.dims, plan.channels, plan.out_channels):
        raise CheckpointError(
            f"the header of '{path}' is damaged (its network and its plan disagree); choose another file"
        )
    weights = checkpoint.weights
    with torch.device("meta"):
        expected = build_model(checkpoint.spec).state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointError(f"'{path}' lacks the tensor '{name}'; choose another checkpoint")
        if name not in expected:
            raise CheckpointError(f"'{path}' holds a tensor '{name}' that its network lacks; choose another")
        found, needed = weights[name], expected[name]
        if (found.shape, found.dtype) != (needed.shape, needed.dtype):
            raise CheckpointError(
                f"in '{path}' the tensor '{name}' is {found.dtype} of shape {tuple(found.shape)}, its "
                f"network needs {needed.dtype} of {tuple(needed.shape)}; choose another checkpoint"
            )
    return checkpoint
