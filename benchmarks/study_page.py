"""The study of the gates as the section of ``docs/results.md``.

    python benchmarks/study_page.py

Reads what ``study.py`` wrote to ``benchmarks/results/study`` and writes the section of the page between
``<!-- study -->`` and ``<!-- end -->`` again.

There are two kinds of claims. One is on gates as methods: the unit is a training, a number of a run is its
mean over the test images, and an interval is Student's over the seeds, widened because the splits of the
seeds share images (Nadeau and Bengio 2003, equation 7). The other is on the trainings that there are: each
has its own interval over clusters of its test images, and it is counted in how many of them something is
shown. Intervals hold at once (Bonferroni): those over seeds for as many comparisons as their table has when
all runs are there, those of one training for all of its own, which stand in two tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from scipy import stats
from scipy.integrate import trapezoid

from napari_prosma.inspection.statistics import by_unit

ROOT = Path(__file__).parents[1]
STUDY, PAGE = ROOT / "benchmarks" / "results" / "study", ROOT / "docs" / "results.md"
SECTION = re.compile(r"(?<=<!-- study -->\n).*(?=<!-- end -->)", re.DOTALL)
PROSMA = "prosma"
CONTROL_OF = {"decay on theta": ("B", "start 0.1")}
"""Arms that differ from another than the prosma of block A in one setting."""
LEVEL, FEWEST_SEEDS = 0.95, 3
"""Of an interval, and the trainings that it needs."""
SHARED = 0.2 / 0.65
"""Test images over those of training, by which splits that are drawn anew from the same images are alike."""
AT_ONCE = {"A": 4, "BE": 5, "noise": 4, "training": 12}
"""Comparisons of each table when all runs are there; those of one training stand in two."""
ALL_SKIPS = 0
ANOTHER, DECODER = "another training", "decoder"
"""What psi is correlated with, as ``sanity_check`` calls it."""
SET_TO_MEANS = {
    "psi": "psi",
    "c": "c, one value for all channels",
    "both": "psi and c",
    "c over the images": "c, channel by channel over the test images",
}

Json = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Files of the study: runs, looks and the clusters of near-duplicates, by image."""

    runs: Sequence[Json]
    looks: Sequence[Json]
    units: Mapping[str, str] = field(default_factory=dict)


def read_study(folder: Path) -> Study:
    files = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    clusters = files.get("clusters.json", {"clusters": []})["clusters"]
    looks = [held for name, held in files.items() if name.startswith("look-")]
    return Study(
        [held for held in files.values() if "arm" in held and "last" in held],
        sorted(looks, key=lambda look: look["arm"] != PROSMA),
        {image: cluster[0] for cluster in clusters for image in cluster},
    )


# ---- from the runs to numbers -----------------------------------------------------------------------------


def summary(folder: Path) -> Json:
    """What the runs of a folder show; arms and tests that are not there are left out."""
    study = read_study(folder)
    looks = [look for look in study.looks if block_of(look) == "A"]
    gated = [arm for arm in dict.fromkeys(look["arm"] for look in looks) if arm != "none"]
    return {
        "runs": len(study.runs),
        "arms": arms(study.runs),
        "thresholds": thresholds(study),
        "noise": noise(looks),
        "gates": [gates([look for look in looks if look["arm"] == arm], arm, study.units) for arm in gated],
    }


def block_of(look: Json) -> str:
    return str(look["run"])[0]


def arms(runs: Sequence[Json]) -> list[Json]:
    """Mean Dice of every arm, and how far the arm that it is compared with is above it on the same seeds."""
    dice = {(run["block"], run["arm"]): by_seed(runs, run["block"], run["arm"]) for run in runs}
    gates = [seeds for (block, _), seeds in dice.items() if block == "A"]
    everywhere = set.intersection(*map(set, gates)) if gates else set()
    rows = []
    for (block, arm), seeds in sorted(dice.items(), key=lambda each: (each[0][0], each[0][1] != PROSMA)):
        control = CONTROL_OF.get(arm, ("A", PROSMA))
        others = dice.get(control, {})
        # The gates stand beside each other, a setting beside what it differs from.
        common = sorted(everywhere if block == "A" else seeds.keys() & others.keys())
        if not common:
            continue
        row = {"block": block, "arm": arm, "seeds": len(common)}
        row |= {which: mean([seeds[seed][which] for seed in common]) for which in ("last", "best")}
        if (block, arm) != control:
            row |= {"control": control[1], "of control": mean([others[seed]["last"] for seed in common])}
            at_once = AT_ONCE["A" if block == "A" else "BE"]
            row["difference"] = over_seeds([others[s]["last"] - seeds[s]["last"] for s in common], at_once)
        rows.append(row)
    return rows


