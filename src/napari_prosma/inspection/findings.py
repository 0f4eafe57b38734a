"""Plain sentences on a ``DataSetInspection``: made from its numbers, and no more than they show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from napari_prosma.inspection.data_set import DataSetInspection, Spread

NOTHING = 0.05
"""An AUC so near to one half tells nothing apart."""
LITTLE = 0.01
"""Differences of Dice, energy or psi below this are called none."""


def zeros_in_z(found: DataSetInspection) -> str:
    """How sparse z is, and what that does not mean."""
    said = []
    for model in found.checkpoints:
        spreads = _spreads(found, model, "z_zero_fraction")
        if spreads:
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
        spreads = _spreads(found, model, "psi_auc")
        if not spreads:
            continue
        best = max(spreads, key=lambda level: abs(spreads[level].mean - 0.5))
        value = spreads[best].mean
        if abs(value - 0.5) < NOTHING:
            said.append(f"in {model} psi tells the foreground from the background at no skip")
            continue
        where = "higher" if value > 0.5 else "lower"
        blind = [level for level, spread in spreads.items() if abs(spread.mean - 0.5) < NOTHING]
        words = (
            f"in {model} psi is {where} inside the foreground most clearly at skip {best} (AUC {value:.2f})"
        )
        said.append(words + (f" and says nothing at {_skips(blind)}" if blind else ""))
    return _sentence(said) or "No mask could be compared with a foreground."


def energy(found: DataSetInspection) -> str:
    """What of the skips the decoder receives inside and outside the foreground."""
    said = []
    for model in found.checkpoints:
        inside = _spreads(found, model, "retained_energy_inside")
        outside = _spreads(found, model, "retained_energy_outside")
        both = sorted(inside.keys() & outside.keys())
        if not both:
            continue
        more = [level for level in both if inside[level].mean - outside[level].mean > LITTLE]
        less = [level for level in both if outside[level].mean - inside[level].mean > LITTLE]
        parts = [f"more inside than outside at {_skips(more)}"] if more else []
        parts += [f"less at {_skips(less)}"] if less else []
        words = " and ".join(parts) or "as much inside as outside"
        figures = f"{_range(inside, _percent)} inside, {_range(outside, _percent)} outside"
        said.append(f"with {model} the decoder receives {words} ({figures})")
    return _sentence(said) or "There is no foreground to compare with."


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
        f"Of {number} latent channels of {found.model}, {dead or 'none'} {'is' if dead == 1 else 'are'} zero "
        f"everywhere in all {len(found.cases)} cases (dead), {always or 'none'} "
        f"{'is' if always == 1 else 'are'} nowhere zero (always open)."
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
        words.append(f"{np.mean([*other.values()]):.3f} with {twin} ({_difference(differences)})")
    return _sentence(words)


def unusual(found: DataSetInspection) -> str:
    """How many cases are unusual, and whether that goes with low Dice."""
    if not found.deviations:
        return f"{len(found.cases)} cases are too few to say what is usual."
    number = sum(deviation.is_unusual for deviation in found.deviations.values())
    verb = "has" if number == 1 else "have"
    return (
        f"{number} of {len(found.cases)} cases {verb} a measure more than 3.5 robust standard deviations "
        f"from the median. {found.association().in_words()}"
    )


def _difference(differences: np.ndarray) -> str:
    """The first model minus the other, with the 95 % interval of its mean."""
    mean = float(differences.mean())
    if differences.size < 5:
        return f"difference {mean:+.3f}, from too few cases to tell"
    reach = 1.96 * float(differences.std(ddof=1)) / np.sqrt(differences.size)
    figures = f"difference {mean:+.3f}, 95 % interval {mean - reach:+.3f} to {mean + reach:+.3f}"
    return figures if abs(mean) > reach else f"{figures}: on these cases they cannot be told apart"


def _spreads(found: DataSetInspection, model: str, measure: str) -> dict[int, Spread]:
    spreads = {level: found.spread(model, level, measure) for level in found.levels(model)}
    return {level: spread for level, spread in spreads.items() if spread is not None}


def _percent(value: float) -> str:
    return f"{value:.0%}"


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
