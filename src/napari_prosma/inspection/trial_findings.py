"""Plain sentences on the rows of the tests of ``faithfulness``: no more than the cases show.

A claim needs an interval that excludes what it denies, over enough independent cases; nothing is claimed from
fewer. Where the rows are of one window of an image, the sentence says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps

import numpy as np
from scipy.integrate import trapezoid

from napari_prosma.data.metrics import in_percent
from napari_prosma.inspection.faithfulness import (
    ALL_SKIPS,
    ANOTHER,
    CONTROLS,
    PARTS,
    Row,
    having_structure,
    windows_in_words,
)
from napari_prosma.inspection.measures import skips_in_words
from napari_prosma.inspection.noise import HU, IN_WORDS
from napari_prosma.inspection.statistics import (
    ANYWHERE,
    FEWEST,
    OF_DIFFERENCES,
    OF_SHARES,
    Interval,
    Key,
    Limits,
    by_unit,
    simultaneous,
    units_in_words,
)

LITTLE = 0.01
"""Dice whose loss is called none, where the whole interval lies within it."""
Units = Mapping[str, str] | None
_EMPTY = {"label": "with an empty label", "prediction": "in which nothing is predicted"}
Say = Callable[[Sequence[Row], Units], str]
_SCORES = {"dice": "Dice", "agreement": "Dice against the unchanged prediction"}


def _of_structures(say: Say) -> Say:
    """The sentence on the images in which something can be lost, and how many others there are."""

    @wraps(say)
    def said(rows: Sequence[Row], units: Units = None) -> str:
        left = having_structure(rows)
        score = _score(left or rows)
        images = {row["image"] for row in left}
        some = [row for row in rows if row["image"] in images]
        empty = {
            row["image"]: str(row["empty"])
            for row in rows
            if "empty" in row and score in row and row["image"] not in images
        }
        if not empty:
            return say(some, units)
        told = " and ".join(
            f"{number} image{'s' * (number != 1)} {_EMPTY[kind]}"
            for kind, number in Counter(empty.values()).items()
        )
        if not left:
            return f"{_window_in_words(rows)}{told}: nothing can be lost there, so nothing can be said."
        return f"{say(some, units)} Not counted: {told}, where nothing can be lost."

    return said


@_of_structures
def leave_one_out(rows: Sequence[Row], units: Units = None) -> str:
    """What the spatial selection, the channels' and the whole skips are worth in Dice."""
    is_dice = any("worth" in row for row in rows)
    rows = _complete(rows, "worth" if is_dice else "agreement", "skip", "part")
    if not rows:
        return NOTHING
    worth = {
        (int(row["skip"]), str(row["part"])): _per_unit(
            [r for r in rows if r["skip"] == row["skip"] and r["part"] == row["part"]],
            "worth" if is_dice else "agreement",
            units,
        )
        for row in rows
    }
    intervals = simultaneous(_aligned(worth), OF_DIFFERENCES if is_dice else OF_SHARES)
    what = "Dice lost" if is_dice else _SCORES["agreement"]
    said = []
    for part, words in PARTS.items():
        own = {skip: each for (skip, of), each in intervals.items() if of == part}
        if own:
            said.append(f"{what} with {words}: {_worth_in_words(own, is_dice)}.")
    text = f"{_window_in_words(rows)}{' '.join(said)}"
    if not is_dice:
        return f"{text} Without a label, it is unknown whether this is a loss."
    count = next(iter(intervals.values())).units
    if count < FEWEST:
        return f"{text} {_too_few(count)}"
    return text


def _worth_in_words(own: Mapping[int, Interval], is_dice: bool) -> str:
    none = f"less than {LITTLE:g}"
    groups: dict[str, list[int]] = {"": [], "gain": [], none: [], "not shown": []}
    for skip, each in own.items():
        if not is_dice or each.units < FEWEST or each.is_above or each.is_of_equals:
            groups[""].append(skip)
        elif each.is_within(LITTLE):
            groups[none].append(skip)
        else:
            groups["gain" if each.is_below else "not shown"].append(skip)

    def at(skip: int) -> str:
        return "all skips" if skip == ALL_SKIPS else f"skip {skip}"

    def figure(skip: int) -> str:
        each = own[skip]
        if not each.is_known:
            return f"{each.mean:z.3f} at {at(skip)}"
        if each.is_of_equals:
            return f"{each.mean:z.3f} at {at(skip)} (in {each.each_in_words()})"
        low, high = (f"{end:+z.3f}" if is_dice else f"{end:.3f}" for end in (each.low, each.high))
        return f"{each.mean:z.3f} at {at(skip)} ({low} to {high})"

    parts = []
    for what, skips in groups.items():
        if skips:
            told = ", ".join(map(figure, sorted(skips, key=lambda skip: skip or len(own) + 1)))
            parts.append(f"{what}: {told}" if what else told)
    return "; ".join(parts)


