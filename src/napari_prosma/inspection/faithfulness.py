"""What the selection of a gate is worth, and is the picture of a mask faithful: five tests, a table each.

All look at one window of the image (``open_window``), on the network's grid. Where there is a label the Dice
against it is told; always told is the *agreement*, the Dice against what the model predicts unchanged.

The rows of several images can be put together (``findings`` says what they show).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from napari_prosma.data.case import Image
from napari_prosma.data.labels import is_foreground
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.gathering import Sums
from napari_prosma.inspection.kinship import apart_besides_seed, is_another_training
from napari_prosma.inspection.noise import IN_WORDS, noise_of, noisy_with, require_noise
from napari_prosma.inspection.record import Means
from napari_prosma.inspection.trace import inspect_gates, require_levels, same_classes
from napari_prosma.inspection.window import Window, open_window
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.model.windows import labels_of
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.gates import Change, GateTrace, SkipTrace
from napari_prosma.nn.unet import Encoded, ProSMAUNet

Row = dict[str, str | float]
Model = Checkpoint | Path | str

TESTS: dict[str, str] = {
    "leave_one_out": "Leave one out: what is the selection of each skip worth?",
    "deletion_curve": "Deletion curve: does psi rank positions better than the controls?",
    "threshold_sweep": "Threshold sweep: what do the thresholds change?",
    "sanity_check": "Sanity check: does psi depend on what was learned?",
    "noise_test": "Noise test: how do masks and segmentations change under noise?",
}
"""Name of each test and its question."""
QUANTILES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
RANDOM_DRAWS = 10
ALL_SKIPS = 0
"""In the rows: all skips at once."""
PARTS: dict[str, str] = {
    "psi": "psi at its mean",
    "c": "c at its mean",
    "both": "psi and c at their means",
    "skip mean": "the whole skip at its channel means",
    "skip zero": "the whole skip at zero",
}
"""What is taken away. Means keep the scale of the skip in training; zero is far from anything seen in it."""
CONTROLS: dict[str, str] = {
    "energy": "energy of the encoder",
    "redrawn": "psi of random gates and decoder",
    "centre": "distance to the centre",
    "highest": "highest psi first",
    "random": "chance",
}
"""Orders that a faithful mask must beat: each could rank positions well without a learned gate."""
MOST_AT_ONCE = 2**24
"""Elements of a skip, over all images that go through the decoder together."""


@dataclass(frozen=True, eq=False)
class Table:
    """What one test found.

    Attributes
    ----------
    test : str
        A key of ``TESTS``.
    name : str
        The image.
    rows : tuple of dict
        For a CSV; columns that do not apply are missing.
    maps : (*size) by name
        Of ``leave_one_out``: where the prediction changed, 0 to 1, on ``geometry``.
    geometry : Geometry
        Of the window.

    A row has ``window`` where that is a part of the image only: both sizes, in words; ``slice`` where it lies
    in one of several that the network sees by themselves: which; and ``empty`` where there is nothing to
    lose: the "label" shows no structure in the window, or without one the "prediction".
    """

    test: str
    name: str
    rows: tuple[Row, ...]
    geometry: Geometry
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return TESTS[self.test]


# ---- the tests --------------------------------------------------------------------------------------------


def leave_one_out(
    checkpoint: Model,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    means: Mapping[int, Means] | None = None,
) -> Iterator[Event]:
    """Set parts of one skip, and of all at once, to their means; ends in ``Finished`` with a ``Table``.

    A mean cannot select, and it is as loud as what was trained: what is lost with it is what selecting is
    worth. psi and c are set to their means over the image, weighted by the energy of the skip: ``means`` by
    level, where they are known. That of c is one value for all channels, so constants per channel are lost
    with it, too, though they select nothing.

    Rows have ``skip`` (0 = all of them), ``part`` (a key of ``PARTS``) and ``effect``: how far the
    probabilities moved, the mean over the window of half the sum over the classes of |dp|; ``agreement``, and
    with a label ``dice`` and ``worth``, the Dice that is lost.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    window = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
    trace, features = GateTrace(), dict[int, Tensor]()
    with torch.no_grad():
        base = window.shown(window.model.decode(window.encoded, trace, features=features))
    here = {level: means_of(window, kept) for level, kept in trace.skips.items()}
    total = len(_replacements(here))
    yield Started(total, f"What selecting is worth for {name}", _device_of(window))
    yield from _no_gates(window)
    if means is None:
        means = here if window.covers_image else (yield from _over_image(window, image, device, total))
    changes = _replacements(means)
    usual = _scores(window, base, base).get("dice")
    rows: list[Row] = []
    maps = {}
    for done, ((level, part), change) in enumerate(changes.items(), start=1):
        changed = _from_coarsest(window, change, features)
        difference = np.abs(changed - base).sum(axis=0) / 2
        if level != ALL_SKIPS:
            maps[f"skip {level}: {PARTS[part]}"] = difference
        row: Row = {**_known(window), "skip": level, "part": part, "effect": float(difference.mean())}
        row |= _scores(window, changed, base)
        if usual is not None:
            row["worth"] = float(usual) - float(row["dice"])
        rows.append(row)
        yield Progress(done, len(changes), name)
    yield Finished(Table("leave_one_out", name, tuple(rows), window.image.geometry, maps))


