"""How good the model is on the cases that are held out, and what its gates do there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from napari_prosma.data.fingerprint import CaseFacts, Plan
from napari_prosma.data.labels import IGNORE, is_foreground
from napari_prosma.data.metrics import in_percent
from napari_prosma.events import Notice
from napari_prosma.model.windows import (
    Blend,
    Tiling,
    labels_of,
    predict,
    probabilities_of,
    tile,
    unwrap,
)
from napari_prosma.nn.build import Network
from napari_prosma.nn.gates import GateTrace
from napari_prosma.training.batches import PreparedCase, PreparedCases, window_size

PREVIEW_CASES = 20
"""The preview shows the first of this many validation cases that has foreground."""


class InPrecision(nn.Module):
    """A network that computes in the precision of its run, for validation; its logits are float32."""

    def __init__(self, module: Network, autocast: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__()
        self.module = module
        self._autocast = autocast

    def forward(self, image: Tensor) -> Tensor:
        with self._autocast():
            return self.module(image).float()


def validate(
    model: nn.Module, cases: PreparedCases, indices: Sequence[int], plan: Plan, most: float = math.inf
) -> Iterator[tuple[PreparedCase, np.ndarray | None]]:
    """After every window the case that is being segmented, and at its end with its labels (*grid).

    Where a case is labelled in part, only the windows that hold something labelled are segmented; of these
    at most ``most``, and the label of the case is ``IGNORE`` elsewhere.
    """
    network = unwrap(model)
    for index in indices:
        case = cases[index]
        tiling = tile(case.label.shape, plan.window, network.divisor, across=case.across)
        tiling = labelled_part(tiling, case.label)
        if len(tiling.starts) > most:
            tiling, case = some_windows(tiling, case, int(most))
        blend = Blend(tiling, network.spec.out_channels)
        for _ in predict(model, case.image, tiling, 1, blend):
            yield case, None
        yield case, labels_of(probabilities_of(blend.result()))


def labelled_part(tiling: Tiling, label: np.ndarray) -> Tiling:
    """The same tiling with only the windows in which anything of ``label`` (*grid) is labelled."""
    if not (label == IGNORE).any():
        return tiling
    starts = tuple(s for s in tiling.starts if (label[tiling.at(s)] != IGNORE).any())
    return replace(tiling, starts=starts)


def some_windows(tiling: Tiling, case: PreparedCase, most: int) -> tuple[Tiling, PreparedCase]:
    """The same tiling with ``most`` windows, half of them with foreground, and the label that these cover."""
    holds = [bool(is_foreground(case.label[tiling.at(start)]).any()) for start in tiling.starts]
    inside, outside = np.flatnonzero(holds), np.flatnonzero(np.logical_not(holds))
    number = min(len(inside), max(math.ceil(most / 2), most - len(outside)))
    chosen = [*_evenly(inside, number), *_evenly(outside, most - number)]
    tiling = replace(tiling, starts=tuple(tiling.starts[n] for n in sorted(chosen)))
    label = np.full_like(case.label, IGNORE)
    for start in tiling.starts:
        label[tiling.at(start)] = case.label[tiling.at(start)]
    return tiling, replace(case, label=label)


def _evenly(numbers: np.ndarray, count: int) -> list[int]:
    """``count`` of the numbers, each from the middle of a part of them."""
    return numbers[((np.arange(count) + 0.5) * len(numbers) / max(count, 1)).astype(int)].tolist()


def judged_part(facts: Sequence[CaseFacts], indices: Sequence[int], count: int, seed: int) -> list[int]:
    """``count`` of the cases ``indices``, drawn from ``seed``; in order.

    Those without a structure in their share, but at most half; the others by each foreground class in turn.
    """
    if count >= len(indices):
        return list(indices)
    order = [indices[n] for n in np.random.RandomState(seed).permutation(len(indices))]
    classes = max(len(facts[n].class_counts) for n in indices)
    without = [n for n in order if not any(facts[n].class_counts[1:])]
    chosen = without[: min(count // 2, count * len(without) // len(indices))]
    for turn in range(count - len(chosen)):
        k = 1 + turn % max(1, classes - 1)
        left = [n for n in order if n not in chosen]
        holding = [n for n in left if n not in without]
        having = [n for n in holding if len(facts[n].class_counts) > k and facts[n].class_counts[k]]
        chosen.append((having or holding or left)[0])
    return sorted(chosen)


def shown_case(cases: PreparedCases, indices: Sequence[int]) -> int:
    """Index of the first case with foreground, among the first few."""
    for n in indices[:PREVIEW_CASES]:
        if is_foreground(cases[n].label).any():
            return n
    return indices[0]


@torch.no_grad()
def gate_state(network: Network, case: PreparedCase, plan: Plan) -> dict[int, dict[str, float]]:
    """Numbers of every gated skip on one window of ``case``, around its foreground."""
    found = np.argwhere(is_foreground(case.label))
    centre = tuple(found[len(found) // 2]) if len(found) else tuple(n // 2 for n in case.label.shape)
    size = window_size(case, plan.window)
    where: list[slice] = [slice(None)]
    for c, m, n in zip(centre, size, case.label.shape, strict=True):
        start = int(np.clip(c - m // 2, 0, max(0, n - m)))
        where.append(slice(start, start + m))
    window: np.ndarray = case.image[tuple(where)]
    if case.label.ndim == plan.dims + 1:
        window = window.take(0, 1 + case.across)
    device = next(network.parameters()).device
    trace = GateTrace()
    network.eval()
    network(torch.from_numpy(window[None]).to(device), trace)
    return {level: kept.summary() for level, kept in sorted(trace.skips.items()) if kept.psi is not None}


def gate_warnings(gates: dict[int, dict[str, float]]) -> Iterator[Notice]:
    """What a user should know of gates that have stopped to gate."""
    for level, state in gates.items():
        if state.get("dead_channel_fraction", 0) > 0.1:
            yield Notice(
                f"Skip {level}: {in_percent(state['dead_channel_fraction'])} of the gate's channels are dead"
            )
        if state.get("floor_pixel_fraction", 0) > 0.95:
            yield Notice(
                f"Skip {level}: {in_percent(state['floor_pixel_fraction'])} of positions are at the floor"
            )
        if state["psi_std"] < 0.01:
            yield Notice(f"Skip {level}: psi is the same everywhere (spread {state['psi_std']:.3f})")