def thresholds(study: Study) -> dict[str, Json]:
    """Where the lambdas of an arm started and ended, and the zeros of z on test images, per skip and run."""
    found: dict[str, Json] = {}
    for run in study.runs:
        if run["thresholds"]:
            options = run["config"]["gate_options"]
            # Without norms they are set to the scale of the field on the first batch.
            start = None if options.get("norm") == "none" else options["threshold"]
            held = found.setdefault(run["arm"], {"start": start, "first": [], "ends": [], "zeros": []})
            held["steps"] = run["config"]["steps_per_epoch"]
            held["first"] += [epochs[0] for epochs in run.get("lambda", {}).values()]
            held["ends"] += run["thresholds"].values()
    for look in study.looks:
        rows = [row for row in look["rows"]["measures"] if "z_zero_fraction" in row]
        if look["arm"] in found:
            found[look["arm"]]["zeros"] += [
                mean([row["z_zero_fraction"] for row in rows if row["skip"] == skip])
                for skip in sorted({row["skip"] for row in rows})
            ]
    return found


def by_seed(runs: Sequence[Json], block: str, arm: str) -> dict[int, dict[str, float]]:
    """Mean Dice over the test images of the last epoch and of the best on the inner part, per seed."""
    return {
        run["seed"]: {
            which: mean([case["dice"] for case in run[which]["cases"].values()]) for which in ("last", "best")
        }
        for run in runs
        if (run["block"], run["arm"]) == (block, arm)
    }


def over_seeds(values: Sequence[float], at_once: int) -> Json:
    """Mean over the seeds with an interval, if there are enough of them."""
    if len(values) < FEWEST_SEEDS:
        return {"mean": mean(values), "seeds": len(values), "low": None, "high": None}
    low, high = interval(values, at_once, SHARED)
    return {"mean": mean(values), "seeds": len(values), "low": low, "high": high}


def interval(values: Sequence[float], at_once: int, shared: float = 0.0) -> tuple[float, float]:
    """Student's interval of a mean, which holds for so many means at once."""
    number = len(values)
    chance = (1 - LEVEL) / 2 / at_once
    reach = float(stats.t.isf(chance, number - 1) * np.std(values, ddof=1) * np.sqrt(1 / number + shared))
    return mean(values) - reach, mean(values) + reach


def noise(looks: Sequence[Json]) -> list[Json]:
    """Mean Dice over all strengths over that without noise, per arm; the others beside prosma's."""
    left: dict[str, dict[int, float]] = {}
    for look in looks:
        clean, area = [], []
        for image in dict.fromkeys(row["image"] for row in look["rows"]["noise"]):
            curve = {r["strength"]: r["dice"] for r in look["rows"]["noise"] if r["image"] == image}
            strengths = sorted(curve)
            clean.append(curve[strengths[0]])
            span = strengths[-1] - strengths[0]
            area.append(float(trapezoid([curve[s] for s in strengths], strengths)) / span)
        if mean(clean) > 0:
            left.setdefault(look["arm"], {})[look["seed"]] = mean(area) / mean(clean)
    own = left.get(PROSMA, {})
    rows: list[Json] = []
    for arm, seeds in left.items():
        row: Json = {"arm": arm, "seeds": len(seeds), "left": mean([*seeds.values()])}
        if arm != PROSMA:
            common = sorted(own.keys() & seeds.keys())
            row["of control"] = mean([own[seed] for seed in common])
            row["difference"] = over_seeds([own[s] - seeds[s] for s in common], AT_ONCE["noise"])
        rows.append(row)
    return rows


def gates(looks: Sequence[Json], arm: str, units: Mapping[str, str]) -> Json:
    """What the gates of one arm select: the looks at its trainings, skip by skip and over all skips."""
    skips = []
    for skip in sorted({row["skip"] for look in looks for row in look["rows"]["measures"]}):
        row: Json = {
            "skip": skip,
            "selectivity": over_looks(
                [by_image(look, "measures", "selectivity", skip=skip) for look in looks]
            ),
            "lead": shown([lead(look, skip) for look in looks], AT_ONCE["training"], units),
            "learned": shown([learned(look, skip) for look in looks], AT_ONCE["training"], units),
        }
        row |= {what: over_looks([alike(look, skip, what) for look in looks]) for what in (ANOTHER, DECODER)}
        skips.append(row)
    worth = {
        part: shown(
            [by_image(look, "means", "worth", skip=ALL_SKIPS, part=part) for look in looks],
            AT_ONCE["training"],
            units,
        )
        for part in SET_TO_MEANS
    }
    return {
        "arm": arm,
        "seeds": len(looks),
        "skips": skips,
        "worth": {part: found for part, found in worth.items() if found},
    }


