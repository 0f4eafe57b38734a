"""Which skip mattered, and is the picture of a mask faithful: five tests, each a run that ends in a table.

All look at one window of the image (``open_window``), on the network's grid. Where there is a label the Dice
against it is told; always told is the *agreement*, the Dice against what the model predicts unchanged.

The rows of several images can be put together: figures show means, with their spread over images and seeds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import nn

from napari_prosma.data.case import Geometry, Image
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.inspection.trace import one_network, require_levels
from napari_prosma.inspection.window import Window, open_window
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gates import Change, GateTrace, ProximalMask, SkipTrace
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.windows import labels_of
from napari_prosma.training.checkpoint import Checkpoint

Row = dict[str, str | float]
Model = Checkpoint | Path | str

TESTS: dict[str, str] = {
    "leave_one_out": "Which skip mattered",
    "deletion_curve": "Does deleting what the mask calls unimportant matter less than chance",
    "threshold_sweep": "What the thresholds do",
    "sanity_check": "Does the mask depend on what the decoder learned",
    "noise_test": "Masks and segmentations under noise",
}
"""What each test asks."""
QUANTILES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
PARTS: dict[str, Change] = {
    "psi": Change(spatial=False),
    "c": Change(channel=False),
    "whole": Change(whole=False),
}
"""What is taken away: the mask or the channel weights (set to 1), or the skip itself (set to 0)."""


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
    """

    test: str
    name: str
    rows: tuple[Row, ...]
    geometry: Geometry
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return TESTS[self.test]

    def figure(self) -> Figure:
        """Plot of the rows."""
        return table_figure(self.test, self.rows)


# ---- the tests --------------------------------------------------------------------------------------------


def leave_one_out(
    checkpoint: Model,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
) -> Iterator[Event]:
    """Take psi, c or the whole of one skip away at a time; ends in ``Finished`` with a ``Table``.

    Rows have ``skip``, ``part`` and ``effect``: how far the probabilities moved, the mean over the window of
    half the sum over the classes of |dp|; ``agreement``, and with a label ``dice`` and ``dice_change``.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    window = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
    todo = [(level, part) for level in window.levels for part in _parts_of(window.model, level)]
    yield Started(len(todo), f"Leaving out skips of {name}", _device_of(window))
    yield from _no_gates(window)
    base = window.probabilities()
    usual = _scores(window, base, base).get("dice")
    rows: list[Row] = []
    maps = {}
    for done, (level, part) in enumerate(todo, start=1):
        changed = window.probabilities({level: PARTS[part]})
        difference = np.abs(changed - base).sum(axis=0) / 2
        maps[f"skip {level} without {part}"] = difference
        row: Row = {"image": name, "skip": level, "part": part, "effect": float(difference.mean())}
        row |= _scores(window, changed, base)
        if usual is not None:
            row["dice_change"] = float(row["dice"]) - float(usual)
        rows.append(row)
        yield Progress(done, len(todo), name)
    yield Finished(Table("leave_one_out", name, tuple(rows), window.image.geometry, maps))


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
    seeds: Sequence[int] = (0, 1, 2),
) -> Iterator[Event]:
    """Replace the skip positions with the lowest psi by their mean; ends in ``Finished`` with a ``Table``.

    Per skip the share ``q`` of positions with the lowest psi (of the untouched model) takes the mean skip
    vector of these positions, in the chosen skips (default all) at once; then the decoder runs, so its gates
    see the replaced skip. As a control the same number of positions is drawn at random, once per seed. Equal
    values of psi, such as the floor, are ordered at random too. A faithful mask loses less than chance.

    Rows have ``q``, ``order`` ("psi" or "random"), ``seed``, ``agreement`` and with a label ``dice``.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        The model's gates have no mask, or it lacks one of ``levels``.
    """
    window = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
    require_levels(window.checkpoint, dict.fromkeys(levels, Change()))
    trace = GateTrace()
    base = window.probabilities(trace=trace)
    chosen = {level: kept for level, kept in trace.skips.items() if not levels or level in levels}
    masks = {level: kept.psi for level, kept in chosen.items() if kept.psi is not None}
    _require(masks, window, "no mask psi whose low values could be deleted")
    yield Started(2 * len(quantiles) * len(seeds), f"Deleting skip positions of {name}", _device_of(window))
    rows: list[Row] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        chance = {
            level: rng.permutation(len(_inside(window, level, psi))) for level, psi in sorted(masks.items())
        }
        ranked = {
            level: _lowest_first(psi.flatten().cpu().numpy()[_inside(window, level, psi)], rng)
            for level, psi in sorted(masks.items())
        }
        for order, ranks in (("psi", ranked), ("random", chance)):
            for q in quantiles:
                skips = list(window.encoded.skips)
                for level, psi in masks.items():
                    gone = ranks[level][: round(q * len(ranks[level]))]
                    skips[level - 1] = _levelled(skips[level - 1], _inside(window, level, psi)[gone])
                changed = window.probabilities(encoded=replace(window.encoded, skips=tuple(skips)))
                row: Row = {"image": name, "skips": "+".join(map(str, sorted(masks)))}
                row |= {"order": order, "seed": seed, "q": q}
                rows.append(row | _scores(window, changed, base))
                yield Progress(len(rows), 2 * len(quantiles) * len(seeds), name)
    yield Finished(Table("deletion_curve", name, tuple(rows), window.image.geometry))


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
    """Multiply lambda of the chosen gates (default all) by each of ``scales``; ends with a ``Table``.

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
    gates = {level: window.model.gate(level).spatial for level in levels or window.levels}
    swept = [k for k, mask in gates.items() if isinstance(mask, ProximalMask) and mask.theta is not None]
    _require(swept, window, "no thresholds that could be scaled")
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
            rows.append({"image": name, "skip": level, "scale": scale, **named, **scores})
        yield Progress(done, len(scales), name)
    yield Finished(Table("threshold_sweep", name, tuple(rows), window.image.geometry))


