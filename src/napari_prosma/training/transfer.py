"""Fine-tuning: another model's plan and weights, brought to new channels and classes; what then learns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_prosma.data.class_names import by_name, plain, says_nothing
from napari_prosma.data.fingerprint import CaseFacts, Plan, make_plan
from napari_prosma.data.metrics import Overlap, overlaps_of
from napari_prosma.data.planes import AXES
from napari_prosma.errors import ConfigError
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.windows import unwrap
from napari_prosma.nn.build import Network, build_model
from napari_prosma.nn.network_kinds import OURS
from napari_prosma.training.batches import PreparedCases
from napari_prosma.training.figures import validation_figures

LEARNS = {
    "all": ("entry", "encoder", "up", "gates", "decoder", "head"),
    "decoder": ("up", "gates", "decoder", "head"),
    "gates and head": ("gates", "head"),
}
"""Parts of the network that learn, by the values of ``TrainConfig.trains``."""
INPUT = {
    1: ("encoder.0.body.0.weight", "encoder.0.shortcut.0.weight"),
    2: ("entry.0.weight",),
}
"""The convolutions that see the image itself, by ``ModelSpec.entry``."""
HEAD = ("head.weight", "head.bias")
ARCHITECTURE = ("network", "widths", "gate", "gate_options", "gated_levels", "norm", "entry")
"""Settings of ``TrainConfig`` that say which network is built."""


def architecture(source: Checkpoint) -> dict[str, Any]:
    """Settings of ``TrainConfig`` with which all of ``source`` can be taken over."""
    return {name: getattr(source.spec, name) for name in ARCHITECTURE}


# ---- the plan -------------------------------------------------------------------------------------------


def adapted_plan(
    source: Checkpoint, facts: Sequence[CaseFacts], class_names: Sequence[str], **rules: Any
) -> tuple[Plan, tuple[str, ...]]:
    """The plan of ``source`` for other images and classes, and what a user should know of it.

    Spacing, patch and intensity stay those that the model's features are used to; channels and classes are
    the new ones, and the batch follows the memory. By the rules of a new plan are made: spacing and patch
    where the images know no physical size and the model's did, or the other way round; a spacing where the
    model has none; the intensity where the model's is the CT rule and these are no CT images.

    Parameters
    ----------
    facts : of every case
    class_names : background first
    **rules
        As for :func:`~napari_prosma.data.fingerprint.make_plan`; what is given there is taken.

    Raises
    ------
    ConfigError
        A 3D model for 2D images, or ``dims`` other than the model's.
    CheckpointError
        The model is an ensemble.
    DataError
        As ``make_plan``.
    """
    source.require_one_network("trained further")
    old, axes = source.plan, min((len(fact.shape) for fact in facts), default=3)
    if old.dims > axes:
        raise ConfigError(
            f"the model '{source.path}' is 3D and the images are 2D; start from a 2D model, or from none"
        )
    if rules.get("dims") not in (None, old.dims):
        raise ConfigError(
            f"the model '{source.path}' is {old.dims}D but {rules['dims']}D was chosen; leave that out, or "
            f"start from another model"
        )
    given = {name for name, value in rules.items() if value is not None}
    rules = {**rules, "dims": old.dims}
    kept: dict[str, Any] = {"axes": old.axes} if old.axes else {}
    if old.axes == len(AXES) and rules.get("slice_axis") is None:
        kept["slice_axis"] = rules["slice_axis"] = old.slice_axis
    if old.side is not None:  # whatever the images know of their size
        facts = [replace(fact, unit="pixel", spacing=(1.0,) * len(fact.shape)) for fact in facts]
    notices = []
    if old.side is not None or all((fact.unit == "pixel") == (old.unit == "pixel") for fact in facts):
        resized = old.dims == 2 and "side" in given
        if "patch" not in given and not resized:
            rules["patch"] = old.patch
            kept["window"] = old.window
        if "spacing" not in given and not resized and (old.spacing or old.side):
            kept |= {name: getattr(old, name) for name in ("spacing", "unit", "side", "native")}
    else:
        known = "had no physical size and some of these have one"
        if old.unit != "pixel":
            known = f"had a size in {old.unit} and some of these have none"
        notices.append(f"The images of the model {known}: spacing and patch are planned again.")
    plan = make_plan(facts, class_names, **rules)
    if old.intensity == plan.intensity or (old.intensity == "zscore" and "intensity" not in given):
        kept |= {name: getattr(old, name) for name in ("intensity", "clip", "mean", "std")}
    elif "intensity" not in given:
        notices.append("The model was trained on CT and these are no CT images: intensity is planned anew.")
    return plan.model_copy(update=kept), tuple(notices)


# ---- the weights ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """Which tensors of a network came from another model, by their names."""

    taken: frozenset[str]  # as they were; ``make_optimizer`` lets them learn slowly
    adapted: tuple[str, ...]  # brought to other channels or classes
    new: tuple[str, ...]  # as the network began
    # (int, int): of the images: the model's and the network's; equal where the first convolution is new.
    channels: tuple[int, int]
    # kept_classes, new_classes: foreground classes whose part of the head came over, and those that begin
    # anew.
    kept_classes: tuple[str, ...]
    new_classes: tuple[str, ...]

    def in_words(self) -> str:
        """One line a person can check, such as ``412 of 415 tensors taken over; head: liver kept``."""
        said = [
            f"{len(self.taken)} of {len(self.taken) + len(self.adapted) + len(self.new)} tensors taken over"
        ]
        if self.channels[0] != self.channels[1]:
            said.append(f"first convolution adapted from {self.channels[0]} to {self.channels[1]} channel(s)")
        parts = Counter(name.split(".")[0] for name in self.new if name not in HEAD)
        if parts:
            said.append(f"new: {', '.join(f'{count} of the {part}' for part, count in parts.items())}")
        classes = [f"{', '.join(self.kept_classes)} kept"] if self.kept_classes else []
        classes += [f"{', '.join(self.new_classes)} new"] if self.new_classes else []
        return "; ".join([*said, f"head: {', '.join(classes)}"])


@torch.no_grad()
def take_over(network: Network, source: Checkpoint, class_names: Sequence[str]) -> Transfer:
    """Give ``network`` whatever weights of ``source`` fit it; the others stay as they are.

    Tensors of the same name and shape are copied. The first convolutions answer to equal channels as they
    did. The head is matched by the names of the classes; one logit ``w`` counts as the two logits (0, w).

    Parameters
    ----------
    network : ProSMAUNet or a baseline
        Changed in place; its memory and device stay.
    class_names : background first
        Of ``network``.

    Raises
    ------
    CheckpointError
        The model is an ensemble.
    """
    source.require_one_network("trained further")
    state, weights = network.state_dict(), source.weights
    common = _common_classes(source.plan.class_names, class_names)
    entry, was = network.spec.entry, source.spec.entry
    heads = {
        _by_class(tensors[HEAD[0]], stride).shape[1:] if HEAD[0] in tensors else None
        for tensors, stride in ((weights, was), (state, entry))
    }
    if None in heads or len(heads) > 1:
        common = {}
    offered = {name: tensor for name, tensor in weights.items() if name not in HEAD}
    seeing = [name for name in INPUT[entry] if name in weights and entry == was]
    offered |= {name: _for_channels(weights[name], network.spec.in_channels) for name in seeing}
    if common:
        for name in HEAD:
            old, new = (_by_class(tensors[name], entry) for tensors in (weights, state))
            offered[name] = _by_class(_for_classes(old, new, common), entry)
    fitting = {
        name for name, tensor in offered.items() if name in state and tensor.shape == state[name].shape
    }
    for name in fitting:
        state[name].copy_(offered[name])
    taken = frozenset(name for name in fitting if torch.equal(offered[name], weights[name]))
    return Transfer(
        taken=taken,
        adapted=tuple(name for name in state if name in fitting - taken),
        new=tuple(name for name in state if name not in fitting),
        channels=(source.spec.in_channels if seeing else network.spec.in_channels, network.spec.in_channels),
        kept_classes=tuple(name for k, name in enumerate(class_names) if k and k in common),
        new_classes=tuple(name for k, name in enumerate(class_names) if k and k not in common),
    )


def _by_class(tensor: Tensor, entry: int) -> Tensor:
    """A tensor of the head with the classes first, or back: a transposed convolution has them second."""
    return tensor.transpose(0, 1) if entry > 1 and tensor.ndim > 1 else tensor


def _common_classes(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Index in ``new`` -> index in ``old`` of the classes that both have; {} without a foreground class."""
    places = by_name(old)
    found = {k: places.get(plain(name)) for k, name in enumerate(new) if k}
    known = {k: place for k, place in found.items() if place is not None}
    if not known and len(old) == len(new) == 2 and any(map(says_nothing, (old[1], new[1]))):
        known = {1: 1}  # masks of one structure that nobody named: the one that the model finds
    return {0: 0, **known} if known else {}