@_of_structures
def deletion_curve(rows: Sequence[Row], units: Units = None) -> str:
    """Whether psi ranks the positions of a skip better than the best control does."""
    score = _score(rows)
    whole = _complete(rows, score, "skip", "order", "draw", "q")
    moved = [row for row in whole if float(row["q"]) > 0]  # where none are replaced, all orders are one
    if not moved:
        return NOTHING
    lead, against, figures = {}, {}, {}
    of_all: dict[tuple[int, str], dict[str, float]] = {}
    for skip in _values(moved, "skip"):
        areas = {
            order: _per_unit([r for r in moved if r["skip"] == skip and r["order"] == order], score, units)
            for order in _values(moved, "order")
        }
        means = {order: float(np.mean([*held.values()])) for order, held in areas.items() if order != "psi"}
        best = max(means, key=lambda order: means[order])
        against[skip] = best
        for order in means:
            of_all[skip, order] = {case: value - areas[order][case] for case, value in areas["psi"].items()}
        lead[skip] = of_all[skip, best]
        figures[skip] = f"{np.mean([*areas['psi'].values()]):.3f} against {means[best]:.3f}"
    intervals = simultaneous(_aligned(lead), OF_DIFFERENCES)
    # To be behind the best of several is nothing yet: of so many orders one is ahead by chance.
    behind = simultaneous(_aligned(of_all), OF_DIFFERENCES)
    intervals = {
        skip: each if each.is_above else behind[skip, against[skip]] for skip, each in intervals.items()
    }

    def told(skips: Iterable[int]) -> str:
        return ", ".join(
            f"skip {skip} ({figures[skip]} with {CONTROLS[against[skip]]}"
            + (f"; {intervals[skip].in_words()})" if intervals[skip].is_known else ")")
            for skip in sorted(skips)
        )

    text = (
        f"{_window_in_words(moved)}Mean {_SCORES[score]} over all shares of positions replaced, lowest psi "
        "first, against the best control: "
    )
    count = next(iter(intervals.values())).units
    if count < FEWEST:
        return f"{text}{told(intervals)}. {_too_few(count)}"
    groups = {
        "psi is better at": [skip for skip, each in intervals.items() if each.is_above],
        "psi is worse at": [skip for skip, each in intervals.items() if each.is_below],
    }
    rest = [skip for skip in intervals if not any(skip in held for held in groups.values())]
    groups["psi is not shown to be better at"] = rest
    parts = [f"{what} {told(skips)}" for what, skips in groups.items() if skips]
    faithful = groups["psi is better at"]
    verdict = (
        f" So psi is faithful at {skips_in_words(sorted(faithful))}."
        if faithful
        else " So psi is not shown to be faithful at any skip."
    )
    return f"{text}{'; '.join(parts)}.{verdict}"