def by_image(look: Json, rows: str, value: str, **wanted: Any) -> dict[str, float]:
    """The mean of a column over the rows of each image that are wanted."""
    held: dict[str, list[float]] = {}
    for row in look["rows"][rows]:
        if value in row and wanted.items() <= row.items():
            held.setdefault(row["image"], []).append(row[value])
    return {image: mean(each) for image, each in held.items()}


def alike(look: Json, skip: int, what: str) -> dict[str, float]:
    """How alike psi is to that of another training, or to that with a decoder that is drawn anew."""
    return by_image(look, "seeds", "correlation", skip=skip, randomised=what)


def learned(look: Json, skip: int) -> dict[str, float]:
    """How much more alike psi is between two trainings than with a decoder that is drawn anew."""
    return difference(alike(look, skip, ANOTHER), alike(look, skip, DECODER))


def lead(look: Json, skip: int) -> dict[str, float]:
    """What is left of Dice in the order of psi, above that in the best of this training's controls."""
    orders = {row["order"] for row in look["rows"]["deletion"] if row["skip"] == skip}
    if "psi" not in orders:
        return {}
    curves = {order: by_image(look, "deletion", "dice", skip=skip, order=order) for order in orders}
    best = max(orders - {"psi"}, key=lambda order: mean([*curves[order].values()]))
    return difference(curves["psi"], curves[best])


def over_looks(what: Sequence[Mapping[str, float]]) -> float | None:
    """Mean over the trainings that have it."""
    there = [mean([*each.values()]) for each in what if each]
    return mean(there) if there else None


def shown(what: Sequence[Mapping[str, float]], at_once: int, units: Mapping[str, str]) -> Json | None:
    """Mean over the trainings, and in how many their own interval over the images is above 0, or below."""
    there = [by_unit(each, units) for each in what if each]
    if not there:
        return None
    intervals = [interval([*each.values()], at_once) for each in there if len(each) > 1]
    above, below = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    return {"mean": over_looks(there), "of": len(there), "in": above, "below": below}