RANDOMISED: dict[str, tuple[str, ...]] = {
    "decoder": ("up.", "decoder."),
    "decoder and gates": ("up.", "decoder.", "gates."),
}
"""Whose weights are drawn again in the sanity check."""


def sanity_check(
    checkpoint: Model,
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    seeds: Sequence[int] = (0, 1, 2),
) -> Iterator[Event]:
    """Draw the decoder's weights again and see whether the masks change; ends with a ``Table``.

    After Adebayo et al. 2018: a map that stays the same does not show what was learned. The batch norms of
    what was drawn take the statistics of this very window; with those at the start the maps would be constant
    and the answer trivial.

    Rows have ``randomised``, ``seed``, ``skip`` and ``correlation``: Spearman's, of psi with the trained
    model's. It is missing where a psi is constant.

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
        for level, psi in trained.items():
            row: Row = {"image": name, "randomised": parts, "seed": seed, "skip": level}
            if np.ptp(psi) > 0 and np.ptp(masks[level]) > 0:
                row["correlation"] = float(spearmanr(psi, masks[level]).statistic)
            rows.append(row)
        yield Progress(done, len(todo), name)
    yield Finished(Table("sanity_check", name, tuple(rows), window.image.geometry))


def noise_test(
    checkpoints: Mapping[str, Model],
    image: Image,
    *,
    name: str = "image",
    label: np.ndarray | None = None,
    region: tuple[slice, ...] | None = None,
    device: str = "auto",
    kind: str = "speckle",
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Iterator[Event]:
    """The same rising noise for several models; ends in ``Finished`` with a ``Table``.

    The noise n ~ N(0, 1) is added to the image before it is prepared: ``image * (1 + strength * n)`` for
    "speckle", ``image + strength * std(image) * n`` for "gaussian".

    Rows have ``model``, ``gate``, ``kind``, ``strength``, ``skip``; ``psi_change``, the mean of |dpsi|, and
    ``psi_change_relative``, the same over the clean mask's std, by which masks of different models can be
    compared; ``zero_iou``, the overlap of the exact zeros of z; ``agreement`` and with a label ``dice``.
    What a gate does not have is missing.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        No model, models of different classes, or noise of an unknown kind.
    """
    if kind not in ("speckle", "gaussian"):
        raise ConfigError(f"noise is 'speckle' or 'gaussian', found {kind!r}")
    models = same_classes(checkpoints)
    values = np.asarray(image.array, dtype=np.float32)
    noise = np.random.default_rng(seed).standard_normal(values.shape, dtype=np.float32)
    if kind == "gaussian":
        noise *= values.std(axis=tuple(range(1, values.ndim)), keepdims=True)
    else:
        noise *= values
    total = len(models) * len(strengths)
    rows: list[Row] = []
    geometry = image.geometry
    for number, (model, checkpoint) in enumerate(models.items()):
        clean = open_window(checkpoint, image, name=name, label=label, region=region, device=device)
        geometry = clean.image.geometry
        if number == 0:
            yield Started(total, f"Adding {kind} noise to {name}", _device_of(clean))
        yield from _no_gates(clean, model)
        trace = GateTrace()
        base = clean.probabilities(trace=trace)
        for done, strength in enumerate(strengths, start=1):
            seen = Image(values + strength * noise, image.geometry)
            window = open_window(checkpoint, seen, name=name, label=label, region=region, device=device)
            noisy = GateTrace()
            scores = _scores(window, window.probabilities(trace=noisy), base)
            known: Row = {"image": name, "model": model, "gate": checkpoint.spec.gate}
            known |= {"kind": kind, "strength": strength}
            for level in clean.levels:
                moved = _moved(_seen(clean, trace.skips[level]), _seen(window, noisy.skips[level]))
                rows.append({**known, "skip": level, **moved, **scores})
            yield Progress(number * len(strengths) + done, total, f"{name}, {model}")
    yield Finished(Table("noise_test", name, tuple(rows), geometry))


def same_classes(checkpoints: Mapping[str, Model]) -> dict[str, Checkpoint]:
    """The models, read where they are paths.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        One cannot be read or is an ensemble; there is none; they know different classes.
    """
    if not checkpoints:
        raise ConfigError("choose at least one model")
    models = {name: one_network(checkpoint) for name, checkpoint in checkpoints.items()}
    first, known = next((name, model.plan.class_names) for name, model in models.items())
    for name, model in models.items():
        if model.plan.class_names != known:
            raise DataError(
                f"model '{name}' knows the classes {', '.join(model.plan.class_names)}, '{first}' "
                f"{', '.join(known)}; compare models trained on the same labels"
            )
    return models


# ---- what the tests share ---------------------------------------------------------------------------------


def _device_of(window: Window) -> str:
    return str(window.cut.device)


def _no_gates(window: Window, model: str = "The model") -> Iterator[Event]:
    if window.checkpoint.spec.gate == "none":
        yield Notice(f"{model} has no gates: every skip passes whole, so there is no mask to look at.")


def _require(there: object, window: Window, lacking: str) -> None:
    if not there:
        raise ConfigError(
            f"the gates of this model ({window.checkpoint.spec.gate}) have {lacking}; choose a model with "
            f"another gate, such as prosma"
        )


def _parts_of(model: ProSMAUNet, level: int) -> list[str]:
    gate = model.gate(level)
    there = {"psi": gate.spatial is not None, "c": gate.channel is not None, "whole": True}
    return [part for part in PARTS if there[part]]


def _scores(window: Window, probabilities: np.ndarray, base: np.ndarray) -> Row:
    labels = labels_of(probabilities)
    return {"agreement": window.agreement(labels, labels_of(base)), **(window.dice(labels) or {})}


def _seen(window: Window, kept: SkipTrace) -> SkipTrace:
    """What lies over the image, without the padding."""
    size = window.tiling.seen(window.tiling.size)
    return kept.cropped(tuple(-(-n // 2 ** (kept.level - 1)) for n in size))


def _inside(window: Window, level: int, psi: torch.Tensor) -> np.ndarray:
    """Flat indices of the positions of a skip that lie over the image, not over its padding."""
    size = window.tiling.seen(window.tiling.size)
    inside = np.zeros(psi.shape[2:], bool)
    inside[tuple(slice(0, -(-n // 2 ** (level - 1))) for n in size)] = True
    return np.flatnonzero(inside)


def _lowest_first(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order of rising values, ties at random."""
    return np.lexsort((rng.random(len(values)), values))