@_of_structures
def threshold_sweep(rows: Sequence[Row], units: Units = None) -> str:
    """Whether the thresholds matter to the segmentation."""
    score = _score(rows)
    rows = _complete(rows, score, "scale", "skip")
    if not rows:
        return NOTHING
    scales = sorted({float(row["scale"]) for row in rows})
    at = {scale: [row for row in rows if float(row["scale"]) == scale] for scale in scales}
    each = {scale: _per_unit(held, score, units) for scale, held in at.items()}
    means = {scale: float(np.mean([*held.values()])) for scale, held in each.items()}
    zeros = {scale: _mean(held, "z_zero_fraction") for scale, held in at.items()}
    trained = min(scales, key=lambda scale: abs(scale - 1))
    first, last = scales[0], scales[-1]

    def with_zeros(scale: float) -> str:
        return f" ({in_percent(zeros[scale])} zeros in z)" if np.isfinite(zeros[scale]) else ""

    text = (
        f"{_window_in_words(rows)}{_SCORES[score]} is {means[trained]:.3f} with lambda as trained"
        f"{with_zeros(trained)}, {means[first]:.3f} with lambda x {first:g} and {means[last]:.3f} with "
        f"lambda x {last:g}{with_zeros(last)}."
    )
    change = {
        scale: {unit: value - each[trained][unit] for unit, value in each[scale].items()}
        for scale in scales
        if scale != trained
    }
    if not change:
        return text
    intervals = simultaneous(_aligned(change), OF_DIFFERENCES)
    count = next(iter(intervals.values())).units
    if count < FEWEST:
        return f"{text} {_too_few(count)}"
    # As far as an interval reaches, or its mean where there is none, which is said.
    largest = max(
        intervals.values(), key=lambda each: float(np.nanmax(np.abs([each.mean, each.low, each.high])))
    )
    if all(each.is_within(LITTLE) for each in intervals.values()):
        return (
            f"{text} In this range {_SCORES[score]} changes by less than {LITTLE:g} (largest change: "
            f"{largest.in_words()})."
        )
    worse = [scale for scale, each in intervals.items() if each.is_below]
    better = [scale for scale, each in intervals.items() if each.is_above]
    if score == "agreement":
        return f"{text} Without a label, it is unknown whether another factor is better."
    if better:
        best = max(better, key=lambda scale: intervals[scale].mean)
        return f"{text} Dice is higher with lambda x {best:g} than as trained ({intervals[best].in_words()})."
    if worse:
        told = ", ".join(f"{scale:g}" for scale in worse)
        return f"{text} Dice is lower with lambda x {told}; no factor is shown to be better than 1."
    return f"{text} These cases show no difference, but do not rule one out (largest: {largest.in_words()})."


def sanity_check(rows: Sequence[Row], units: Units = None) -> str:
    """Whether psi depends on what was learned, beside how alike two trainings are."""
    known = _measured(rows, "correlation")
    random = [row for row in known if row["randomised"] == "decoder"]
    if not random:
        return CONSTANT
    skips = sorted({int(row["skip"]) for row in random})
    constant = sorted({int(row["skip"]) for row in rows} - {*skips})

    def per_skip(what: str) -> dict[int, dict[str, float]]:
        return {
            skip: _per_unit(
                [r for r in known if r["randomised"] == what and r["skip"] == skip], "correlation", units
            )
            for skip in skips
        }

    drawn, ceiling = per_skip("decoder"), per_skip(ANOTHER)
    for skip, held in ceiling.items():
        if held:  # means of the same images
            both = drawn[skip].keys() & held.keys()
            drawn[skip] = {unit: value for unit, value in drawn[skip].items() if unit in both}
            ceiling[skip] = {unit: value for unit, value in held.items() if unit in both}
    means = ", ".join(f"{np.mean([*drawn[skip].values()]):.2f} (skip {skip})" for skip in skips)
    text = f"{_window_in_words(rows)}The correlation of psi with psi of a random decoder is {means}."
    if constant:
        text += f" At {skips_in_words(constant)} psi is constant, as trained or with a random decoder."
    if not any(row["randomised"] == ANOTHER for row in rows):
        return (
            f"{text} Compare it with the correlation between two trainings, which is below 1, too: add a "
            "model of the same gate and data with another seed."
        )
    skips = [skip for skip in skips if ceiling[skip]]
    if not skips:
        return f"{text} psi of the other training is constant, so there is nothing to compare it with."
    highest = ", ".join(f"{np.mean([*ceiling[skip].values()]):.2f} (skip {skip})" for skip in skips)
    gap = {skip: {unit: ceiling[skip][unit] - value for unit, value in drawn[skip].items()} for skip in skips}
    intervals = _where_enough(gap, (-2.0, 2.0))
    text += f" Between two trainings it is {highest}."
    apart = "; ".join(_values([row for row in rows if "apart" in row], "apart"))
    if apart:
        text += (
            f" The two differ in more than the seed: {apart}. Two that differ in the seed alone may be more "
            "alike."
        )
    few = [skip for skip, each in intervals.items() if each.units < FEWEST]
    if len(few) == len(intervals):
        return f"{text} {_too_few(max(each.units for each in intervals.values()))}"
    learned = [skip for skip, each in intervals.items() if each.is_above]
    if learned:
        text += (
            f" It is higher between these two trainings at {skips_in_words(learned)}, so psi depends on what "
            "was learned there."
        )
    else:
        text += " It is not shown to be higher between two trainings at any skip."
    return text + "".join(f" At skip {skip}: {_too_few(intervals[skip].units)}" for skip in few)