def _for_channels(weight: Tensor, channels: int) -> Tensor:
    """A convolution (O, I, *kernel) for ``channels`` in place of I; its answer to equal channels stays.

    Common channels keep their weights. What a dropped channel added is spread over the others; an added one
    gets the mean, and all are scaled down.
    """
    before = weight.shape[1]
    if channels < before:
        return weight[:, :channels] + weight[:, channels:].sum(dim=1, keepdim=True) / channels
    mean = weight.mean(dim=1, keepdim=True)
    return torch.cat([weight, *[mean] * (channels - before)], dim=1) * (before / channels)


def _for_classes(old: Tensor, new: Tensor, common: Mapping[int, int]) -> Tensor:
    """A head's weight or bias (K, ...) like ``new``, with the rows of ``old`` for the classes in common."""
    logits = torch.cat([torch.zeros_like(old), old]) if len(old) == 1 else old
    if len(new) == 1:
        return logits[[common[1]]] - logits[[0]]
    return torch.stack([logits[common[k]] if k in common else new[k].to(old.device) for k in range(len(new))])


# ---- what learns ----------------------------------------------------------------------------------------


def trained_parts(network: nn.Module, trains: str, new: Collection[str] = ()) -> tuple[nn.Module, ...]:
    """Freeze what does not learn, and return it: its norms must keep their running statistics.

    Parameters
    ----------
    network : ProSMAUNet, or a wrapper of one
    trains : key of ``LEARNS``
    new : names of tensors
        Not taken over (``Transfer.new``).

    Raises
    ------
    ConfigError
        What would be frozen was not taken over whole and would keep random values, or the network is not made
        of these parts.
    """
    built, frozen = unwrap(network).spec.network, _frozen(trains, unwrap(network))
    if trains != "all" and built != OURS:
        raise ConfigError(f"only {OURS} can learn in part, but the network is {built!r}; train all of it")
    random = [part for part in frozen if any(name.startswith(f"{part}.") for name in new)]
    if random:
        raise ConfigError(
            f"only the {trains} would learn, but the {' and '.join(random)} of this network differs from the "
            f"model's and would stay random; train all, or take the widths of the model"
        )
    parts = tuple(unwrap(network).get_submodule(name) for name in frozen)
    for part in parts:
        part.requires_grad_(False)
    return parts