def _over_image(
    window: Window, image: Image, device: str, total: int
) -> Generator[Event, None, dict[int, Means]]:
    """What the gates do on average over the whole image of a window."""
    found: dict[int, Means] = {}
    for event in inspect_gates(window.checkpoint, image, name=window.name, device=device):
        if isinstance(event, Progress):
            yield Progress(0, total, f"{window.name}, window {event.done} of {event.total}")
        elif isinstance(event, Finished):
            found = {level: skip.means for level, skip in event.result.skips.items()}
    return found


@torch.no_grad()
def _from_coarsest(
    window: Window, changes: Mapping[int, Change], features: Mapping[int, Tensor]
) -> np.ndarray:
    """Class probabilities (K, *size) under changes; levels coarser than all of them stay as they are."""
    above = max(changes) + 1
    start = above if above in features else None
    return window.shown(window.model.decode(window.encoded, None, changes, start, dict(features)))


def means_of(window: Window, skip_trace: SkipTrace) -> Means:
    """What a gate does on average in a window, without the padding."""
    seen = _seen(window, skip_trace)
    sums = Sums(seen.skip.shape[1])
    sums.add(seen, (slice(None),) * window.model.spec.dims)
    return sums.means()


def replacement(part: str, means: Means) -> Change | None:
    """The change that puts a part (a key of ``PARTS``) at its mean; None where a gate has no such part."""
    if part == "skip mean":
        return Change(skip=means.skip)
    if part == "skip zero":
        return Change(skip=(0.0,))
    if part == "both":
        return None if means.psi is None or means.c is None else Change(psi=means.psi, c=means.c)
    mean = means.psi if part == "psi" else means.c
    if mean is None:
        return None
    return Change(psi=mean) if part == "psi" else Change(c=mean)


def _replacements(means: Mapping[int, Means]) -> dict[tuple[int, str], dict[int, Change]]:
    """Every part at its mean: at one skip, then at all of them."""
    found: dict[tuple[int, str], dict[int, Change]] = {}
    for part in PARTS:
        each = {level: replacement(part, held) for level, held in sorted(means.items())}
        there = {level: change for level, change in each.items() if change is not None}
        found |= {(level, part): {level: change} for level, change in there.items()}
        if len(there) > 1:
            found[ALL_SKIPS, part] = there
    return found


