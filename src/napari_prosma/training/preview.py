"""The current model on one plane of an image, quickly enough to be shown while it learns."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from copy import deepcopy

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE, fullest_slice
from napari_prosma.data.planes import slice_axis, thin_axes
from napari_prosma.data.preparation import resample
from napari_prosma.events import Event, LivePreview, Preview, Progress
from napari_prosma.model.windows import Blend, labels_of, predict, probabilities_of, sureness_of, tile, unwrap
from napari_prosma.training.keeper import Keeper
from napari_prosma.training.steering import View

OVERLAP = 0.25
"""Less than in segmentation: a preview may show a seam."""
MOST_WINDOWS = 64
"""A plane that more windows cross is not previewed."""
SETTLED_STEPS = 120
"""Steps after which the running averages of the norms have caught up with the weights (momentum 0.1)."""

Plane = tuple[int | None, ...]
"""An index per axis of an array, None along the two axes of the plane."""


def plane_probabilities(
    model: nn.Module, image: np.ndarray, plan: Plan, at: Plane, across: int = 0
) -> Generator[None, None, np.ndarray | None]:
    """Class probabilities (K, rows, columns) on one plane of ``image`` (C, *grid).

    Yields after every window; returns None where more than ``MOST_WINDOWS`` would be needed, as for a plane
    across the slices of a long stack and a 2D network, which lie across the axis ``across``.
    """
    network = unwrap(model)
    thin = thin_axes(len(at), plan.dims, across)
    wanted = iter(plan.window)
    window = [1 if axis in thin else next(wanted) for axis in range(len(at))]
    cut: list[slice] = []
    inside: list[int | slice] = []
    for axis, (index, length) in enumerate(zip(at, image.shape[1:], strict=True)):
        if index is None:
            cut.append(slice(None))
            inside.append(slice(None))
            continue
        depth = min(window[axis], length)
        start = int(np.clip(index - depth // 2, 0, length - depth))
        cut.append(slice(start, start + depth))
        inside.append(index - start)
    slab = np.ascontiguousarray(image[(slice(None), *cut)])
    tiling = tile(slab.shape[1:], plan.window, network.divisor, OVERLAP, across)
    if len(tiling.starts) > MOST_WINDOWS:
        return None
    blend = Blend(tiling, network.spec.out_channels)
    for _ in predict(model, slab, tiling, 1, blend):
        yield
    return probabilities_of(blend.result())[(slice(None), *inside)]


def by_own_statistics(model: nn.Module) -> nn.Module:
    """A copy whose batch norms take the mean and spread of what they see, as they do in training.

    For the first steps of a new network, whose running averages lag so far behind its weights that what it
    has learned does not show: on phantoms, ten steps gave a Dice of 0.15 by them and 0.84 by these.
    """
    copied = deepcopy(model).eval()
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _OwnStatistics(child))
    return copied


class _OwnStatistics(nn.Module):
    """Norms by what it sees; a single element per channel has no spread and takes the averages.

    No batch norm in name, so that nothing folds it into its neighbours.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm, alone = self.norm, x.numel() == x.shape[1]
        mean, spread = (norm.running_mean, norm.running_var) if alone else (None, None)
        return F.batch_norm(x, mean, spread, norm.weight, norm.bias, training=not alone, eps=norm.eps)


def on_plane(at: Plane, shape: Sequence[int], grid: Sequence[int]) -> Plane:
    """The plane ``at`` of an image of ``shape`` as a plane of its grid of size ``grid``."""
    return tuple(
        None if index is None else min(int((index + 0.5) * m / n), m - 1)
        for index, n, m in zip(at, shape, grid, strict=True)
    )


def plane_labels(probabilities: np.ndarray, shape: Sequence[int], at: Plane) -> tuple[np.ndarray, np.ndarray]:
    """Labels (*spatial) uint8 on the image's own plane, one element thick along the hidden axes.

    And how probable each is, as ``LivePreview`` has it.
    """
    size = tuple(n for n, index in zip(shape, at, strict=True) if index is None)
    if probabilities.shape[1:] != size:
        probabilities = np.stack([resample(p, size) for p in probabilities])
    thick = tuple(n if index is None else 1 for n, index in zip(shape, at, strict=True))
    return labels_of(probabilities).reshape(thick), sureness_of(probabilities).reshape(thick)


class Rhythm:
    """When a preview is due: soon after the start, then at most a fifth of the time.

    Times are seconds of the run, pauses left out.
    """

    FIRST, EVERY, SHARE = 3.0, 5.0, 0.2

    def __init__(self, now: float) -> None:
        self._first = self._due = now + self.FIRST
        self._seen: View | None = None

    def is_due(self, now: float, view: View | None) -> bool:
        """Whether it is time, or the user looks elsewhere."""
        return now >= self._due or (view != self._seen and now >= self._first)

    def shown(self, began: float, now: float, view: View | None) -> None:
        """A preview of ``view`` was made between these times."""
        self._seen = view
        self._due = now + max(self.EVERY, (now - began) / self.SHARE)


class Previewer:
    """Shows what the model makes of the plane that the user looks at, else of a validation case."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper, self.steering, self.clock = keeper, keeper.steering, keeper.tempo.clock
        self._rhythm = Rhythm(self.clock.elapsed())

    @property
    def is_due(self) -> bool:
        """Whether it is time for one."""
        return self._rhythm.is_due(self.clock.elapsed(), self.steering.view)

    def show(self, epoch: int) -> Iterator[Event]:
        """A preview, with its progress; none where nobody looks."""
        keeper, state = self.keeper, self.keeper.state
        if not keeper.processes.is_first or not self.steering.wants_previews:
            return
        view, began = self.steering.view, self.clock.elapsed()
        if view is not None and view.case in keeper.data.index:
            index = keeper.data.index[view.case]
            case, shape = keeper.prepared[index], keeper.data.facts[index].shape
            at = on_plane(view.at, shape, case.label.shape)
        else:
            view, case = None, keeper.prepared[keeper.shown]
            fullest = fullest_slice(case.label, slice_axis(case.geometry))
            at = tuple(n if isinstance(n, int) else None for n in fullest)
        found = yield from self._on_plane(case.image, at, case.across)
        self._rhythm.shown(began, self.clock.elapsed(), view)
        if found is None:
            return
        if view is not None:
            labels, sureness = plane_labels(found, shape, view.at)
            yield LivePreview(state.step, view.case, labels, sureness, view.at)
            return
        inside = tuple(slice(None) if n is None else n for n in at)
        label = case.label[inside]
        yield Preview(
            epoch=epoch,
            case=case.name,
            image=case.image[(slice(None), *inside)],
            labels=labels_of(found),
            truth=label * (label != IGNORE),
            geometry=case.geometry.plane([axis for axis, n in enumerate(at) if n is None]),
        )

    def _on_plane(
        self, image: np.ndarray, at: Plane, across: int
    ) -> Generator[Event, None, np.ndarray | None]:
        learner, state = self.keeper.learner, self.keeper.state
        is_new = learner.transfer is None and state.step < SETTLED_STEPS
        model = by_own_statistics(learner.final_network) if is_new else learner.evaluated
        windows = plane_probabilities(model, image, state.plan, at, across)
        while True:
            try:
                next(windows)
            except StopIteration as end:
                return end.value
            yield Progress(self.clock.done(state.step), self.clock.total, "predicting the slice on screen")
