"""Plain sentences on a ``DataSetInspection``: made from its numbers, and no more than they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from napari_prosma.inspection.data_set import FEWEST, UNUSUAL, DataSetInspection, Spread

Row = dict[str, str | float]

NOTHING = 0.05
"""An AUC so near to one half tells nothing apart."""
LITTLE = 0.01
"""Differences of Dice, energy or psi below this are called none."""
SAME = 0.8
"""A map that correlates so well with the trained one is called the same."""


def zeros_in_z(found: DataSetInspection) -> str:
    """How sparse z is, and what that does not mean."""
    said = []
    for model in found.checkpoints:
        spreads = _spreads(found, model, "z_zero_fraction")
        if any(spread.mean > 0 for spread in spreads.values()):
            said.append(f"in {model} {_range(spreads, _percent)} of the entries of z are exactly zero")
        else:
            said.append(f"the gate of {model} has no threshold, so nothing in it is exactly zero")
    return f"{_sentence(said)} This says how sparse z is, not how much of a skip is cut."


def without_evidence(found: DataSetInspection) -> str:
    """At how many positions all of z is zero, and what the decoder still gets there."""
    model = found.model
    spreads = _spreads(found, model, "floor_pixel_fraction")
    if not spreads:
        return f"The gate of {model} has no threshold, so no position is without evidence."
    floors = {level: found.spread(model, level, "gate_floor") for level in spreads}
    floor = _range({k: s for k, s in floors.items() if s is not None}, "{:.2f}".format)
    gate = found.checkpoints[model].spec.gate
    there = (
        "psi is exactly zero there, so the skip itself is cut"
        if gate == "prosma-exact"
        else f"psi is not zero there but stands at the gate floor of {floor}, and that share passes"
    )
    return f"In {model} z is empty at {_range(spreads, _percent)} of the positions; {there}."


def mask_level(found: DataSetInspection) -> str:
    """How far psi is open, and whether it varies at all."""
    said = []
    for model in found.checkpoints:
        means, widths = _spreads(found, model, "psi_mean"), _spreads(found, model, "psi_std")
        if not means:
            said.append(f"the gate of {model} has no spatial mask")
            continue
        flat = [level for level, spread in widths.items() if spread.mean < LITTLE]
        words = f"in {model} psi is {_range(means, '{:.2f}'.format)} on average"
        said.append(words + (f", and nearly flat at {_skips(flat)}" if flat else ""))
    return _sentence(said)


def telling_apart(found: DataSetInspection) -> str:
    """Where psi tells the foreground from what is around it."""
    said = []
    for model in found.checkpoints:
        means = {level: spread.mean for level, spread in _spreads(found, model, "psi_auc").items()}
        if not means:
            continue
        groups = {
            "is higher inside the foreground": {k: m for k, m in means.items() if m - 0.5 >= NOTHING},
            "is lower inside": {k: m for k, m in means.items() if 0.5 - m >= NOTHING},
            "tells nothing": {k: m for k, m in means.items() if abs(m - 0.5) < NOTHING},
        }
        parts = [f"{what} at {_each(held)}" for what, held in groups.items() if held]
        said.append(f"in {model} psi {', '.join(parts)}")
    return f"{_sentence(said)} Figures are mean AUC." if said else "No mask could be compared."


def energy_inside(found: DataSetInspection) -> str:
    """Whether the decoder receives more inside the foreground than outside."""
    said = []
    for model in found.checkpoints:
        inside = _spreads(found, model, "retained_energy_inside")
        outside = _spreads(found, model, "retained_energy_outside")
        differences = {k: inside[k].mean - outside[k].mean for k in sorted(inside.keys() & outside.keys())}
        groups = {
            "more inside than outside": [k for k, d in differences.items() if d > LITTLE],
            "less": [k for k, d in differences.items() if d < -LITTLE],
            "as much": [k for k, d in differences.items() if abs(d) <= LITTLE],
        }
        parts = [f"{what} at {_skips(levels)}" for what, levels in groups.items() if levels]
        if parts:
            kept = _range(inside, _percent)
            said.append(f"with {model} the decoder receives {', '.join(parts)} ({kept} inside)")
    return _sentence(said) or "There is no foreground to compare with."


def energy_outside(found: DataSetInspection) -> str:
    """How much of the background passes."""
    said = []
    for model in found.checkpoints:
        outside = _spreads(found, model, "retained_energy_outside")
        if outside:
            said.append(f"with {model} {_range(outside, _percent)} of the energy of the background is kept")
    return _sentence(said)


def channels(found: DataSetInspection) -> str:
    """Latent channels that are dead, or always open, over the whole set."""
    dead, always, number = 0, 0, 0
    for level in found.levels(found.model):
        zeros = found.channel_zeros(found.model, level)
        if zeros.size:
            number += zeros.shape[1]
            dead += int((zeros == 1).all(axis=0).sum())
            always += int((zeros == 0).all(axis=0).sum())
    if not number:
        return f"The gate of {found.model} has no threshold, so no latent channel can be dead."
    return (
        f"{number} latent channels of {found.model} over {len(found.cases)} cases: {dead} zero everywhere in "
        f"all of them (dead), {always} zero nowhere in any (always open)."
    )


def overlap(found: DataSetInspection) -> str:
    """Dice of the model and how its twins differ, case by case."""
    own = found.overlaps(found.model)
    if not own:
        return "No case has a label, so how good the segmentations are is not known."
    words = [
        f"the mean Dice over {len(own)} labelled cases is {np.mean([*own.values()]):.3f} with {found.model}"
    ]
    for twin in list(found.checkpoints)[1:]:
        other = found.overlaps(twin)
        differences = np.array([own[case] - other[case] for case in own])
        against = f"{found.model} minus {twin}: {_difference(differences)}"
        words.append(f"{np.mean([*other.values()]):.3f} with {twin} ({against})")
    return _sentence(words)


def unusual(found: DataSetInspection) -> str:
    """How many cases are unusual, and whether that goes with low Dice."""
    if not found.deviations:
        return f"{len(found.cases)} cases are too few to say what is usual."
    number = sum(deviation.is_unusual for deviation in found.deviations.values())
    verb = "has" if number == 1 else "have"
    return (
        f"{number} of {len(found.cases)} cases {verb} a measure more than {UNUSUAL:g} robust standard "
        f"deviations from the median. {found.association().in_words()}"
    )


# ---- the tests ------------------------------------------------------------------------------------------


def leave_one_out(rows: Sequence[Row]) -> str:
    """Which skip the segmentation hangs on, and whether its mask does anything."""
    # Where nothing is found and nothing is there Dice is 1 whatever is done, which says nothing.
    is_dice = any(row.get("dice_change") for row in rows)
    words = {
        "whole": "the whole skip is cut",
        "psi": "its mask is set to 1",
        "c": "its channel weights are 1",
    }
    said = []
    for part, what in words.items():
        own = [row for row in rows if row["part"] == part]
        changes = {
            skip: _per_image(own, skip, "dice_change" if is_dice else "effect") for skip in _skips_of(own)
        }
        if not changes:
            continue
        most = max(changes, key=lambda skip: abs(changes[skip].mean()))
        mean, low, high = _interval(changes[most])
        figure = f"Dice {mean:+.3f}" if is_dice else f"mean change of the probabilities {mean:.3f}"
        if not np.isnan(low):
            figure += f", 95 % interval {low:+.3f} to {high:+.3f}"
        # What moves the probabilities little may still find something where there was nothing.
        is_same = is_dice or all(float(row.get("agreement", 1)) > 1 - LITTLE for row in own)
        if abs(mean) < LITTLE and is_same:
            said.append(f"at no skip does it matter whether {what} (at most {figure})")
        elif low <= 0 <= high:
            said.append(
                f"these cases do not show at which skip it matters that {what} (most at {most}: {figure})"
            )
        else:
            said.append(f"skip {most} matters most when {what} ({figure})")
    return _sentence(said)


def deletion_curve(rows: Sequence[Row]) -> str:
    """Whether what psi calls unimportant is less important than chance."""
    score = _score(rows)
    moved = [row for row in rows if float(row["q"]) > 0]
    pairs = [
        [
            _mean([row for row in moved if row["image"] == image and row["order"] == order], score)
            for order in ("psi", "random")
        ]
        for image in _values(moved, "image")
    ]
    lowest, chance = np.array(pairs).T
    mean, low, high = _interval(lowest - chance)
    figures = f"{_SCORES[score]} {lowest.mean():.3f} against {chance.mean():.3f}, mean over all shares"
    if np.isnan(low):
        return f"Positions of low psi replaced against as many at random: {figures}; too few cases to tell."
    figures += f"; difference {mean:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
    if low > 0:
        return (
            f"Replacing the positions of lowest psi costs less than chance ({figures}): psi is faithful here."
        )
    if high < 0:
        return f"Replacing the positions of lowest psi costs more than chance ({figures}): psi misleads here."
    return (
        f"These cases do not show that replacing the positions of lowest psi costs less than chance, or more "
        f"({figures})."
    )


def threshold_sweep(rows: Sequence[Row]) -> str:
    """Whether the thresholds matter to the segmentation."""
    score = _score(rows)
    scales = sorted({float(row["scale"]) for row in rows})
    at = {scale: [row for row in rows if float(row["scale"]) == scale] for scale in scales}
    means = {scale: _mean(held, score) for scale, held in at.items()}
    zeros = {scale: _mean(held, "z_zero_fraction") for scale, held in at.items()}
    trained = min(scales, key=lambda scale: abs(scale - 1))
    first, last = scales[0], scales[-1]
    text = (
        f"With the thresholds times {first:g} {_SCORES[score]} is {means[first]:.3f}, "
        f"as trained {means[trained]:.3f} ({_percent(zeros[trained])} zeros in z), "
        f"times {last:g} {means[last]:.3f} ({_percent(zeros[last])} zeros)."
    )
    best = max(means, key=lambda scale: means[scale])
    if max(means.values()) - min(means.values()) < LITTLE:
        return f"{text} The thresholds make no difference to it over this range."
    if score == "agreement":
        return f"{text} Without a label it cannot be told whether another scale is better."
    if means[best] - means[trained] < LITTLE:
        return f"{text} No other scale is better by {LITTLE:g} or more."
    return f"{text} It is highest times {best:g}, {means[best]:.3f}: not where training left them."


def sanity_check(rows: Sequence[Row]) -> str:
    """Whether psi depends on what the decoder learned."""
    own = [row for row in rows if row["randomised"] == "decoder" and "correlation" in row]
    if not own:
        return "psi was constant with a random decoder, so nothing can be compared."
    means = {
        int(skip): _mean([row for row in own if row["skip"] == skip], "correlation")
        for skip in _skips_of(own)
    }
    same = [skip for skip, mean in means.items() if mean > SAME]
    text = f"With a random decoder psi correlates with the trained one by {_each(means)}."
    if same:
        return f"{text} At {_skips(same)} the map hardly shows what the decoder learned."
    return f"{text} No map stays the same; where the figure is high, much of it does not need the decoder."


def noise_test(rows: Sequence[Row]) -> str:
    """Under the strongest noise: what Dice loses and how far the masks move, model by model."""
    score, kinds = _score(rows), ", ".join(map(str, _values(rows, "kind")))
    strongest = max(float(row["strength"]) for row in rows)
    images = _values(rows, "image")
    losses, said = {}, []
    for model in _values(rows, "model"):
        own = [row for row in rows if row["model"] == model]
        clean, noisy = (
            np.array(
                [
                    _mean([r for r in own if r["image"] == image and float(r["strength"]) == strength], score)
                    for image in images
                ]
            )
            for strength in (0.0, strongest)
        )
        losses[model] = clean - noisy
        moved = _mean([r for r in own if float(r["strength"]) == strongest], "psi_change_relative")
        words = f"{clean.mean():.3f} to {noisy.mean():.3f} with {model}"
        said.append(words if np.isnan(moved) else f"{words} (psi moves by {moved:.2f} of its spread)")
    text = f"Under {kinds} noise of strength {strongest:g} {_SCORES[score]} goes from {', '.join(said)}."
    first, *others = losses
    for other in others:
        mean, low, high = _interval(losses[first] - losses[other])
        if np.isnan(low):
            return f"{text} These are too few cases to tell the models apart."
        figures = f"difference {mean:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
        if low <= 0 <= high:
            text += f" Whether {first} loses more or less than {other} these cases do not show ({figures})."
        else:
            text += f" {first} loses {'less' if high < 0 else 'more'} than {other} ({figures})."
    return text


TESTED: dict[str, Callable[[Sequence[Row]], str]] = {
    "leave_one_out": leave_one_out,
    "deletion_curve": deletion_curve,
    "threshold_sweep": threshold_sweep,
    "sanity_check": sanity_check,
    "noise_test": noise_test,
}


# ---- what the sentences share -----------------------------------------------------------------------------


def _interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of it (normal); NaN where there are too few cases for one."""
    mean = float(differences.mean())
    if differences.size < FEWEST:
        return mean, float("nan"), float("nan")
    reach = 1.96 * float(differences.std(ddof=1)) / np.sqrt(differences.size)
    return mean, mean - reach, mean + reach