def deletion_curve(
    checkpoint: Model,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    levels: Sequence[int] = (),
    quantiles: Sequence[float] = QUANTILES,
    draws: int = RANDOM_DRAWS,
    seed: int = 0,
) -> Iterator[Event]:
    """Replace positions of a skip by its channel means, unimportant ones first; ends with a ``Table``.

    One skip at a time: the share ``q`` of its positions, in rising order of the untouched model's psi, takes
    the skip's mean over the window, channel by channel; then the decoder runs, so its gates see the replaced
    skip. Read backwards it is insertion: all is replaced, and the positions of highest psi come back first.
    The controls (``CONTROLS``) order the same positions otherwise; equal values are ordered at random, by
    ``seed`` and the image.

    Rows have ``skip``, ``order`` ("psi" or a control), ``draw``, ``q``, ``agreement`` and with a label
    ``dice``.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        The model's gates have no mask, or it lacks one of ``levels``.
    """
    window = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
    require_levels(window.checkpoint, dict.fromkeys(levels, Change()))
    masks = _masks(window)
    masks = {level: psi for level, psi in masks.items() if not levels or level in levels}
    _require(masks, window, "no mask psi whose low values could be deleted")
    redrawn = _masks(replace(window, model=_randomised(window, RANDOMISED["decoder and gates"], seed)))
    features: dict[int, Tensor] = {}
    with torch.no_grad():
        base = window.shown(window.model.decode(window.encoded, features=features))
    own = _scores(window, base, base)
    total = len(masks) * (len(CONTROLS) + draws)
    yield Started(total, f"Deleting skip positions of {name}", _device_of(window))
    rows: list[Row] = []
    done = 0
    seeds = seeds_of(image, seed)
    for level, psi in masks.items():
        rng = np.random.default_rng((*seeds, level))
        for order, draw, ranks in _orders(window, level, psi, redrawn[level], draws, rng):
            known: Row = {**_known(window), "skip": level, "order": order, "draw": draw}
            gone = {q: ranks[: round(q * len(ranks))] for q in quantiles}
            some = {q: positions for q, positions in gone.items() if len(positions)}
            found = zip(some, _without(window, level, [*some.values()], features), strict=True)
            scores = {q: _scores(window, changed, base) for q, changed in found}
            rows += [{**known, "q": q, **scores.get(q, own)} for q in quantiles]
            done += 1
            yield Progress(done, total, f"{name}, skip {level}")
    yield Finished(Table("deletion_curve", name, tuple(rows), window.image.geometry))