def set_training(network: nn.Module, trains: str) -> None:
    """Training mode for what learns, evaluation mode for the rest; instead of ``network.train()``."""
    network.train()
    for name in _frozen(trains, unwrap(network)):
        unwrap(network).get_submodule(name).eval()


def _frozen(trains: str, network: nn.Module) -> list[str]:
    return [part for part in LEARNS["all"] if part not in LEARNS[trains] and hasattr(network, part)]


# ---- before and after -----------------------------------------------------------------------------------


def baseline(
    source: Checkpoint,
    cases: PreparedCases,
    indices: Sequence[int],
    plan: Plan,
    device: torch.device,
    most: float = math.inf,
) -> Generator[str, None, tuple[dict[str, float], list[Overlap]]]:
    """How well ``source`` itself segments cases of a new plan: ``validation_figures``, and of what.

    At most so many windows of a case are looked at, as :func:`~napari_prosma.training.validation.validate`.

    Only classes that both know by name have figures; the means over all classes only where both know all of
    them. What it takes for another class counts as background. The name of the case in work is yielded after
    every few windows.
    """
    from napari_prosma.training.validation import validate  # it plans with this module

    common = _common_classes(source.plan.class_names, plan.class_names)
    if not common:
        return {}, []
    with torch.device("meta"):
        network = build_model(replace(source.spec, in_channels=plan.channels))
    network.to_empty(device=device)
    if take_over(network, source, source.plan.class_names).new:
        return {}, []
    known = {name for k, name in enumerate(plan.class_names) if k and k in common}
    overlaps: list[Overlap] = []
    for case, found in validate(network, cases, indices, plan, most):
        yield case.name
        if found is not None:
            labels = translated(found, source.plan.class_names, plan.class_names)
            overlaps += overlaps_of(case.name, labels, case.label, plan.class_names)
    overlaps = [overlap for overlap in overlaps if overlap.class_name in known]
    of_all = len(common) == len(plan.class_names)
    figures = validation_figures(overlaps)
    return {name: value for name, value in figures.items() if of_all or "/" in name}, overlaps


def translated(labels: np.ndarray, old: Sequence[str], new: Sequence[str]) -> np.ndarray:
    """Class indices of the names ``old`` as those of ``new``; a class that ``new`` lacks becomes 0."""
    table = np.zeros(len(old), np.uint8)
    for k, place in _common_classes(old, new).items():
        table[place] = k
    return table[labels]
