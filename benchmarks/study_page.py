"""The study of the gates as the section of ``docs/results.md``.

    python benchmarks/study_page.py

Reads what ``study.py`` wrote to ``benchmarks/results/study`` and writes the section of the page between
``<!-- study -->`` and ``<!-- end -->`` again. The unit is a training: a number of a run is its mean over the
test images, and an interval is Student's over the seeds. Several comparisons of one table hold at once
(Bonferroni).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.integrate import trapezoid

ROOT = Path(__file__).parents[1]
STUDY, PAGE = ROOT / "benchmarks" / "results" / "study", ROOT / "docs" / "results.md"
SECTION = re.compile(r"(?<=<!-- study -->\n).*(?=<!-- end -->)", re.DOTALL)
PROSMA = "prosma"
LEVEL, FEWEST_SEEDS = 0.95, 3
"""Of an interval, and the trainings that it needs."""
ALL_SKIPS = 0

Json = dict[str, Any]


# ---- from the runs to numbers -----------------------------------------------------------------------------


def summary(folder: Path) -> Json:
    """What the runs of a folder show; arms and tests that are not there are left out."""
    files = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    runs = [held for held in files.values() if "arm" in held and "last" in held]
    looks = [held for name, held in files.items() if name.startswith("look-")]
    looks.sort(key=lambda look: look["arm"] != PROSMA)
    dice = {(run["block"], run["arm"]): by_seed(runs, run["block"], run["arm"]) for run in runs}
    own = dice.get(("A", PROSMA), {})
    arms = []
    for block in "ABE":
        held = {arm: seeds for (of, arm), seeds in dice.items() if of == block}
        everywhere = set.intersection(*map(set, held.values())) if held else set()
        for arm, seeds in sorted(held.items(), key=lambda each: each[0] != PROSMA):
            # The arms of block A stand beside each other, those of the others beside block A's prosma.
            common = everywhere if block == "A" else seeds.keys() & own.keys()
            if not common:
                continue
            row = {"block": block, "arm": arm, "seeds": len(common)}
            row |= {which: mean([seeds[seed][which] for seed in common]) for which in ("last", "best")}
            if arm != PROSMA:
                row["prosma minus it"] = paired(own, seeds, "last", len(held.keys() - {PROSMA}))
            arms.append(row)
    return {
        "runs": len(runs),
        "arms": arms,
        "thresholds": thresholds(runs),
        "noise": noise(looks),
        "gates": [gates(looks, arm) for arm in dict.fromkeys(look["arm"] for look in looks) if arm != "none"],
    }


def thresholds(runs: Sequence[Json]) -> dict[str, Json]:
    """Where the lambdas of an arm started, and where they and the zeros of z ended, per skip and training."""
    found: dict[str, Json] = {}
    for run in runs:
        if run["thresholds"]:
            start = run["config"]["gate_options"]["threshold"]
            held = found.setdefault(run["arm"], {"start": start, "seeds": 0, "ends": [], "zeros": []})
            held["seeds"] += 1
            held["ends"] += run["thresholds"].values()
            held["zeros"] += [epochs[-1] for epochs in run.get("zeros", {}).values()]
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


def paired(
    first: Mapping[int, Mapping[str, float]],
    other: Mapping[int, Mapping[str, float]],
    what: str,
    at_once: int,
) -> Json:
    shared = sorted(first.keys() & other.keys())
    return interval([first[seed][what] - other[seed][what] for seed in shared], at_once)


def interval(values: Sequence[float], at_once: int = 1) -> Json:
    """Mean over the seeds with Student's interval, which holds for so many means at once."""
    number = len(values)
    found: Json = {"mean": mean(values), "seeds": number, "low": None, "high": None}
    if number >= FEWEST_SEEDS:
        chance = (1 - LEVEL) / 2 / max(1, at_once)
        reach = float(stats.t.isf(chance, number - 1) * np.std(values, ddof=1) / np.sqrt(number))
        found |= {"low": found["mean"] - reach, "high": found["mean"] + reach}
    return found


