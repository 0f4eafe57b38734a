"""Plain sentences on a ``DataSetInspection``: made from its numbers, and no more than they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from napari_prosma.data.metrics import in_percent
from napari_prosma.inspection.data_set import DataSetInspection, Spread
from napari_prosma.inspection.kinship import ablation_in_words
from napari_prosma.inspection.measures import LEAST_RATIO, MEASURES, in_digits, skips_in_words
from napari_prosma.inspection.statistics import (
    ANYWHERE,
    FEWEST,
    LEVEL,
    OF_DIFFERENCES,
    Interval,
    Limits,
    by_unit,
    simultaneous,
    units_in_words,
)
from napari_prosma.nn.gate_kinds import GATES

LITTLE = 0.01
"""Where psi varies less over an image, it is called nearly constant."""
NO_FOREGROUND = "No case has a mask psi and a foreground that can be compared."


def selecting(inspection: DataSetInspection) -> str:
    """What share of the gated skips no constant per channel explains."""
    said = []
    for model in inspection.checkpoints:
        spreads = _spreads(inspection, model, "selectivity")
        if GATES[inspection.checkpoints[model].spec.gate].parts:
            said.append(f"{_range(spreads, in_percent)} with {model}{_ungated(inspection, model)}")
        else:
            said.append(f"0 % with {model}, which has no gates")
    return (
        f"Selectivity, the share of a gated skip that no constant per channel explains, is "
        f"{', '.join(said)}. The rest only rescales channels, which the next convolution can undo."
    )


def focus(inspection: DataSetInspection) -> str:
    """Where psi passes more of the skip inside the foreground than it does on average."""
    measure = "relative_energy_inside"
    inspection, which = _judged(inspection, measure)
    said = []
    for model in inspection.checkpoints:
        factors = _factors(inspection, model, measure, "above average", "below average")
        if factors:
            said.append(f"in {model} {factors}")
    if not said:
        return NO_FOREGROUND
    return (
        f"{which}Relative energy inside the foreground, geometric mean over the cases (1 x = psi passes as "
        f"much there as on average{_of_cases(inspection, measure)}): {'; '.join(said)}."
        f"{_of_its_own(inspection, measure)}"
    )


def zeros_in_z(inspection: DataSetInspection) -> str:
    """How sparse z is, and what that does not mean."""
    said = []
    for model in inspection.checkpoints:
        spreads = _spreads(inspection, model, "z_zero_fraction")
        if spreads:
            said.append(f"in {model} {_range(spreads, in_percent)} of z is exactly zero")
        else:
            said.append(f"{_lacking(inspection, model, 'no threshold')}, so it sets nothing to zero")
    return f"{_sentence(said)} This is how sparse z is, not how much of a skip is removed."


def without_evidence(inspection: DataSetInspection) -> str:
    """At how many positions all of z is zero, and what the decoder still gets there."""
    model = inspection.model
    spreads = _spreads(inspection, model, "floor_pixel_fraction")
    if not spreads:
        return _sentence(
            [f"{_lacking(inspection, model, 'no threshold')}, so no position is without evidence"]
        )
    floors = {level: inspection.spread(model, level, "gate_floor") for level in spreads}
    floor = _range({k: s for k, s in floors.items() if s is not None}, "{:.2f}".format)
    kind = GATES[inspection.checkpoints[model].spec.gate]
    and_c = ", times c" if kind.parts > 1 else ""
    there = (
        "psi is exactly zero there, so the skip itself is cut"
        if kind.exact_zeros
        else f"psi is not zero there but equals the gate floor of {floor}{and_c}, "
        "so the skip is attenuated, not cut"
    )
    share = _range(spreads, in_percent)
    return f"In {model} {share} of the positions are without evidence (all of z is zero); {there}."


def mask_level(inspection: DataSetInspection) -> str:
    """How far psi is open, and whether it varies at all."""
    said = []
    for model in inspection.checkpoints:
        means, widths = _spreads(inspection, model, "psi_mean"), _spreads(inspection, model, "psi_std")
        if not means:
            said.append(_lacking(inspection, model, "no spatial mask"))
            continue
        flat = [level for level, spread in widths.items() if spread.mean < LITTLE]
        words = f"in {model} the mean of psi is {_range(means, '{:.2f}'.format)}"
        said.append(words + (f", and psi is nearly constant at {skips_in_words(flat)}" if flat else ""))
    return _sentence(said)


def telling_apart(inspection: DataSetInspection) -> str:
    """Where psi tells the foreground from what is around it."""
    inspection, which = _judged(inspection, "psi_auc")
    said = _sides(inspection, "psi_auc", "psi is higher inside", "psi is lower inside")
    if not said:
        return NO_FOREGROUND
    what = "AUC of psi, inside against outside the foreground (0.5 = chance"
    cases = _of_cases(inspection, "psi_auc")
    return f"{which}{what}{cases}): {said}.{_of_its_own(inspection, 'psi_auc')}"


def telling_apart_in_errors(inspection: DataSetInspection) -> str:
    """The same among the positions where the model is wrong, where it is no echo of the prediction."""
    said = _sides(
        inspection, "psi_auc_in_errors", "psi sides with the label", "psi sides with the prediction"
    )
    if not said:
        return ""
    return (
        "AUC of psi among errors, where the model confuses structure and background (0.5 = chance"
        f"{_of_cases(inspection, 'psi_auc_in_errors')}): {said}."
    )


def _sides(inspection: DataSetInspection, auc: str, above: str, below: str) -> str:
    """On which side of chance an AUC is, model by model."""
    said = []
    for model in inspection.checkpoints:
        of = f"{MEASURES[auc].label} - 0.5"
        intervals = _against(inspection, model, auc, lambda value: value - 0.5, of, (-0.5, 0.5))
        if intervals:
            told = {level: f"{each.mean + 0.5:.2f}" for level, each in intervals.items()}
            said.append(f"in {model} {_grouped(intervals, told, above, below)}")
    return "; ".join(said)


def energy_ratio(inspection: DataSetInspection) -> str:
    """Energy kept inside over outside, and beside which neutral value the shares stand."""
    measure = "retained_energy_ratio"
    judged, which = _judged(inspection, measure)
    image = f"the whole image of all {len(inspection.cases)} cases" if which else "the whole image"
    said = []
    for model in inspection.checkpoints:
        factors = _factors(judged, model, measure, "above 1", "below 1")
        if factors:
            neutral = GATES[inspection.checkpoints[model].spec.gate].neutral_energy
            kept = _range(_spreads(inspection, model, "retained_energy"), in_percent)
            said.append(
                f"with {model}, energy kept inside the foreground relative to that outside, geometric mean "
                f"over the cases: {factors}; over {image} {kept} is kept, where a gate that selects "
                f"nothing keeps {100 * neutral:g} %{_ungated(inspection, model)}"
            )
    if not said:
        return "No case has a foreground to compare with."
    told = f"{which}{'; '.join(said)}." if which else _sentence(said)
    if any(_spreads(judged, model, "channel_mean") for model in judged.checkpoints):
        told += " A weight per channel moves this ratio, too, even a constant one."
    if counts := _of_cases(judged, measure).removeprefix("; "):
        told += f" {counts[0].upper()}{counts[1:]}."
    return f"{told}{_of_its_own(judged, measure, 'its gates contribute')}"


def channels(inspection: DataSetInspection) -> str:
    """Latent channels that are dead, or always open, over the whole set."""
    dead, always, number = 0, 0, 0
    for level in inspection.levels(inspection.model):
        zeros = inspection.channel_zeros(inspection.model, level)
        if zeros.size:
            number += zeros.shape[1]
            dead += int((zeros == 1).all(axis=0).sum())
            always += int((zeros == 0).all(axis=0).sum())
    if not number:
        lacking = _lacking(inspection, inspection.model, "no threshold")
        return _sentence([f"{lacking}, so it has no dead channels"])
    return (
        f"Latent channels of {inspection.model}: {number}, of which {dead} dead (zero everywhere in every "
        f"case) and {always} always open (zero nowhere in any case)."
    )


def overlap(inspection: DataSetInspection) -> str:
    """Dice of the model and how the others differ, unit by unit; and what they find in empty cases."""
    own, models = inspection.overlaps(inspection.model), inspection.checkpoints
    normals = len(inspection.overlaps(inspection.model, empty=True))
    first, *others = models
    alarms = {m: sum(dice < 1 for dice in inspection.overlaps(m, empty=True).values()) for m in models}
    finds = [f"{first} finds something in {alarms[first]} of them", *(f"{o} in {alarms[o]}" for o in others)]
    more, label = " more" if own else "", "a label is" if normals == 1 else "the labels are"
    found = f"In {normals}{more}, {label} empty; {', '.join(finds)}." if normals else ""
    strange = [ablation_in_words(first, models[first], other, models[other]) for other in others]
    if not own:
        unknown = "No case has a label with a structure, so the Dice is unknown."
        return " ".join(filter(None, [unknown, found, *strange]))
    dice = {model: by_unit(inspection.overlaps(model), inspection.units) for model in models}
    number = len(dice[first])
    once = f" ({units_in_words(number)}, each counted once)" if number < len(own) else ""
    structure = " with a structure" if normals else ""
    words = [
        f"the mean Dice over {len(own)} labelled case{'s' * (len(own) != 1)}{structure}{once} is "
        f"{np.mean([*dice[first].values()]):.3f} with {first}"
    ]
    differences = {
        other: np.array([dice[first][unit] - value for unit, value in dice[other].items()])
        for other in others
    }
    intervals = simultaneous(differences, OF_DIFFERENCES, measure=f"Dice of {first} minus that of the model")
    words += [
        f"{np.mean([*dice[other].values()]):.3f} with {other} ({first} minus {other}: "
        f"{compared_in_words(each)}, for these two trainings)"
        for other, each in intervals.items()
    ]
    return " ".join(filter(None, [_sentence(words), found, *strange]))


def compared_in_words(difference: Interval) -> str:
    """A difference of two models with its interval, and whether it tells them apart."""
    if difference.units < FEWEST:
        return (
            f"{difference.mean:+z.3f}, no claim from {units_in_words(difference.units)}, {FEWEST} are needed"
        )
    told = difference.in_words()
    return told if difference.is_above or difference.is_below else f"{told}: no difference shown"


def unusual(inspection: DataSetInspection) -> str:
    """How many cases are unusual, and whether that goes with low Dice."""
    if not inspection.deviations:
        return f"{len(inspection.cases)} cases are too few to say what is usual; {FEWEST} are needed."
    number = sum(
        abs(deviation.score) > inspection.unusual_from for deviation in inspection.deviations.values()
    )
    verb = "has" if number == 1 else "have"
    return (
        f"{number} of {len(inspection.cases)} cases {verb} a measure more than "
        f"{inspection.unusual_from:.1f} robust standard deviations from the median. One in twenty sets of as "
        "many ordinary cases has such a case if their measures are independent and normally distributed; of "
        f"skewed measures more have one. {inspection.association().in_words()}"
    )


# ---- what the sentences share -----------------------------------------------------------------------------


def _doublings(ratio: float) -> float:
    return float(np.log2(max(ratio, LEAST_RATIO)))


def _factors(inspection: DataSetInspection, model: str, measure: str, above: str, below: str) -> str:
    """Geometric means of a ratio over the cases, skip by skip, and what may be claimed of them."""
    intervals = _against(inspection, model, measure, _doublings, f"log2 of {MEASURES[measure].label}")
    told, floored = {}, {}
    for level, values in _finite(inspection, model, measure).items():
        floored[level] = sum(value < LEAST_RATIO for value in values.values())
        less = "less than " if floored[level] else ""
        told[level] = f"{less}{in_digits(2 ** intervals[level].mean)} x"
    return _grouped(intervals, told, above, below, floored)


def _against(
    inspection: DataSetInspection,
    model: str,
    measure: str,
    signed: Callable[[float], float],
    of: str,
    within: Limits = ANYWHERE,
) -> dict[int, Interval]:
    """Intervals over the skips of a measure whose sign says something, over the units that have it.

    All of them hold together: skips of the same cases by their largest mean, and where a coarse one lacks
    some cases, such as those with a small structure, each such group has its share of the error (Bonferroni).
    A skip that has too few for any claim takes none.
    """
    compared = _finite(inspection, model, measure)
    shared: dict[frozenset[str], list[int]] = {}
    for level, values in compared.items():
        shared.setdefault(frozenset(values), []).append(level)
    enough = [level for level, held in compared.items() if len(by_unit(held, inspection.units)) >= FEWEST]
    intervals: dict[int, Interval] = {}
    for levels in shared.values():
        samples = {
            level: by_unit({case: signed(v) for case, v in compared[level].items()}, inspection.units)
            for level in levels
        }
        share = len(levels) / len(enough) if levels[0] in enough else 1
        intervals |= simultaneous(
            {level: np.array([*held.values()]) for level, held in samples.items()},
            within,
            1 - (1 - LEVEL) * share,
            model=model,
            measure=of,
        )
    return {level: intervals[level] for level in compared}


def _finite(inspection: DataSetInspection, model: str, measure: str) -> dict[int, dict[str, float]]:
    """The measure by case, for each skip with a gate that has it in some."""
    held = {level: inspection.by_case(model, level, measure) for level in _levels(inspection, model)}
    finite = {
        level: {case: value for case, value in values.items() if np.isfinite(value)}
        for level, values in held.items()
    }
    return {level: values for level, values in finite.items() if values}


def _of_cases(inspection: DataSetInspection, measure: str) -> str:
    """Of how many cases each skip is, where that is not the same for all skips of a model."""
    said = []
    for model in inspection.checkpoints:
        counts = {level: len(values) for level, values in _finite(inspection, model, measure).items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{number} at skip {level}" for level, number in counts.items())
            said.append(f"; cases of {model}: {told}")
    return "".join(said)


def _grouped(
    intervals: Mapping[int, Interval],
    told: Mapping[int, str],
    above: str,
    below: str,
    floored: Mapping[int, int] | None = None,
) -> str:
    """Such as ``above average at skip 1 (1.9 x); no difference shown by these cases at skip 2 (1.1 x)``.

    ``floored`` are cases by skip whose factor is too small for its logarithm: that of 0 is minus infinity, so
    how far the others outweigh it depends on the floor alone, and nothing but ``below`` is claimed.
    """
    few = {level: n for level, n in (floored or {}).items() if n and intervals[level].is_known}
    groups = {
        above: [level for level, each in intervals.items() if each.is_above and level not in few],
        below: [level for level, each in intervals.items() if each.is_below],
    }
    left = [level for level in intervals if not any(level in held for held in groups.values())]
    groups["no difference shown by these cases"] = [
        level for level in left if intervals[level].is_known and level not in few
    ]
    for number in dict.fromkeys(few[level] for level in left if level in few):
        cases = f"{number} case{'s' * (number != 1)}"
        groups[f"no claim, as next to nothing passes in the foreground of {cases},"] = [
            level for level in left if few.get(level) == number
        ]
    for units in dict.fromkeys(intervals[level].units for level in left if not intervals[level].is_known):
        equal = ", as nearly all are equal," if units >= FEWEST else ""
        groups[f"no claim from {units_in_words(units)}{equal}"] = [
            level for level in left if intervals[level].units == units and not intervals[level].is_known
        ]
    return "; ".join(
        f"{what} at {', '.join(f'skip {level} ({told[level]})' for level in levels)}"
        for what, levels in groups.items()
        if levels
    )


def _lacking(inspection: DataSetInspection, model: str, what: str) -> str:
    """Such as ``the gate of dense has no threshold``, or that the model has no gates at all."""
    has_gates = GATES[inspection.checkpoints[model].spec.gate].parts > 0
    return f"the gate of {model} has {what}" if has_gates else f"{model} has no gates"


def _judged(inspection: DataSetInspection, measure: str) -> tuple[DataSetInspection, str]:
    """The cases that can judge a model by a measure, and which they are.

    Those with a label, unless none of them has the measure, as where all their masks are empty. The others
    would be counted as evidence though their foreground is the first model's own prediction.
    """
    labelled = tuple(case for case in inspection.cases if case.reference == "label")
    if len(labelled) in (0, len(inspection.cases)):
        return inspection, ""
    by_label = replace(inspection, cases=labelled)
    which = f"the {len(labelled)} cases" if len(labelled) > 1 else "the only case"
    if _having(by_label, measure):
        return by_label, f"Over {which} with a label, of {len(inspection.cases)}: "
    if not _having(inspection, measure):
        return inspection, ""
    none = f"{'have' if len(labelled) > 1 else 'has'} no foreground that can be compared"
    return inspection, f"Over the cases without a label, as {which} with one {none}: "


def _having(inspection: DataSetInspection, measure: str) -> list[str]:
    """The models of which some case has the measure."""
    return [
        model
        for model in inspection.checkpoints
        if any(
            np.isfinite(inspection.values(model, level, measure)).any() for level in inspection.levels(model)
        )
    ]


def _of_its_own(inspection: DataSetInspection, measure: str, part: str = "its psi contributes") -> str:
    """That a model cannot be held against itself, where it is; another one agrees with it or does not."""
    if not any(case.reference == "prediction" for case in inspection.cases):
        return ""
    first, having = inspection.model, _having(inspection, measure)
    others = ", ".join(model for model in having if model != first)
    does = (
        f", to which {part}"
        if first in having and GATES[inspection.checkpoints[first].spec.gate].parts
        else ""
    )
    own = "agreement with itself"
    if not others:
        said = f"this is {own}, not evidence"
    elif first not in having:
        said = f"this is agreement with {first}, not evidence"
    else:
        said = f"for {first} this is {own}, for {others} agreement with {first}. Neither is evidence"
    return f" Without a label, the foreground is the prediction of {first}{does}: {said}."


def _levels(inspection: DataSetInspection, model: str) -> list[int]:
    """The skips that have a gate; all of them pass whole in a model without any."""
    levels, gated = inspection.levels(model), inspection.checkpoints[model].spec.gated_levels
    return [level for level in levels if level in gated] or levels


def _ungated(inspection: DataSetInspection, model: str) -> str:
    """Which skips of a model with gates have none."""
    without = sorted(set(inspection.levels(model)) - set(_levels(inspection, model)))
    has = "has" if len(without) == 1 else "have"
    return f" ({skips_in_words(without)} {has} no gate)" if without else ""


def _spreads(inspection: DataSetInspection, model: str, measure: str) -> dict[int, Spread]:
    spreads = {level: inspection.spread(model, level, measure) for level in _levels(inspection, model)}
    return {level: spread for level, spread in spreads.items() if spread is not None}


def _range(spreads: dict[int, Spread], form: Callable[[float], str]) -> str:
    """Means over the skips, such as "41 % (skip 3) to 60 % (skip 1)"."""
    low, high = (pick(spreads, key=lambda level: spreads[level].mean) for pick in (min, max))
    least, most = form(spreads[low].mean), form(spreads[high].mean)
    return most if least == most else f"{least} (skip {low}) to {most} (skip {high})"


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
