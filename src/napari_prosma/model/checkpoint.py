"""One file that holds a model whole: weights by safetensors, everything else as JSON in its header.

Opening one runs no code. It is written under a temporary name, flushed and renamed: whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.limits import require_count
from napari_prosma.data.metrics import Overlap
from napari_prosma.errors import CheckpointError, DataError
from napari_prosma.model.header import BEST as BEST  # known from here, too
from napari_prosma.model.header import ENSEMBLE as ENSEMBLE
from napari_prosma.model.header import FOLD as FOLD
from napari_prosma.model.header import FORMAT as FORMAT
from napari_prosma.model.header import LAST as LAST
from napari_prosma.model.header import LENGTH, metadata_of, model_file, parse_header, require_no_longer
from napari_prosma.nn.build import Network, build_model
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.network_kinds import OURS
from napari_prosma.nn.spec import ModelSpec

STATE, RAW, MEMBERS = "state", "raw", "members"
"""Prefixes of tensors: what a run needs to go on, its weights where their average is kept, and the networks
of an ensemble."""
COUNT = "num_batches_tracked"
"""End of the name under which a norm counts its batches; nothing that it computes hangs on it."""
MOST_MEMBERS, MOST_LEVELS, MOST_ELEMENTS = 100, 16, 2**31
"""Of an ensemble; of a network, each of whose levels halves the image; of a patch."""
_CHECKSUM_BYTES = 16


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with everything needed to use it.

    Attributes
    ----------
    spec : ModelSpec
    plan : Plan
        What was done to the images; done again in segmentation.
    weights : tensors by name
        Of an ensemble: those of its k-th network under ``members.<k>.``, from 0.
    config : dict
        The whole ``TrainConfig`` as JSON values.
    epoch : int
        Epochs finished when it was written.
    metrics : dict
        Validation figures of that epoch.
    split : dict
        Names of the ``training`` and ``validation`` cases.
    overlaps : tuple of Overlap
        Of every validation case and class, of which ``metrics`` are made; empty where nobody kept them.
    windows : int
        At most so many of each case were looked at for these; 0 where cases were looked at whole.
    state : tensors by name
        Of the optimizer (``optimizer.``) and the objective (``objective.``), and the weights that are trained
        where ``weights`` are their average (``raw.``); empty but in the last checkpoint of a run.
    place : dict
        Where the run stands: ``step``, ``losses`` of the epoch so far, ``best``, ``seconds``, and whatever
        else it keeps, such as how many steps were ``learned``.
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
    overlaps: tuple[Overlap, ...] = ()
    windows: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    place: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def members(self) -> int:
        """Networks in it: more than one in an ensemble."""
        return len(_members(self.weights)) or 1

    @property
    def steps(self) -> int:
        """Training steps that shaped it, those of a model it was started from included.

        Where the run's place does not tell, as in older versions that started from a model, the norms do:
        they count every part of a batch, and those of older versions every preview.
        """
        place, seen = self.place, (int(t) for name, t in self.weights.items() if name.endswith(COUNT))
        if "learned" in place:
            return int(place["learned"])
        if place.get("step") and not self.config.get("start_from"):
            return int(place["step"])
        return max(seen, default=place.get("step", 0))

    @property
    def label_rule(self) -> LabelRule | None:
        """Which stored value was which class in the labels that it learned from, if it tells."""
        kept = self.config.get("labels")
        return TypeAdapter(LabelRule).validate_python(kept) if kept else None

    def build(self, device: torch.device | str = "cpu") -> Network | Ensemble:
        """The network with these weights, in evaluation mode."""
        model = _skeleton(self.spec, self.weights)
        # Copied, not assigned: in memory the weights lie as in training, in a file contiguous, and the two
        # round differently.
        model.to_empty(device=device).load_state_dict(self.weights)
        return model.eval()

    def require_one_network(self, use: str) -> None:
        """Refuse an ensemble, which cannot be ``use`` ("inspected", ...).

        Raises
        ------
        CheckpointError
        """
        if self.members > 1:
            fold = f"'{self.path.parent / f'{FOLD}1'}'" if self.path else f"{FOLD}1 in its run folder"
            raise CheckpointError(
                f"'{self.path or 'the model'}' is an ensemble of {self.members} networks and cannot be {use} "
                f"as one; choose one of its folds, such as {fold}"
            )

    def require_our_gates(self) -> None:
        """Refuse a network of another paper, which has no gates of ours to look into.

        Raises
        ------
        CheckpointError
        """
        if self.spec.network != OURS:
            raise CheckpointError(
                f"'{self.path or 'the model'}' holds the network {self.spec.network!r}, which has none of "
                f"the gates that can be inspected; choose a model of {OURS} (to compare with attention, one "
                f"with its gate 'attention')"
            )


def ensemble_of(members: Sequence[Checkpoint], config: dict[str, Any]) -> Checkpoint:
    """One checkpoint that answers with the mean probability of several models of one plan.

    Its figures are their mean; every one of their cases was trained on by some.

    Raises
    ------
    CheckpointError
        They differ in architecture or plan, or are ensembles themselves.
    """
    first = members[0]
    for member in members:
        member.require_one_network("part of another")
        if member.spec != first.spec or not member.plan.agrees_with(first.plan):
            raise CheckpointError(
                f"'{first.path}' and '{member.path}' differ in their network or plan; an ensemble needs "
                f"models trained with the same settings"
            )
    figures = {name: [m.metrics[name] for m in members if name in m.metrics] for name in first.metrics}
    names = {name for member in members for part in member.split.values() for name in part}
    sizes = [member.plan.largest for member in members]
    largest = tuple(map(max, *sizes, sizes[0])) if all(sizes) else ()
    return Checkpoint(
        spec=first.spec,
        plan=first.plan.model_copy(update={"largest": largest}),
        weights={
            f"{MEMBERS}.{k}.{name}": tensor
            for k, member in enumerate(members)
            for name, tensor in member.weights.items()
        },
        config=config,
        epoch=max(member.epoch for member in members),
        metrics={name: sum(values) / len(values) for name, values in figures.items()},
        split={"training": sorted(names), "validation": []},
        overlaps=tuple(overlap for member in members for overlap in member.overlaps),
        windows=max(member.windows for member in members),
    )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write whole or not at all; what stood at ``path`` stays valid until the new file is complete.

    Raises
    ------
    DataError
        The folder cannot be made or written to, or is full.
    """
    text, tensors = _stored(checkpoint)
    content = save(tensors, metadata={"prosma": text, "checksum": _checksum(text, tensors)})
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def checksum_of(checkpoint: Checkpoint) -> str:
    """Hash of all that a checkpoint holds, the same on every machine."""
    return _checksum(*_stored(checkpoint))