def noise(looks: Sequence[Json]) -> list[Json]:
    """Mean Dice over all strengths over that without noise, per arm; the others beside prosma's."""
    left: dict[str, dict[int, dict[str, float]]] = {}
    for look in looks:
        clean, area = [], []
        for image in dict.fromkeys(row["image"] for row in look["rows"]["noise"]):
            curve = {r["strength"]: r["dice"] for r in look["rows"]["noise"] if r["image"] == image}
            strengths = sorted(curve)
            clean.append(curve[strengths[0]])
            span = strengths[-1] - strengths[0]
            area.append(float(trapezoid([curve[s] for s in strengths], strengths)) / span)
        if mean(clean) > 0:
            left.setdefault(look["arm"], {})[look["seed"]] = {"left": mean(area) / mean(clean)}
    own, others = left.get(PROSMA, {}), max(1, len(left) - 1)
    return [
        {"arm": arm, "left": interval([each["left"] for each in seeds.values()])}
        | ({} if arm == PROSMA else {"prosma minus it": paired(own, seeds, "left", others)})
        for arm, seeds in left.items()
    ]


def gates(looks: Sequence[Json], arm: str) -> Json:
    """Per skip selectivity and how alike two seeds are; what selecting is worth; psi against its controls."""
    own = [look for look in looks if look["arm"] == arm]

    def over_seeds(rows: str, value: str, **wanted: Any) -> list[float]:
        means = [
            mean([r[value] for r in look["rows"][rows] if value in r and wanted.items() <= r.items()])
            for look in own
        ]
        return [each for each in means if np.isfinite(each)]

    skips = sorted({row["skip"] for look in own for row in look["rows"]["measures"]})
    per_skip = []
    for skip in skips:
        orders = {row["order"] for look in own for row in look["rows"]["deletion"] if row["skip"] == skip}
        lead = None
        if "psi" in orders:
            curves = {order: over_seeds("deletion", "dice", skip=skip, order=order) for order in orders}
            best = max(orders - {"psi"}, key=lambda order: mean(curves[order]))
            lead = {
                "control": best,
                **interval([a - b for a, b in zip(curves["psi"], curves[best], strict=True)], len(skips)),
            }
        alike = over_seeds("seeds", "correlation", skip=skip, randomised="another training")
        per_skip.append(
            {
                "skip": skip,
                "selectivity": mean(over_seeds("measures", "selectivity", skip=skip)),
                "psi minus the best control": lead,
                "correlation of two seeds": mean(alike) if alike else None,
            }
        )
    worth = {
        part: interval(values)
        for part in ("psi", "c", "both")
        if (values := over_seeds("means", "worth", skip=ALL_SKIPS, part=part))
    }
    return {"arm": arm, "seeds": len(own), "skips": per_skip, "worth": worth}


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
        ("Is it worth anything where and what the gate selects?", selected(found), gates_table(found)),
    ):
        told, rows = list(answers), list(table)
        if told or rows:
            yield from ("", f"### {question}", "")
        yield from (f"- {answer}" for answer in told)
        yield from ("", *rows) if told and rows else rows
    yield ""


def arms_table(found: Json, blocks: str) -> Iterator[str]:
    rows = [row for row in found["arms"] if row["block"] in blocks]
    if rows:
        yield "| gate or setting | seeds | Dice, last step | best on the inner part | prosma minus it, last |"
        yield "|---|---|---|---|---|"
    for row in rows:
        told = f"{row['last']:.3f} | {row['best']:.3f} | {_difference(row)}"
        yield f"| `{row['arm']}` | {row['seeds']} | {told} |"


def noise_table(found: Json) -> Iterator[str]:
    if found["noise"]:
        yield "| gate | seeds | share of its Dice left under noise | prosma minus it |"
        yield "|---|---|---|---|"
    for row in found["noise"]:
        left = row["left"]
        yield f"| `{row['arm']}` | {left['seeds']} | {left['mean']:.3f} | {_difference(row)} |"


