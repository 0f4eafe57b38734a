"""A validation in words: what the model finds and what not, the likely reason, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from napari_prosma.data.metrics import Overlap, in_percent
from napari_prosma.events import EpochEnd, Verdict
from napari_prosma.training.figures import LEAST_FOR_SMALL

NOTHING = 0.05
"""A class whose mean Dice is lower than this is not found."""
TOUCHED = 0.1
"""A structure whose Dice is lower than this was missed."""
RARE = 0.001
"""A class that covers less than this share of what is labelled is rare."""
SOON = 3
"""A class that is not found by this epoch is told with the likely reason."""
FEW_STEPS = 300
"""Before so many steps nothing is said of what a class lacks."""
FEW_CASES = 5
"""Figures of fewer validation cases are chance, and learning from fewer cases of a class is hard."""
STEADY = 0.01
"""Dice that rose by less than this over the last third of a run is steady."""


def verdict(
    epoch: int,
    overlaps: Sequence[Overlap],
    history: Sequence[EpochEnd],
    with_class: Mapping[str, int],
    shares: Mapping[str, float],
    steps: int,
    learned: int,
    is_split_given: bool = False,
) -> Verdict:
    """What a person should know of a model after ``epoch``.

    Parameters
    ----------
    overlaps : of the validation
    history : the epochs so far
        Later ones than ``epoch`` too, where their models are not kept.
    with_class : by class
        Training cases that hold it.
    shares : by class
        Of the labelled elements of the training cases.
    steps : int
        So far.
    learned : int
        Training cases.
    is_split_given : bool
        The data set names the validation cases, so that no seed chooses others.
    """
    other_split = "choose the split random (--split random)" if is_split_given else "choose another seed"
    names = list(dict.fromkeys(overlap.class_name for overlap in overlaps))
    cases = len({overlap.case for overlap in overlaps})
    there = {name: [o for o in overlaps if o.class_name == name and o.there] for name in names}
    known = [name for name in names if there[name]]
    if not known:
        return Verdict(
            epoch,
            "No validation case contains a structure: the figures say nothing",
            (f"{other_split[0].upper()}{other_split[1:]}, or annotate more cases",),
        )
    dice = {name: fmean(overlap.dice for overlap in there[name]) for name in known}
    never = [name for name in known if dice[name] < NOTHING]
    said, advice = [], []
    if len(never) == len(known):
        said.append("Finds nothing yet")
    else:
        said += [_not_found(name, len(there[name])) for name in never]
        said += [f"finds {name} with a mean Dice of {dice[name]:.2f}" for name in known if name not in never]
    if never and (epoch >= SOON or steps >= FEW_STEPS):
        advice += [_why(name, with_class, shares, steps, learned, other_split) for name in never]
    elif never:
        advice.append("The run has hardly begun: wait for a few epochs")
    small = [name for name in known if name not in never and _misses_small(there[name])]
    if small:
        said.append(f"misses small {', '.join(small)}")
        advice.append(
            "For small structures, choose a larger Shrink to (--side) or a finer spacing, or draw more of "
            "them"
        )
    for name in names:
        absent = [overlap for overlap in overlaps if overlap.class_name == name and not overlap.there]
        wrong = sum(bool(overlap.found) for overlap in absent)
        if absent:
            said.append(f"finds no {name} in {len(absent) - wrong} of {len(absent)} cases without it")
    is_earlier = bool(history) and epoch < history[-1].epoch
    if not never:
        trend, more = _trend(history)
        if more or not is_earlier:
            said += trend
            advice += more
    if is_earlier:
        said.append(f"epoch {epoch} of {history[-1].epoch} is kept")
    if cases < FEW_CASES:
        plural = "s" * (cases != 1)
        said.append(f"measured on only {cases} case{plural}, which says little")
        advice.append("For figures you can trust, annotate more cases, or cross-validate (--folds)")
    text = "; ".join(said)
    return Verdict(epoch, text[0].upper() + text[1:], tuple(dict.fromkeys(advice)))


def _not_found(name: str, count: int) -> str:
    return f"never finds {name} ({count} validation case{'s' * (count != 1)} hold{'s' * (count == 1)} it)"


def _why(
    name: str,
    with_class: Mapping[str, int],
    shares: Mapping[str, float],
    steps: int,
    learned: int,
    other_split: str,
) -> str:
    """The likely reason that a class is not found, and what to do."""
    drawn, share = with_class.get(name, 0), shares.get(name, 0.0)
    if not drawn:
        return f"{name} is in no training case: annotate it in some, or {other_split}"
    if steps < FEW_STEPS:
        return f"{name}: {steps} steps are too few; give the run more time"
    if drawn < FEW_CASES and learned > drawn:
        return f"{name} is in only {drawn} of {learned} training cases: annotate it in more"
    if share < RARE:
        return (
            f"{name} covers {in_percent(share, 2)} of the labelled elements: choose class weights "
            f"'balanced', or a smaller patch"
        )
    return f"{name}: check its labels, then try a lower learning rate or another seed"


def _misses_small(there: Sequence[Overlap]) -> bool:
    """Whether most of the smallest third is missed, and most of the others is not."""
    if len(there) < LEAST_FOR_SMALL:
        return False
    by_size = sorted(there, key=lambda overlap: overlap.there)
    small, others = by_size[: len(by_size) // 3], by_size[len(by_size) // 3 :]

    def missed(some: Sequence[Overlap]) -> float:
        return fmean(overlap.dice < TOUCHED for overlap in some)

    return missed(small) >= 0.5 > missed(others) and missed(small) > 2 * missed(others)


def _trend(history: Sequence[EpochEnd]) -> tuple[list[str], list[str]]:
    """Whether Dice still rises over the last third of what there is."""
    if len(history) < SOON:
        return [], []
    last = history[-max(2, len(history) // 3 + 1) :]
    rise = last[-1].validation["dice"] - last[0].validation["dice"]
    seconds = sum(epoch.seconds for epoch in last[1:])
    took = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    if rise > STEADY:
        return [f"still improving, by {rise:.2f} in the last {took}"], ["A longer run may improve it further"]
    if rise < -STEADY:
        return [f"its Dice fell by {-rise:.2f} in the last {took}"], []
    return ["steady"], []