@_of_structures
def noise_test(rows: Sequence[Row], units: Units = None) -> str:
    """What is left of Dice over all strengths of the noise, model by model.

    Models are compared by the share that each keeps of its own Dice without noise, as who finds little has
    little to lose, and by the Dice that is left.
    """
    score = _score(rows)
    tried = _complete(rows, score, "model", "kind", "strength", "skip")
    rows = having_structure(tried)
    if not rows:
        return NOTHING
    blank = {
        model: len({row["image"] for row in tried if row["model"] == model and "empty" in row})
        for model in _values(tried, "model")
    }
    known = _values(rows, "kind")
    kinds = ", ".join(IN_WORDS.get(kind, str(kind)) for kind in known)
    strongest = max(float(row["strength"]) for row in rows)
    unit = f" ({strongest * HU:g} HU)" if known == ["hu"] else ""
    kept: dict[str, dict[str, float]] = {}
    under: dict[str, dict[str, float]] = {}
    said = []
    for model in _values(rows, "model"):
        own = [row for row in rows if row["model"] == model]
        areas = {
            image: _area([row for row in own if row["image"] == image], score)
            for image in _values(own, "image")
        }
        clean, under[model] = (
            by_unit({image: both[n] for image, both in areas.items()}, units) for n in (0, 1)
        )
        start, left = np.mean([*clean.values()]), np.mean([*under[model].values()])
        # Of who finds nothing without noise there is no share: one case with the others' zeros is one case.
        if sum(whole > 0 for whole in clean.values()) >= FEWEST:
            kept[model] = _shares(under[model], clean)
        share = f", {100 * left / start:.0f} % of it" if start > 0 else ""
        said.append(f"{left:.3f} ({start:.3f}{share}) with {model}")
    text = (
        f"{_window_in_words(rows)}Mean {_SCORES[score]} over {kinds} noise of strength 0 to "
        f"{strongest:g}{unit}, and in brackets without noise: {', '.join(said)}."
    )
    text += "".join(
        f" {model} finds nothing in {number} of {len(_values(tried, 'image'))} images without noise."
        for model, number in blank.items()
        if number
    )
    if score == "agreement":
        text += " Without a label, this shows how stable the prediction is, not how good."
    # Who finds something in few images takes none from the others.
    enough = [model for model in under if not blank[model] or len(under[model]) >= FEWEST]
    under = {model: under[model] for model in enough or under}
    first, *others = under
    if not others:
        return text
    # The share alone would call robust who marks everything, the Dice alone who finds little in any image.
    compared = {"share": kept, "dice": under if score == "dice" else {}}
    differences = {
        (other, how): {
            unit: held[first][unit] - held[other][unit] for unit in held[first].keys() & held[other]
        }
        for other in others
        for how, held in compared.items()
        if first in held and other in held
    }
    limits = {key: OF_DIFFERENCES if key[1] == "dice" else ANYWHERE for key in differences}
    intervals = simultaneous(_aligned(differences), limits) if differences else {}
    if (count := len(_aligned(under)[first])) < FEWEST:
        return f"{text} {_too_few(count)}"
    return text + "".join(
        _noise_in_words(first, other, score, intervals.get((other, "share")), intervals.get((other, "dice")))
        for other in others
    )


def _noise_in_words(first: str, other: str, score: str, share: Interval | None, dice: Interval | None) -> str:
    """What two models keep under noise: shares of their own, and with a label the Dice itself.

    A share needs as many cases with something to lose as a claim does.
    """
    what = "Dice" if score == "dice" else "prediction"
    if share is None:
        said = (
            f"Without noise {first} or {other} finds something in fewer than {FEWEST} independent cases, so "
            "their shares are not compared"
        )
    elif share.is_above or share.is_below:
        size = "larger" if share.is_above else "smaller"
        said = f"{first} keeps a {size} share of its own {what} than {other} ({share.in_words()})"
    else:
        said = (
            f"No difference is shown between the shares of their own {what} that {first} and {other} keep "
            f"({share.in_words()})"
        )
    if dice is not None:
        side = "higher" if dice.is_above else "lower" if dice.is_below else "not shown to differ"
        said += f"; under noise the Dice of {first} is {side} ({dice.in_words()})"
    return f" {said}, for these two trainings."


