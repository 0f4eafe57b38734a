"""Which unlabelled images, or slices of a volume, a model would probably learn most from: an order.

Those that the model is unsure of come first, unless they are like one that comes before. The order is a
guess: an image may be hard because it is damaged, and one that the model misreads may leave it sure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from napari_prosma.data.case import Case, Image
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.planes import AXES, slice_axis
from napari_prosma.data.preparation import cut_axis, filled
from napari_prosma.data.readers import as_channels
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started, result_of
from napari_prosma.model.applying import Segmentation, named, prepare_for
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.device import usable_device
from napari_prosma.model.features import coarse_copy
from napari_prosma.segmentation.confidence import entropy
from napari_prosma.segmentation.segment import segment

SURE_BACKGROUND = 0.9
"""Where the background is less probable than this something may be, and there the entropy counts."""
LEAST_SHARE = 0.002
"""Of an image: what may be something is taken to cover at least so much, so that specks weigh little."""
_NOTHING = 1e-6
"""Of a score and of a distance: where one is 0 for all that is left, the other tells."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What a model makes of an image, or of a slice, that nobody labelled.

    Attributes
    ----------
    name : str
        Of the image.
    slice : int, optional
        Which of its slices, across the plane in which it was acquired; None = all of the image.
    uncertainty : float
        Mean entropy, as a share of ``log K``, over all elements where the background has a probability below
        0.9; their number is taken to be at least 0.2 % of all. 0 where there are none.
    disagreement : float, optional
        Mean over the same elements of how much mirrored passes, or the networks of an ensemble, disagree.
    share : float
        Of the elements, those where the background has a probability below 0.9.
    features : (F,) float32
        Mean of the network's deepest level.
    """

    name: str
    slice: int | None
    uncertainty: float
    disagreement: float | None
    share: float
    features: np.ndarray

    @property
    def score(self) -> float:
        """By which it is ranked: the disagreement where it is known, else the uncertainty."""
        return self.uncertainty if self.disagreement is None else self.disagreement


@dataclass(frozen=True, eq=False)
class CandidateSeen(Event):
    """The model has looked at an image or a slice."""

    candidate: Candidate


@dataclass(frozen=True)
class LeftOut(Notice):
    """An image cannot be segmented, and why."""


@dataclass(frozen=True, eq=False)
class VolumeSegmented(Event):
    """What the model makes of all of a volume whose slices are ranked."""

    found: Segmentation


@dataclass(frozen=True, eq=False)
class Next:
    """A candidate with its place in the order, from 1.

    ``passed`` counts the candidates with a higher score that come later, since they are more like one that
    comes before.
    """

    place: int
    candidate: Candidate
    passed: int

    @property
    def name(self) -> str:
        """In words, such as ``'scan', slice 12``."""
        seen = self.candidate
        return seen.name if seen.slice is None else f"{seen.name}, slice {seen.slice}"

    @property
    def why(self) -> str:
        """One line: what the model is unsure of, and whether it stands here because it is unlike others."""
        seen = self.candidate
        if not seen.share:
            said = "nothing found, and the model is sure"
        elif seen.disagreement is not None:
            said = f"passes disagree {seen.disagreement:.3f}, area {in_percent(seen.share, 1)}"
        else:
            said = f"unsure {seen.uncertainty:.2f}, area {in_percent(seen.share, 1)}"
        return f"{said}; new" if self.passed else said

    def row(self) -> dict[str, str | float]:
        """A line of a table."""
        seen = self.candidate
        row: dict[str, str | float] = {"place": self.place, "image": seen.name}
        if seen.slice is not None:
            row["slice"] = seen.slice
        row["uncertainty"] = round(seen.uncertainty, 4)
        if seen.disagreement is not None:
            row["disagreement"] = round(seen.disagreement, 4)
        return row | {"why": self.why}


def in_order(candidates: Sequence[Candidate], most: int | None = None) -> list[Next]:
    """The first ``most`` of the candidates, by default all: unsure of, and unlike each other.

    The first has the highest score. Each further one has the highest product of its score and its distance
    to the nearest of those before it, where the distance is one minus the cosine of the angle between
    features, less their mean over all candidates. Of two that are the same image the second comes last.
    """
    if not candidates:
        return []
    scores = np.array([each.score for each in candidates], float)
    features = np.stack([each.features for each in candidates]).astype(float)
    features -= features.mean(axis=0)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(lengths > 0, lengths, 1)
    nearest = np.full(len(candidates), 2.0)  # the largest distance there is
    left = np.ones(len(candidates), bool)
    found: list[Next] = []
    for place in range(1, min(len(candidates), most or len(candidates)) + 1):
        chosen = int(np.argmax(np.where(left, (scores + _NOTHING) * (nearest + _NOTHING), -1)))
        left[chosen] = False
        found.append(Next(place, candidates[chosen], int((scores[left] > scores[chosen]).sum())))
        nearest = np.minimum(nearest, np.maximum(1 - features @ features[chosen], 0))
    return found


def next_images(
    checkpoint: Checkpoint,
    cases: Sequence[Case],
    most: int | None = None,
    mirror: bool = False,
    device: str = "auto",
) -> Iterator[Event]:
    """Rank the cases without a label; the last event is ``Finished`` with a list of :class:`Next`.

    A :class:`CandidateSeen` follows each image; an image that cannot be segmented is told and left out.

    Parameters
    ----------
    most : int, optional
        How many; by default all.
    mirror : bool
        Rank by the disagreement of mirrored passes, as an ensemble's are by that of its networks.

    Raises
    ------
    DataError
        Every case has a label, or none of the others can be segmented.
    ConfigError
        There is nothing to mirror.
    """
    unlabelled = [case for case in cases if case.read_label is None]
    if not unlabelled:
        raise DataError(
            f"all {len(cases)} images have a label; give a folder that has images without one as well"
        )
    look = _Look(checkpoint, mirror, device)
    yield Started(len(unlabelled), "Ranking unlabelled images", str(look.device))
    seen: list[Candidate] = []
    left_out: list[DataError] = []
    for n, case in enumerate(unlabelled, start=1):
        try:
            for event in look.at(case.read_image(), case.name):
                if isinstance(event, Finished):
                    segmented, features = event.result
                    (candidate,) = _candidates(segmented, features, None)
                    seen.append(candidate)
                    yield CandidateSeen(candidate)
        except DataError as error:
            left_out.append(error)
            yield LeftOut(f"{case.name} is left out: {error}")
        yield Progress(n, len(unlabelled), f"{n} of {len(unlabelled)} images")
    if not seen:
        raise DataError(f"none of the {len(unlabelled)} images can be segmented; the first: {left_out[0]}")
    yield Finished(in_order(seen, most))


def next_slices(
    checkpoint: Checkpoint,
    image: Image,
    name: str,
    labelled: Sequence[int] = (),
    most: int | None = None,
    mirror: bool = False,
    device: str = "auto",
) -> Iterator[Event]:
    """Rank the slices of a volume; the last event is ``Finished`` with a list of :class:`Next`.

    A :class:`VolumeSegmented` goes before.

    Parameters
    ----------
    image : (C, z, y, x)
    name : str
    labelled : indices
        Slices, across the plane in which it was acquired, that are not ranked.
    most, mirror
        As :func:`next_images`.

    Raises
    ------
    DataError
        The image is no volume, all of its slices are labelled, or as :func:`segment`.
    ConfigError
        There is nothing to mirror.
    """
    if image.geometry.ndim != len(AXES) or image.geometry.axes[0] == "t":
        raise DataError(
            f"'{name}' has the shape {image.array.shape[1:]}, which has no slices to choose from; open a "
            "volume, or choose a folder of images"
        )
    segmented, features = yield from result_of(_Look(checkpoint, mirror, device).at(image, name))
    yield VolumeSegmented(segmented)
    done = set(labelled)
    every = _candidates(segmented, features, slice_axis(image.geometry))
    found = [each for each in every if each.slice not in done]
    if not found:
        raise DataError(f"every slice of '{name}' is labelled; there is none to choose")
    for candidate in found:
        yield CandidateSeen(candidate)
    yield Finished(in_order(found, most))


class _Look:
    """A model that looks at images."""

    def __init__(self, checkpoint: Checkpoint, mirror: bool, device: str) -> None:
        self._checkpoint, self._name, self._mirror = checkpoint, device, mirror
        self.device = usable_device(device)
        self._compares = checkpoint.members > 1 or mirror

    def at(self, image: Image, name: str) -> Iterator[Event]:
        """The last event is ``Finished`` with the segmentation of an image and its features (F, *coarse)."""
        plan = self._checkpoint.plan
        with named(name):
            image = filled(as_channels(image, plan.channels))
        events = segment(
            self._checkpoint,
            image,
            name=name,
            device=self._name,
            mirror=self._mirror,
            disagreement=self._compares,
            features=True,
        )
        segmented = yield from result_of(events)
        features = segmented.features
        if features is None:
            prepared = prepare_for(plan, image, name)
            features = coarse_copy(prepared.array, plan.dims, cut_axis(plan, image.geometry))
        yield Finished((segmented, features))


def _candidates(segmentation: Segmentation, features: np.ndarray, axis: int | None) -> list[Candidate]:
    """One for all of an image, or one per slice across ``axis``."""
    may_be = segmentation.probabilities[0] < SURE_BACKGROUND
    unsure = entropy(segmentation.probabilities)
    if axis is None:
        pooled = features.reshape(len(features), -1).mean(axis=1)
        return [_candidate(segmentation.name, None, may_be, unsure, segmentation.disagreement, pooled)]
    length, rows = may_be.shape[axis], features.shape[1 + axis]
    others = tuple(a for a in range(1, features.ndim) if a != 1 + axis)
    pooled = features.mean(axis=others)
    return [
        _candidate(
            segmentation.name,
            n,
            may_be.take(n, axis),
            unsure.take(n, axis),
            None if segmentation.disagreement is None else segmentation.disagreement.take(n, axis),
            pooled[:, min(int((n + 0.5) * rows / length), rows - 1)],
        )
        for n in range(length)
    ]


def _candidate(
    name: str,
    number: int | None,
    may_be: np.ndarray,
    unsure: np.ndarray,
    disagreement: np.ndarray | None,
    features: np.ndarray,
) -> Candidate:
    size = max(int(np.count_nonzero(may_be)), LEAST_SHARE * may_be.size)

    def mean(values: np.ndarray) -> float:
        return float(values.sum(where=may_be, dtype=np.float64) / size)

    return Candidate(
        name=name,
        slice=number,
        uncertainty=mean(unsure),
        disagreement=None if disagreement is None else mean(disagreement),
        share=float(may_be.mean()),
        features=features.astype(np.float32),
    )