def _levelled(skip: torch.Tensor, gone: np.ndarray) -> torch.Tensor:
    """Skip (1, C, *grid) whose vectors at the flat indices ``gone`` are their mean."""
    if not len(gone):
        return skip
    flat = skip.flatten(2).clone()
    at = torch.from_numpy(gone).to(skip.device)
    flat[:, :, at] = flat[:, :, at].mean(dim=2, keepdim=True)
    return flat.reshape(skip.shape)


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
        drawn = build_model(window.checkpoint.spec).state_dict()
    model = copy.deepcopy(window.model)
    model.load_state_dict({n: t for n, t in drawn.items() if n.startswith(prefixes)}, strict=False)
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


# ---- the figures ------------------------------------------------------------------------------------------

_COLOURS = ("#3b6ea5", "#e09f3e", "#8a5a83", "#2a9d8f", "#c1121f", "#555555", "#8ab17d")


def table_figure(test: str, rows: Sequence[Row]) -> Figure:
    """Plot of the rows of one test (a key of ``TESTS``), of one image or of many.

    Means over images and seeds; bars and bands are standard deviations.
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    _DRAWN[test](figure, rows)
    images = len({row["image"] for row in rows})
    figure.suptitle(f"{TESTS[test]} ({images} images)" if images > 1 else TESTS[test], fontsize=10)
    return figure


def _score_of(rows: Sequence[Row]) -> tuple[str, str]:
    """The figure that says how good a segmentation is, and its name on an axis."""
    if any("dice" in row for row in rows):
        return "dice", "Dice against the label"
    return "agreement", "Dice against the unchanged model"


def _gathered(rows: Sequence[Row], by: str, value: str) -> tuple[list, np.ndarray, np.ndarray]:
    """Values of ``by`` in order, with the mean and the spread of ``value`` over their rows."""
    held: dict = {}
    for row in rows:
        if value in row:
            held.setdefault(row[by], []).append(float(row[value]))
    at = sorted(held)
    return at, np.array([np.mean(held[x]) for x in at]), np.array([np.std(held[x]) for x in at])


def _line(axes: Axes, rows: Sequence[Row], by: str, value: str, label: str, colour: str) -> None:
    at, mean, spread = _gathered(rows, by, value)
    if at:
        axes.plot(at, mean, "o-", color=colour, label=label, markersize=3, linewidth=1.4)
        axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)


def _finish(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


def _values(rows: Sequence[Row], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))


def _draw_leave_one_out(figure: Figure, rows: Sequence[Row]) -> None:
    left, right = figure.subplots(1, 2)
    names = {"psi": "mask psi set to 1", "c": "channel weights c set to 1", "whole": "skip cut"}
    parts = [part for part in names if part in _values(rows, "part")]
    drop = "dice_change" if any("dice_change" in row for row in rows) else "agreement"
    for n, part in enumerate(parts):
        own = [row for row in rows if row["part"] == part]
        for axes, value in ((left, "effect"), (right, drop)):
            at, mean, spread = _gathered(own, "skip", value)
            place = np.array(at) + (n - (len(parts) - 1) / 2) * 0.26
            several = spread if spread.any() else None
            axes.bar(place, mean, 0.26, yerr=several, color=_COLOURS[n], label=names[part])
    skips = sorted(_values(rows, "skip"))
    for axes in (left, right):
        axes.set_xticks(skips, [f"skip {k}" for k in skips])
    _finish(left, "1 = finest", "mean change of the probabilities")
    words = "change of Dice" if drop == "dice_change" else "Dice against the unchanged model"
    _finish(right, "1 = finest", words, legend=False)
    right.axhline(0, color="0.4", linewidth=0.6)


def _draw_deletion_curve(figure: Figure, rows: Sequence[Row]) -> None:
    value, words = _score_of(rows)
    axes = figure.subplots()
    for order, label, colour in (
        ("psi", "positions with the lowest psi", _COLOURS[0]),
        ("random", "as many at random", _COLOURS[5]),
    ):
        _line(axes, [row for row in rows if row["order"] == order], "q", value, label, colour)
    _finish(axes, "share of skip positions replaced by their mean", words)


def _draw_threshold_sweep(figure: Figure, rows: Sequence[Row]) -> None:
    left, right = figure.subplots(1, 2)
    value, words = _score_of(rows)
    for n, skip in enumerate(sorted(_values(rows, "skip"))):
        own = [row for row in rows if row["skip"] == skip]
        _line(left, own, "scale", "z_zero_fraction", f"skip {skip}", _COLOURS[n % len(_COLOURS)])
    left.set_ylim(-0.02, 1.02)
    _line(right, rows, "scale", value, "", _COLOURS[0])
    for axes in (left, right):
        axes.axvline(1, color="0.6", linewidth=0.8, linestyle="--")
    _finish(left, "lambda x (dashed: as trained)", "share of exact zeros in z")
    _finish(right, "lambda x (dashed: as trained)", words, legend=False)


def _draw_sanity_check(figure: Figure, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    for n, parts in enumerate(_values(rows, "randomised")):
        own = [row for row in rows if row["randomised"] == parts and "correlation" in row]
        at = np.array([float(row["skip"]) for row in own]) + (n - 0.5) * 0.16
        heights = [float(row["correlation"]) for row in own]
        axes.plot(at, heights, "o", color=_COLOURS[n], markersize=5, alpha=0.7, label=f"{parts} randomised")
    skips = sorted(_values(rows, "skip"))
    axes.set_xticks(skips, [f"skip {k}" for k in skips])
    axes.set_ylim(-1.05, 1.05)
    axes.axhline(0, color="0.4", linewidth=0.6)
    axes.axhline(1, color="0.6", linewidth=0.8, linestyle="--")
    _finish(axes, "dashed: the mask does not depend on them", "rank correlation with the trained psi")


def _draw_noise_test(figure: Figure, rows: Sequence[Row]) -> None:
    value, words = _score_of(rows)
    panels = [
        ("psi_change_relative", "mean |change of psi| / std of psi"),
        ("zero_iou", "overlap (IoU) of the exact zeros of z"),
        (value, words),
    ]
    shown = [(key, text) for key, text in panels if any(key in row for row in rows)]
    kinds = ", ".join(str(kind) for kind in _values(rows, "kind"))
    for axes, (key, text) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for n, model in enumerate(_values(rows, "model")):
            own = [row for row in rows if row["model"] == model]
            # Over the skips first: bands are spreads over images.
            averaged = _over_skips(own, key)
            _line(axes, averaged, "strength", key, str(model), _COLOURS[n % len(_COLOURS)])
        _finish(axes, f"strength of the noise ({kinds})", text)


def _over_skips(rows: Sequence[Row], key: str) -> list[Row]:
    held: dict[tuple, list[float]] = {}
    for row in rows:
        if key in row:
            held.setdefault((row["image"], row["kind"], row["strength"]), []).append(float(row[key]))
    return [{"strength": strength, key: float(np.mean(v))} for (_, _, strength), v in held.items()]


_DRAWN: dict[str, Callable[[Figure, Sequence[Row]], None]] = {
    "leave_one_out": _draw_leave_one_out,
    "deletion_curve": _draw_deletion_curve,
    "threshold_sweep": _draw_threshold_sweep,
    "sanity_check": _draw_sanity_check,
    "noise_test": _draw_noise_test,
}