def difference(first: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {image: value - other[image] for image, value in first.items() if image in other}


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# ---- from numbers to the page -----------------------------------------------------------------------------


def in_lines(found: Json) -> Iterator[str]:
    """A question with its answers and its table, one after the other."""
    for question, answers, table in (
        ("Is Dice higher with the gate?", overlap(found, "A"), arms_table(found, "A")),
        (
            "What becomes of the thresholds?",
            [*learned_thresholds(found), *overlap(found, "BE")],
            arms_table(found, "BE"),
        ),
        ("Does the gate keep more Dice under noise?", under_noise(found), noise_table(found)),
        ("Is what the gate selects worth anything?", selected(found), worth_table(found)),
        ("Does psi know which positions matter?", ranked(found), skips_table(found)),
    ):
        told, rows = list(answers), list(table)
        if told or rows:
            yield from ("", f"### {question}", "")
        yield from (fill(answer, 120, initial_indent="- ", subsequent_indent="  ") for answer in told)
        yield from ("", *rows) if told and rows else rows
    yield ""


def overlap(found: Json, blocks: str) -> Iterator[str]:
    for row in found["arms"]:
        if row["block"] in blocks and "difference" in row:
            yield compared("Dice", row["control"], row["arm"], row["difference"])


def arms_table(found: Json, blocks: str) -> Iterator[str]:
    rows = [row for row in found["arms"] if row["block"] in blocks]
    if rows:
        what = "gate" if blocks == "A" else "setting"
        yield f"| {what} | seeds | Dice, last step | best on the inner part | compared with | that minus it |"
        yield "|---|---|---|---|---|---|"
    for row in rows:
        beside = f"`{row['control']}`, {row['of control']:.3f}" if "difference" in row else ""
        told = in_words(row["difference"]) if "difference" in row else ""
        figures = f"{row['seeds']} | {row['last']:.3f} | {row['best']:.3f}"
        yield f"| `{row['arm']}` | {figures} | {beside} | {told} |"


def learned_thresholds(found: Json) -> Iterator[str]:
    """Where lambda went in each arm, and how sparse z is then."""
    for arm, held in found["thresholds"].items():
        start = "the median of |u| on the first batch" if held["start"] is None else f"{held['start']:.3f}"
        if held["start"] is None and held["first"]:
            start += f", was {_range(held['first'], '.3f')} after {held['steps']} steps"
        zeros = [100 * share for share in held["zeros"]]
        sparse = f"; {_range(zeros, '.0f')} % of the entries of z are zero on test images" if zeros else ""
        yield (
            f"With `{arm}`, lambda started at {start} and ended at {_range(held['ends'], '.3f')} (means per "
            f"skip){sparse}."
        )


def under_noise(found: Json) -> Iterator[str]:
    for row in found["noise"]:
        if "difference" in row:
            yield compared("the share of Dice left under noise", PROSMA, row["arm"], row["difference"])


def noise_table(found: Json) -> Iterator[str]:
    if found["noise"]:
        yield "| gate | seeds | share of its Dice left under noise | on the seeds in common | that minus it |"
        yield "|---|---|---|---|---|"
    for row in found["noise"]:
        told = in_words(row["difference"]) if "difference" in row else ""
        beside = f"`{PROSMA}`, {row['of control']:.3f}" if row.get("difference", {}).get("seeds") else ""
        yield f"| `{row['arm']}` | {row['seeds']} | {row['left']:.3f} | {beside} | {told} |"


def selected(found: Json) -> Iterator[str]:
    """What the selection of each gate is worth in Dice."""
    for gate in found["gates"]:
        worth = gate["worth"].get("psi")
        if worth:
            does = "costs Dice" if worth["in"] else "is not shown to cost Dice"
            gains = f", and gains some in {worth['below']}" if worth["below"] else ""
            yield (
                f"Setting psi to its mean in all skips of `{gate['arm']}` {does} in "
                f"{_of_trainings(worth)}{gains} ({worth['mean']:+.3f} on average)."
            )


def worth_table(found: Json) -> Iterator[str]:
    if any(gate["worth"] for gate in found["gates"]):
        yield "| gate | set to its mean in all skips | Dice lost | shown in trainings |"
        yield "|---|---|---|---|"
    for gate in found["gates"]:
        for part, worth in gate["worth"].items():
            yield f"| `{gate['arm']}` | {SET_TO_MEANS[part]} | {worth['mean']:+.3f} | {_shown_in(worth)} |"


def ranked(found: Json) -> Iterator[str]:
    """Whether psi ranks positions better than a control, and whether its order was learned."""
    for gate in found["gates"]:
        for what, claim, opposite in (
            ("lead", "order positions better than the best control", "order them worse"),
            ("learned", "be more alike between two trainings than with a redrawn decoder", "be less alike"),
        ):
            known = [skip[what] for skip in gate["skips"] if skip[what]]
            if known:
                above, below, of = (sum(each[n] for each in known) for n in ("in", "below", "of"))
                trainings = counted(max(each["of"] for each in known), "training")
                shown = f"is shown to {claim} in {above}" if above else f"is not shown to {claim} in any"
                also = f", {'and' if above else 'but shown'} to {opposite} in {below}" if below else ""
                yield f"psi of `{gate['arm']}` {shown} of {counted(of, 'skip')} of {trainings}{also}."


def skips_table(found: Json) -> Iterator[str]:
    if found["gates"]:
        yield (
            "| gate | skip | selectivity | psi minus the best control | shown in trainings | correlation of "
            "two trainings | with a redrawn decoder | more alike for two trainings in |"
        )
        yield "|---|---|---|---|---|---|---|---|"
    for gate in found["gates"]:
        for skip in gate["skips"]:
            cells = [f"`{gate['arm']}`", str(skip["skip"]), f"{100 * skip['selectivity']:.1f} %"]
            lead, learned = skip["lead"], skip["learned"]
            cells += [f"{lead['mean']:+.3f}", _shown_in(lead)] if lead else ["", ""]
            cells += ["" if skip[what] is None else f"{skip[what]:.2f}" for what in (ANOTHER, DECODER)]
            cells.append(_shown_in(learned) if learned else "")
            yield f"| {' | '.join(cells)} |"


def compared(what: str, first: str, other: str, difference: Json) -> str:
    """Whether a difference between two arms is shown, and which."""
    if difference["low"] is None:
        seeds = difference["seeds"]
        few = f"too few seeds in common ({seeds}) to claim anything"
        return f"{capital(what)} with `{first}` and with `{other}`: {few}."
    if difference["low"] > 0 or difference["high"] < 0:
        side = "higher" if difference["low"] > 0 else "lower"
        return f"{capital(what)} is {side} with `{first}` than with `{other}`: {in_words(difference)}."
    return f"No difference in {what} is shown between `{first}` and `{other}`: {in_words(difference)}."


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def in_words(found: Json) -> str:
    if not found["seeds"]:
        return "no seed in common"
    if found["low"] is None:
        return f"{found['mean']:+.3f}, no interval"
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _shown_in(found: Json) -> str:
    opposite = f", the opposite in {found['below']}" if found["below"] else ""
    return f"{found['in']} of {found['of']}{opposite}"


def _of_trainings(worth: Json) -> str:
    if worth["of"] == 1:
        return "the only training"
    return f"{worth['in'] or 'any'} of {worth['of']} trainings"


def _range(values: Sequence[float], form: str) -> str:
    low, high = (format(pick(values), form) for pick in (min, max))
    return low if low == high else f"{low} to {high}"


def filled(page: str, study: Path = STUDY) -> str:
    """The page with the section written again."""
    lines = "\n".join(in_lines(summary(study)))
    return SECTION.sub(lambda _: f"{lines}\n", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