def _stored(checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor]]:
    """Header and tensors of the file."""
    header = {
        "format": FORMAT,
        "spec": asdict(checkpoint.spec),
        "plan": checkpoint.plan.model_dump(mode="json"),
        "config": checkpoint.config,
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "split": checkpoint.split,
        "overlaps": [astuple(overlap) for overlap in checkpoint.overlaps],
        "windows": checkpoint.windows,
        "place": checkpoint.place,
    }
    state = {f"{STATE}.{name}": tensor for name, tensor in checkpoint.state.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in (checkpoint.weights | state).items()}
    return json.dumps(header), tensors


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint, given as a file, a folder or the name of a shipped model (``model.header``).

    Weights that were stored in half precision are read as float32.

    Raises
    ------
    CheckpointError
        Missing, cut short, not ours, of a newer format, or with a tensor of the wrong name or shape.
    """
    path = model_file(path)
    with _cut_short_in_words(path):
        require_no_longer(path)
        # Read, not mapped: Windows would not let a run replace it, and whoever cuts it short would end us.
        content = path.read_bytes()
        metadata = _metadata(path, content)
    with _damage_in_words(path):  # before the tensors: a newer file that is cut short is newer, too
        header = parse_header(path, metadata["prosma"])
    with _cut_short_in_words(path):
        weights = load(content)
    if metadata.get("checksum", "") not in ("", _checksum(metadata["prosma"], weights)):
        raise CheckpointError(
            f"'{path}' is no longer what was written (its checksum differs): the disk or a copy changed it; "
            f"copy it again, or choose another checkpoint"
        )
    return _assemble(path, header, weights)


@contextmanager
def _cut_short_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, DataError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"'{path}' is no checkpoint or is cut short ({error}); choose another file, such as the run's "
            f"{LAST}, or copy it again"
        ) from error


@contextmanager
def _damage_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise CheckpointError(str(error)) from error
    except (ValidationError, ValueError, KeyError, TypeError, RuntimeError) as error:
        wrong = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else error
        )
        raise CheckpointError(
            f"the header of '{path}' is damaged ({wrong}); choose another checkpoint"
        ) from error


def split_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with ``prefix`` and a dot, under the rest of their name."""
    start = f"{prefix}."
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def _metadata(path: Path, content: bytes) -> dict[str, str]:
    """What the header says beside the tensors, as far as the file can hold them."""
    length = int.from_bytes(content[:LENGTH], "little")
    return metadata_of(path, content[LENGTH : LENGTH + length])


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Of everything that a file holds: it tells a flipped bit, not an enemy."""
    digest = hashlib.blake2b(text.encode(), digest_size=_CHECKSUM_BYTES)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Place(BaseModel):
    """What a run must find in ``place`` to go on."""

    model_config = ConfigDict(extra="allow")

    step: NonNegativeInt
    losses: list[float]
    best: float
    seconds: float = Field(ge=0, allow_inf_nan=False)


class _Header(BaseModel):
    """The JSON of a file, in every format so far; what an older one lacks has a default."""

    format: PositiveInt
    spec: ModelSpec
    plan: Plan
    config: dict[str, Any]
    epoch: NonNegativeInt
    metrics: dict[str, float]
    split: dict[str, list[str]]
    overlaps: list[tuple[str, str, NonNegativeInt, NonNegativeInt, NonNegativeInt]] = []
    windows: NonNegativeInt = 0
    place: _Place | None = None


def _assemble(path: Path, read: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    with _damage_in_words(path):
        header = _Header.model_validate({**read, "place": read.get("place") or None})
        checkpoint = Checkpoint(
            spec=header.spec,
            plan=header.plan,
            weights={name: _whole(t) for name, t in tensors.items() if not name.startswith(f"{STATE}.")},
            config=header.config,
            epoch=header.epoch,
            metrics=header.metrics,
            split=header.split,
            overlaps=tuple(Overlap(*values) for values in header.overlaps),
            windows=header.windows,
            state=split_prefix(tensors, STATE),
            place=header.place.model_dump() if header.place else {},
            path=path,
        )
        _require_holdable(path, header, checkpoint.weights)
        expected = _expected(header.spec, checkpoint.weights)
    spec, plan = checkpoint.spec, checkpoint.plan
    if (spec.dims, spec.in_channels, spec.out_channels) != (plan.dims, plan.channels, plan.out_channels):
        raise CheckpointError(
            f"the header of '{path}' is damaged (its network and its plan disagree); choose another file"
        )
    _require_same(path, checkpoint.weights, expected)
    raw = {name: t for name, t in checkpoint.state.items() if name.startswith(f"{RAW}.")}
    if raw:
        _require_same(path, raw, {f"{RAW}.{name}": t for name, t in expected.items()})
    return checkpoint


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights to be stored in half precision; biases and statistics, which are few, stay as they are.

    Raises
    ------
    CheckpointError
        A weight is larger than half precision can hold.
    """
    half = {name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in weights.items()}
    for name, tensor in half.items():
        if tensor.dtype == torch.float16 and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"the tensor '{name}' holds weights that are too large for half precision; keep the model in "
                f"single precision"
            )
    return half