TESTED: dict[str, Say] = {
    "leave_one_out": leave_one_out,
    "deletion_curve": deletion_curve,
    "threshold_sweep": threshold_sweep,
    "sanity_check": sanity_check,
    "noise_test": noise_test,
}


# ---- what the sentences share -----------------------------------------------------------------------------

NOTHING = "No image has all measurements, so nothing can be said."
CONSTANT = "psi is constant, as trained or with a random decoder, so nothing can be compared."


def _measured(rows: Sequence[Row], value: str) -> list[Row]:
    """The rows that have a value, and a number for it."""
    return [row for row in rows if value in row and np.isfinite(float(row[value]))]


def _complete(rows: Sequence[Row], value: str, *respects: str) -> list[Row]:
    """Rows with a value, of the images that have one in every respect: else means are of other images."""
    known = _measured(rows, value)
    held: dict[str | float, set[tuple]] = {}
    for row in known:
        held.setdefault(row["image"], set()).add(tuple(row.get(name) for name in respects))
    whole: set[tuple] = set().union(*held.values())
    return [row for row in known if held[row["image"]] == whole]


def _too_few(units: int) -> str:
    return f"No claim from {units_in_words(units)}; {FEWEST} are needed."


def _window_in_words(rows: Sequence[Row]) -> str:
    """That a part of the image was looked at, where it was."""
    parts = sorted({str(row["window"]) for row in rows if "window" in row})
    if not parts:
        return ""
    if len(_values(rows, "image")) == 1:
        return f"In one window ({parts[0]}): "
    return f"In {windows_in_words(rows)}: "


def _per_unit(rows: Sequence[Row], value: str, units: Units) -> dict[str, float]:
    """Means of a value, image by image and then unit by unit; images without it are left out."""
    held: dict[str, list[float]] = {}
    for row in _measured(rows, value):
        held.setdefault(str(row["image"]), []).append(float(row[value]))
    return by_unit({image: float(np.mean(values)) for image, values in held.items()}, units)


def _aligned(samples: Mapping[Key, Mapping[str, float]]) -> dict[Key, np.ndarray]:
    """The same units of all, in one order."""
    shared = sorted(set.intersection(*(set(held) for held in samples.values())))
    return {key: np.array([held[unit] for unit in shared]) for key, held in samples.items()}


def _where_enough(samples: Mapping[Key, Mapping[str, float]], within: Limits) -> dict[Key, Interval]:
    """Intervals that hold together over the units of all; one of too few takes none from the others."""
    enough = {key: held for key, held in samples.items() if len(held) >= FEWEST}
    intervals = simultaneous(_aligned(enough), within) if enough else {}
    for key in samples.keys() - enough.keys():
        intervals |= simultaneous(_aligned({key: samples[key]}), within)
    return {key: intervals[key] for key in samples}


def _area(rows: Sequence[Row], score: str) -> tuple[float, float]:
    """A score without noise, and its mean over the strengths by the trapezoid rule."""
    strengths = sorted({float(row["strength"]) for row in rows})
    values = [_mean([r for r in rows if float(r["strength"]) == strength], score) for strength in strengths]
    span = strengths[-1] - strengths[0]
    return values[0], float(trapezoid(values, strengths)) / span if span > 0 else values[0]


def _shares(part: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, float]:
    """What each unit says of the ratio of two means, of which the mean of these numbers is that ratio.

    By the first terms of its expansion: the ratio of a single unit would be anything where the unit's own
    whole is near 0.
    """
    mean = float(np.mean([*whole.values()]))
    ratio = float(np.mean([*part.values()])) / mean
    return {unit: ratio + (part[unit] - ratio * whole[unit]) / mean for unit in whole}


def _score(rows: Sequence[Row]) -> str:
    return "dice" if any("dice" in row for row in rows) else "agreement"


def _mean(rows: Sequence[Row], value: str) -> float:
    held = [float(row[value]) for row in rows if value in row]
    return float(np.mean(held)) if held else float("nan")


def _values(rows: Sequence[Row], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))