def gates_table(found: Json) -> Iterator[str]:
    if found["gates"]:
        yield "| gate | seeds | skip | selectivity | psi minus the best control | correlation of two seeds |"
        yield "|---|---|---|---|---|---|"
    for gate in found["gates"]:
        for skip in gate["skips"]:
            lead, alike = skip["psi minus the best control"], skip["correlation of two seeds"]
            beside = "" if lead is None else f"{in_words(lead)}, {lead['control']}"
            yield (
                f"| `{gate['arm']}` | {gate['seeds']} | {skip['skip']} | {100 * skip['selectivity']:.1f} % | "
                f"{beside} | {'' if alike is None else f'{alike:.2f}'} |"
            )


def _difference(row: Json) -> str:
    difference = row.get("prosma minus it")
    return "" if difference is None else in_words(difference)


def learned_thresholds(found: Json) -> Iterator[str]:
    """Where lambda went in each arm, and how sparse z is then."""
    for arm, held in found["thresholds"].items():
        ends = f"ended between {min(held['ends']):.3f} and {max(held['ends']):.3f} (means per skip)"
        zeros = [100 * share for share in held["zeros"]]
        sparse = f"; {min(zeros):.0f} to {max(zeros):.0f} % of z were zero then" if zeros else ""
        yield f"With `{arm}`, lambda started at {held['start']:.3f} and {ends}{sparse}."


def overlap(found: Json, blocks: str) -> Iterator[str]:
    for row in found["arms"]:
        if row["block"] in blocks and "prosma minus it" in row:
            yield compared("Dice", row["arm"], row["prosma minus it"])


def under_noise(found: Json) -> Iterator[str]:
    for row in found["noise"]:
        if "prosma minus it" in row:
            yield compared("the share of Dice left under noise", row["arm"], row["prosma minus it"])


def selected(found: Json) -> Iterator[str]:
    """What the selection of each gate is worth in Dice."""
    names = {"psi": "psi", "c": "the channel weights c", "both": "psi and c"}
    for gate in found["gates"]:
        for part, worth in gate["worth"].items():
            start = f"With {names[part]} set to the mean in all skips, `{gate['arm']}`"
            if worth["low"] is None:
                trainings = "one training" if worth["seeds"] == 1 else f"{worth['seeds']} trainings"
                verb = "loses" if worth["mean"] >= 0 else "gains"
                change = f"{verb} {abs(worth['mean']):.3f} Dice"
                yield f"{start} {change} ({trainings}: too few to claim anything)."
            elif worth["low"] > 0:
                yield f"{start} loses Dice: {in_words(worth)}."
            else:
                yield f"{start} is not shown to lose Dice: {in_words(worth)}."
    for gate in found["gates"]:
        leads = {skip["skip"]: skip["psi minus the best control"] for skip in gate["skips"]}
        known = [lead for lead in leads.values() if lead is not None and lead["low"] is not None]
        better = [f"skip {skip}" for skip, lead in leads.items() if lead in known and lead["low"] > 0]
        if known:
            where = f"shown at {', '.join(better)}" if better else "not shown at any skip"
            yield (
                f"That replacing the positions with the lowest psi of `{gate['arm']}` leaves more Dice than the "
                f"best control does is {where}."
            )


def compared(what: str, arm: str, difference: Json) -> str:
    """Whether a difference between prosma and another gate is shown, and which."""
    if difference["low"] is None:
        seeds = difference["seeds"]
        few = f"too few seeds in common ({seeds}) to claim anything"
        return f"{capital(what)} with `prosma` and with `{arm}`: {few}."
    if difference["low"] > 0 or difference["high"] < 0:
        side = "higher" if difference["low"] > 0 else "lower"
        return f"{capital(what)} is {side} with `prosma` than with `{arm}`: {in_words(difference)}."
    return f"No difference in {what} is shown between `prosma` and `{arm}`: {in_words(difference)}."


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def in_words(found: Json) -> str:
    if not found["seeds"]:
        return "no seed in common"
    if found["low"] is None:
        return f"{found['mean']:+.3f}, no interval"
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def filled(page: str, study: Path = STUDY) -> str:
    """The page with the section written again."""
    lines = "\n".join(in_lines(summary(study)))
    return SECTION.sub(lambda _: f"{lines}\n", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