def _difference(differences: np.ndarray) -> str:
    mean, low, high = _interval(differences)
    if np.isnan(low):
        return f"{mean:+.3f}, from too few cases to tell"
    figures = f"{mean:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
    return figures if low > 0 or high < 0 else f"{figures}: on these cases they cannot be told apart"


def _per_image(rows: Sequence[Row], skip: int, value: str) -> np.ndarray:
    """Means of a skip, image by image; images without the value are left out."""
    own = [row for row in rows if row["skip"] == skip and value in row]
    return np.array(
        [_mean([row for row in own if row["image"] == image], value) for image in _values(own, "image")]
    )


def _skips_of(rows: Sequence[Row]) -> list[int]:
    return sorted(_values(rows, "skip"))


_SCORES = {"dice": "Dice", "agreement": "Dice against the unchanged result"}


def _score(rows: Sequence[Row]) -> str:
    return "dice" if any("dice" in row for row in rows) else "agreement"


def _mean(rows: Sequence[Row], value: str) -> float:
    held = [float(row[value]) for row in rows if value in row]
    return float(np.mean(held)) if held else float("nan")


def _values(rows: Sequence[Row], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))


def _each(figures: Mapping[int, float]) -> str:
    """Such as "0.85 (skip 2), 0.80 (skip 3)"."""
    return ", ".join(f"{value:.2f} (skip {level})" for level, value in figures.items())


def _spreads(found: DataSetInspection, model: str, measure: str) -> dict[int, Spread]:
    spreads = {level: found.spread(model, level, measure) for level in found.levels(model)}
    return {level: spread for level, spread in spreads.items() if spread is not None}


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _range(spreads: dict[int, Spread], form: Callable[[float], str]) -> str:
    """Means over the skips, such as "41 % (skip 3) to 60 % (skip 1)"."""
    low, high = (pick(spreads, key=lambda level: spreads[level].mean) for pick in (min, max))
    least, most = form(spreads[low].mean), form(spreads[high].mean)
    return most if least == most else f"{least} (skip {low}) to {most} (skip {high})"


def _skips(levels: list[int]) -> str:
    return f"skip{'s' * (len(levels) > 1)} {', '.join(map(str, levels))}"


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