def _whole(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _require_holdable(path: Path, header: _Header, weights: Mapping[str, Tensor]) -> None:
    """Refuse a network of more levels or members than there are tensors for, before it is built."""
    spec, members = header.spec, len(_members(weights)) or 1
    require_count(path, "networks", members, MOST_MEMBERS)
    require_count(path, "levels of a network", len(spec.widths), min(MOST_LEVELS, len(weights) // members))
    held = sum(tensor.numel() for tensor in weights.values())
    require_count(path, "channels", max(*spec.widths, spec.in_channels, spec.out_channels), held)
    require_count(path, "elements of a patch", math.prod(header.plan.patch), MOST_ELEMENTS)
    require_count(path, "elements of a window", math.prod(header.plan.window), MOST_ELEMENTS)


def _expected(spec: ModelSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names, shapes and types of the weights: of an ensemble those of one network, once per member."""
    with torch.device("meta"):
        one = build_model(spec).state_dict()
    members = sorted(_members(weights))
    return {f"{MEMBERS}.{k}.{name}": t for k in members for name, t in one.items()} if members else one


def _members(weights: Mapping[str, Tensor]) -> set[str]:
    """Numbers of the networks of an ensemble, as they stand in the names; none of a single network."""
    return {name.split(".")[1] for name in weights if name.startswith(f"{MEMBERS}.")}


def _skeleton(spec: ModelSpec, weights: Mapping[str, Tensor]) -> Network | Ensemble:
    """The network that such weights belong to, without any memory of its own."""
    with torch.device("meta"):
        count = len(_members(weights))
        return Ensemble([build_model(spec) for _ in range(count)]) if count else build_model(spec)


def _require_same(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names, shapes or types are not those of the network."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise CheckpointError(f"'{path}' lacks the tensor '{name}'; choose another checkpoint")
        if name not in expected:
            raise CheckpointError(f"'{path}' holds a tensor '{name}' that its network lacks; choose another")
        held, needed = found[name], expected[name]
        if (held.shape, held.dtype) != (needed.shape, needed.dtype):
            raise CheckpointError(
                f"in '{path}' the tensor '{name}' is {held.dtype} of shape {tuple(held.shape)}, its "
                f"network needs {needed.dtype} of {tuple(needed.shape)}; choose another checkpoint"
            )