def _orders(
    window: Window, level: int, psi: np.ndarray, redrawn: np.ndarray, draws: int, rng: np.random.Generator
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Names of the orders, numbers of the draw, and ranks (n,) of the positions over the image."""
    skip = window.encoded.skips[level - 1]
    grid = _grid(window, level)
    inside = (slice(None), *(slice(0, n) for n in grid))
    energy = skip[0][inside].square().sum(dim=0).flatten().cpu().numpy()
    # Of the image: a window that does not cover it is put where the label is.
    factor, tiling = window.model.spec.factor(level), window.tiling
    axes = [
        (start + (np.arange(n) + 0.5) * factor) / whole - 0.5
        for n, start, whole in zip(grid, tiling.seen(window.start), tiling.seen(window.whole), strict=True)
    ]
    centre = -np.square(np.meshgrid(*axes, indexing="ij")).sum(axis=0).ravel()
    for order, values in (
        ("psi", psi),
        ("energy", energy),
        ("redrawn", redrawn),
        ("centre", centre),
        ("highest", -psi),
    ):
        yield order, 0, np.lexsort((rng.random(len(values)), values))
    for draw in range(draws):
        yield "random", draw, rng.permutation(len(psi))


@torch.no_grad()
def _without(
    window: Window, level: int, gone: Sequence[np.ndarray], features: Mapping[int, Tensor]
) -> Iterator[np.ndarray]:
    """Class probabilities (K, *size) with some positions of a skip at its channel means, per set.

    Only the decoder from this level on is run, several images at once.
    """
    skips, grid = window.encoded.skips, _grid(window, level)
    skip = skips[level - 1]
    inside = (slice(None), slice(None), *(slice(0, n) for n in grid))
    mean = skip[inside].flatten(2).mean(dim=2)[0, :, None]
    is_deepest = level == len(skips)
    batch = max(1, MOST_AT_ONCE // skip.numel())
    for first in range(0, len(gone), batch):
        part = gone[first : first + batch]
        several = skip.expand(len(part), *skip.shape[1:]).clone()
        for number, positions in enumerate(part):
            flat = several[number][inside[1:]].flatten(1).clone()  # a copy where it would be a view
            flat[:, torch.from_numpy(positions).to(skip.device)] = mean
            several[number][inside[1:]] = flat.reshape(flat.shape[0], *grid)
        finer = [other.expand(len(part), *other.shape[1:]) for other in skips[: level - 1]]
        coarser = skips[level:]
        start = window.encoded.bottleneck if is_deepest else features[level + 1]
        start = start.expand(len(part), *start.shape[1:])
        encoded = Encoded((*finer, several, *coarser), start, window.encoded.size)
        begin = None if is_deepest else level + 1
        logits = window.model.decode(encoded, None, None, begin, {level + 1: start})
        yield from (window.shown(logits[n : n + 1]) for n in range(len(part)))


def threshold_sweep(
    checkpoint: Model,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    levels: Sequence[int] = (),
    scales: Sequence[float] = SCALES,
) -> Iterator[Event]:
    """Multiply lambda of the chosen gates (default all) by ``scales`` and by 1; ends with a ``Table``.

    Rows have ``scale``, ``skip``, ``z_zero_fraction``, ``floor_pixel_fraction``, ``psi_mean``, and the
    ``agreement`` and with a label ``dice`` of the whole model at this scale. Only of the deepest gate must
    the zero fraction rise with the scale: the fields of the others change with what it lets through.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        No gate has a threshold, or the model lacks one of ``levels``.
    """
    window = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
    require_levels(window.checkpoint, dict.fromkeys(levels, Change()))
    has = GATES[window.checkpoint.spec.gate].thresholds
    swept = [k for k in levels or window.checkpoint.spec.gated_levels if has]
    _require(swept, window, "no thresholds that could be scaled")
    scales = sorted({*scales, 1.0})  # all others are compared with it
    yield Started(len(scales), f"Scaling the thresholds for {name}", _device_of(window))
    base = window.probabilities()
    rows: list[Row] = []
    for done, scale in enumerate(scales, start=1):
        trace = GateTrace()
        changed = window.probabilities(dict.fromkeys(swept, Change(scale)), trace=trace)
        scores = _scores(window, changed, base)
        for level in swept:
            figures = _seen(window, trace.skips[level]).summary()
            named = {k: figures[k] for k in ("z_zero_fraction", "floor_pixel_fraction", "psi_mean")}
            rows.append({**_known(window), "skip": level, "scale": scale, **named, **scores})
        yield Progress(done, len(scales), name)
    yield Finished(Table("threshold_sweep", name, tuple(rows), window.image.geometry))


RANDOMISED: dict[str, tuple[str, ...]] = {
    "decoder": ("up.", "decoder."),
    "decoder and gates": ("up.", "decoder.", "gates."),
}
"""Whose weights are drawn again in the sanity check."""
ANOTHER = "another training"
"""In the rows of the sanity check: not drawn again, but trained with another seed."""


def sanity_check(
    checkpoint: Model,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    seeds: Sequence[int] = (0, 1, 2),
    other: Model | None = None,
) -> Iterator[Event]:
    """Draw the decoder's weights again and see whether the masks change; ends with a ``Table``.

    After Adebayo et al. 2018: a map that stays the same does not show what was learned. The batch norms of
    what was drawn take the statistics of this very window; with those at the start the maps would be constant
    and the answer trivial.

    What a correlation means can be told beside that of two trainings only: no two of them agree to 1.
    ``other`` is a model of the same gate that was trained with another seed.

    Rows have ``randomised`` ("another training" for ``other``), ``seed``, ``skip`` and ``correlation``:
    Spearman's, of psi with the trained model's. It is missing where a psi is constant. Those of ``other``
    have ``apart`` where it differs in more than the seed: in what, such as the cases that it learned from.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        The model's gates have no mask.
    """
    window = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
    trained = _masks(window)
    _require(trained, window, "no mask psi that could be compared")
    todo = [(parts, seed) for parts in RANDOMISED for seed in seeds]
    yield Started(len(todo), f"Randomising the decoder for {name}", _device_of(window))
    rows: list[Row] = []
    for done, (parts, seed) in enumerate(todo, start=1):
        masks = _masks(replace(window, model=_randomised(window, RANDOMISED[parts], seed)))
        rows += _alike(window, trained, masks, parts, seed)
        yield Progress(done, len(todo), name)
    if other is not None:
        beside = open_window(other, image, name=name, label=label, region=region, device=device)
        if beside.tiling != window.tiling:
            raise ConfigError(
                "the other training sees the image on another grid; give one with the same plan"
            )
        apart = apart_besides_seed(window.checkpoint, beside.checkpoint)
        known: Row = {"apart": apart} if apart else {}
        rows += [row | known for row in _alike(window, trained, _masks(beside), ANOTHER, 0)]
    yield Finished(Table("sanity_check", name, tuple(rows), window.image.geometry))


def _alike(
    window: Window, trained: Mapping[int, np.ndarray], masks: Mapping[int, np.ndarray], what: str, seed: int
) -> Iterator[Row]:
    for level, psi in trained.items():
        row: Row = {**_known(window), "randomised": what, "seed": seed, "skip": level}
        if level in masks and np.ptp(psi) > 0 and np.ptp(masks[level]) > 0:
            row["correlation"] = float(spearmanr(psi, masks[level]).statistic)
        yield row


def noise_test(
    checkpoints: Mapping[str, Model],
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    kind: str = "auto",
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Iterator[Event]:
    """The same rising noise for several models; ends in ``Finished`` with a ``Table``.

    It is added to the image before it is prepared, as ``noise.NOISES`` says; "auto" is what fits the first
    model's modality. It is drawn by ``seed`` and the image: the same for all models, another for each image.

    Rows have ``model``, ``gate``, ``kind``, ``strength``, ``skip``; ``psi_change``, the mean of |dpsi|, and
    ``psi_change_relative``, the same over the clean mask's std, by which masks of different models can be
    compared; ``zero_iou``, the overlap of the exact zeros of z; ``agreement`` and with a label ``dice``.
    What a gate does not have is missing.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        No model, models of different classes, or noise that these images cannot have.
    """
    models = same_classes(checkpoints)
    values = np.asarray(image.array, dtype=np.float32)
    if kind == "auto":
        kind = noise_of(next(iter(models.values())))
    for checkpoint in models.values():
        require_noise(kind, checkpoint, values)
    noisy_image = noisy_with(kind, values, np.random.default_rng(seeds_of(image, seed)))
    total = len(models) * len(strengths)
    rows: list[Row] = []
    geometry = image.geometry
    for number, (model, checkpoint) in enumerate(models.items()):
        clean = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
        geometry = clean.image.geometry
        if number == 0:
            yield Started(total, f"Adding {IN_WORDS.get(kind, kind)} noise to {name}", _device_of(clean))
        yield from _no_gates(clean, model)
        trace = GateTrace()
        base = clean.probabilities(trace=trace)
        for done, strength in enumerate(strengths, start=1):
            window, noisy, found = clean, trace, base
            if strength != 0:
                seen, noisy = Image(noisy_image(strength), image.geometry), GateTrace()
                window = open_window(
                    checkpoint, seen, name=name, label=label, region=region, model=clean.model
                )
                found = window.probabilities(trace=noisy)
            scores = _scores(window, found, base)
            known: Row = {**_known(window), "model": model, "gate": checkpoint.spec.gate}
            known |= {"kind": kind, "strength": strength}
            for level in clean.levels:
                moved = _moved(_seen(clean, trace.skips[level]), _seen(window, noisy.skips[level]))
                rows.append({**known, "skip": level, **moved, **scores})
            yield Progress(number * len(strengths) + done, total, f"{name}, {model}")
    yield Finished(Table("noise_test", name, tuple(rows), geometry))


_OF_ONE_MODEL: dict[str, Callable[..., Iterator[Event]]] = {
    "leave_one_out": leave_one_out,
    "deletion_curve": deletion_curve,
    "threshold_sweep": threshold_sweep,
}


def run_test(test: str, models: Mapping[str, Model], image: Image, **how: Any) -> Iterator[Event]:
    """A test by its key in ``TESTS``; ends in ``Finished`` with a ``Table``.

    The first model is tested; under noise all are, and the sanity check looks for another training of the
    first among the others. ``how`` are the further arguments of the test.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    if test == "noise_test":
        return noise_test(models, image, **how)
    if test in _OF_ONE_MODEL:
        return _OF_ONE_MODEL[test](next(iter(models.values())), image, **how)
    own, *loaded = (
        each if isinstance(each, Checkpoint) else load_checkpoint(each) for each in models.values()
    )
    other = next((model for model in loaded if is_another_training(own, model)), None)
    return sanity_check(own, image, other=other, **how)


# ---- what the tests share ---------------------------------------------------------------------------------


def seeds_of(image: Image, seed: int) -> tuple[int, int]:
    """Seeds for an image, whatever it is called: the same whenever it is tested, no other image's."""
    content = 0
    for channel in image.array:
        for part in channel:  # no copy of a large volume
            content = crc32(np.ascontiguousarray(part, dtype=np.float32).data, content)
    return seed, content


def _device_of(window: Window) -> str:
    return str(window.cut.device)


def _known(window: Window) -> Row:
    """The image, and which part of it where it is a part."""
    row: Row = {"image": window.name}
    if not window.covers_image:
        row["window"] = window.in_words()
    return row | ({"slice": place} if (place := window.place) else {})


def windows_in_words(rows: Sequence[Row]) -> str:
    """Such as ``one window of each larger image``; empty where every window is a whole image."""
    parts: dict[str | float, str | float] = {}
    for row in rows:
        parts.setdefault(row["image"], row.get("window", ""))
    if not any(parts.values()):
        return ""
    thin = sorted({str(row["slice"]).split()[0] for row in rows if "slice" in row})
    within = f" of one {' or '.join(thin)}" if thin else ""
    larger = "" if all(parts.values()) else " larger"
    return f"one window{within} of each{larger} image"


def _no_gates(window: Window, model: str = "The model") -> Iterator[Event]:
    if not GATES[window.checkpoint.spec.gate].parts:
        yield Notice(f"{model} has no gates: every skip passes whole, so there is no mask to test.")


def _require(there: object, window: Window, lacking: str) -> None:
    if not there:
        gate = window.checkpoint.spec.gate
        has = f"the gates of this model ({gate}) have" if GATES[gate].parts else "this model has no gates, so"
        raise ConfigError(f"{has} {lacking}; choose a model with another gate, such as prosma")


def having_structure(rows: Sequence[Row]) -> list[Row]:
    """Rows in which something can be lost; in the others Dice can only be 1 or 0.

    Without a label, that depends on the model: another one may find something in the image.
    """
    empty = {(row["image"], row.get("model")) for row in rows if "empty" in row}
    return [row for row in rows if (row["image"], row.get("model")) not in empty]


def _scores(window: Window, probabilities: np.ndarray, base: np.ndarray) -> Row:
    labels, before = labels_of(probabilities), labels_of(base)
    row: Row = {"agreement": window.agreement(labels, before), **(window.dice(labels) or {})}
    foreground = before if window.label is None or "dice" not in row else window.label
    if not is_foreground(foreground).any():
        row["empty"] = "label" if "dice" in row else "prediction"
    return row


def _grid(window: Window, level: int) -> tuple[int, ...]:
    """Size of a skip's grid over the image, without the padding."""
    factor = window.model.spec.factor(level)
    return tuple(-(-n // factor) for n in window.tiling.seen(window.tiling.size))


def _seen(window: Window, skip_trace: SkipTrace) -> SkipTrace:
    """What lies over the image, without the padding."""
    return skip_trace.cropped(_grid(window, skip_trace.level))


def _masks(window: Window) -> dict[int, np.ndarray]:
    """psi of every skip over the image, flat."""
    trace = GateTrace()
    window.probabilities(trace=trace)
    kept = {level: _seen(window, skip).psi for level, skip in sorted(trace.skips.items())}
    return {level: psi.flatten().cpu().numpy() for level, psi in kept.items() if psi is not None}


def _randomised(window: Window, prefixes: tuple[str, ...], seed: int) -> ProSMAUNet:
    """The model with the weights under ``prefixes`` as they are before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(window.checkpoint.spec)
    assert isinstance(model, ProSMAUNet)
    learned = {n: t for n, t in window.model.state_dict().items() if not n.startswith(prefixes)}
    model.load_state_dict(learned, strict=False)
    model.to(window.cut.device).eval()
    norms = [
        module
        for name, module in model.named_modules()
        if name.startswith(prefixes) and isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model.decode(window.encoded)
    return model.eval()


def _moved(clean: SkipTrace, noisy: SkipTrace) -> Row:
    figures: Row = {}
    if clean.psi is not None and noisy.psi is not None:
        change = float((noisy.psi - clean.psi).abs().mean())
        spread = float(clean.psi.std(correction=0))
        figures["psi_change"] = change
        if spread > 0:
            figures["psi_change_relative"] = change / spread
    if clean.z is not None and noisy.z is not None:
        before, after = clean.z == 0, noisy.z == 0
        either = int((before | after).sum())
        # A dense gate has a zero only by accident.
        if either and clean.threshold is not None:
            figures["zero_iou"] = int((before & after).sum()) / either
    return figures
