"""Every figure of ours in ``docs/results.md``, written from the files under ``benchmarks/results``.

    python benchmarks/paper_page.py

Writes the blocks between ``<!-- NAME -->`` and ``<!-- end -->`` again, and says which figures of the text
around them are no longer those of the files. A test holds the page against both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import study_page
from paper_planar import BATCH
from paper_tables import PRINTED, PRINTED_TABLE3, bound, page_rows

from napari_prosma.nn.network_kinds import NETWORKS, OURS
from napari_prosma.nn.spec import OURS_GATE

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md"
PLANAR = ("epochs", "best on the reported", "last", "per image F1", "macro F1", "printed")
VOLUMES = ("epochs", "best on the reported", "last", "macro Dice", "printed")
LAST = "after the last epoch"
BLOCK = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n)(?:(?!<!-- ).)*(<!-- end -->)", re.DOTALL)

Rows = Iterator[str]


def main() -> None:
    page = filled(PAGE.read_text())
    PAGE.write_text(page)
    text = " ".join(page.split())
    for what, figure in figures().items():
        if figure not in text:
            print(f"{what}: {figure}")


def filled(page: str) -> str:
    """The page with every block written again."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{block(found['name'])}\n\n{found[3]}", page)


def block(name: str) -> str:
    return "\n".join(BLOCKS[name]())


def read(name: str) -> dict[str, Any]:
    """A file of ``benchmarks/results``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def runs_of(table: str) -> dict[str, dict[str, Any]]:
    """Runs of a file by model."""
    return {run["model"]: run for run in read(f"paper-{table}")["runs"]}


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


# ---- tables ---------------------------------------------------------------------------------------------


def table(name: str) -> Rows:
    """The line that was run, its file, and a row per system."""
    summary, what = read(f"paper-{name}"), name.split("-")[0]
    yield from ("```text", summary["command"], "```", "", f"`benchmarks/results/paper-{name}.json`", "")
    columns = VOLUMES if what == "table2" else PLANAR
    yield row("gate" if what == "table3" else "system", "parameters", *columns)
    yield "|---" * (len(columns) + 2) + "|"
    yield from page_rows(what, summary["runs"])


def seeds() -> Rows:
    """The gates that were started from several seeds of the weights, at one half and at their best cut."""
    summary = read("paper-table3-seeds")
    yield from ("```text", summary["command"], "```", "", "`benchmarks/results/paper-table3-seeds.json`", "")
    yield row("gate", "torch seed", "IoU at one half", "found / true area", "best cut", "IoU there", "loss")
    yield "|---" * 7 + "|"
    for run in summary["runs"]:
        last = run["selected"]["last"]
        yield row(
            f"`{run['model']}`",
            str(run["torch seed"]),
            percent(last["iou_micro"]),
            f"{last['area']:.2f}",
            f"{last['best_cut']:.2f}",
            percent(last["iou_best_cut"]),
            f"{last['loss']:.3f}",
        )


def speed() -> Rows:
    """Of the runs of a table: processor seconds per epoch, and how far from the fastest convolution."""
    runs = read("paper-table1-tiny")["runs"]
    best = max(run["speed"].get("GFLOP per second at best", 0.0) for run in runs)
    yield row("system", "seconds per epoch", "GFLOP per step", "GFLOP per second", "of the best")
    yield "|---" * 5 + "|"
    for run in runs:
        seconds, step = run["speed"]["seconds per epoch"], run["speed"]["GFLOP per step"]
        attained = step * (run["data"]["training"] // BATCH) / seconds
        yield row(
            f"`{run['model']}`",
            f"{seconds:.1f}",
            f"{step:.2f}",
            f"{attained:.0f}",
            f"{100 * attained / best:.0f} %",
        )


def clusters() -> Rows:
    plain, whole = runs_of("table1"), runs_of("table1-clusters")
    names = [name for name in plain if name in whole]
    by_image, by_cluster = (", ".join(f"`{n}` {iou(runs[n])}" for n in names) for runs in (plain, whole))
    yield f"IoU at the last epoch, split by image: {by_image}. Split by cluster: {by_cluster}."


def kvasir() -> Rows:
    systems = [*(name for name in NETWORKS if name != OURS), OURS_GATE]
    printed = [PRINTED["Kvasir-SEG", name] for name in systems]
    yield row("", *(f"`{name}`" for name in systems))
    yield "|---" * (len(systems) + 1) + "|"
    yield row("IoU, printed", *(f"{found:.2f}" for found, _ in printed))
    yield row("highest F1 with it", *(f"{bound(found):.2f}" for found, _ in printed))
    yield row("F1, printed", *(f"{f1:.2f}" for _, f1 in printed))
    yield row("beyond", *(f"{f1 - bound(found):.2f}" for found, f1 in printed))


# ---- figures in the text --------------------------------------------------------------------------------


def figures() -> dict[str, str]:
    """Every figure of ours in the text around the blocks, by what it is, word for word as it stands there."""
    runs = runs_of("table3")
    ours, none = runs[OURS_GATE], runs["none"]
    seeded = read("paper-table3-seeds")["runs"]
    again = {(run["model"], run["torch seed"]): run["selected"]["last"] for run in seeded}
    printed = sorted(PRINTED_TABLE3, key=lambda gate: runs[gate]["selected"]["last"]["iou_batch8"])
    found = {
        "3: order of Table 3": " < ".join(f"`{gate}` {iou(runs[gate])}" for gate in printed),
        "3: order as printed": " < ".join(f"{value:.2f}" for value in PRINTED_TABLE3.values()),
        "2: prosma and dense in Table 3": f"{iou(ours)} with `prosma` and {iou(runs['dense'])} with `dense`",
        "spatial: loss": f"{runs['spatial']['selected']['last']['loss']:.3f}",
        "spatial: loss of none": f"{none['selected']['last']['loss']:.3f}",
        "spatial: area": f"{again['spatial', 1029]['area']:.1f} times",
        "spatial: best cut": "IoU of {} at a cut of {:.2f}".format(
            percent(again["spatial", 1029]["iou_best_cut"]), again["spatial", 1029]["best_cut"]
        ),
        "spatial: none at its best cut": percent(again["none", 1029]["iou_best_cut"]),
        "spatial: other seeds": "{:.1f} and {:.1f} times the true area and an IoU of {} and {}".format(
            *(again["spatial", seed]["area"] for seed in (1, 2)),
            *(percent(again["spatial", seed]["iou_micro"]) for seed in (1, 2)),
        ),
        "spatial: psi": span([skip["psi_mean"] for skip in runs["spatial"]["gates"][LAST].values()], 2),
        "9: one channel": span(
            [gate["channel_spread"] for gate in runs["channel"]["gates"][LAST].values()], 3
        ),
        "10: parameters": more(ours["parameters"], none["parameters"], 1),
        "10: operations": more(ours["speed"]["GFLOP per step"], none["speed"]["GFLOP per step"], 1),
    }
    timed = runs_of("table3-tiny")
    speeds = (timed[gate]["speed"]["seconds per epoch"] for gate in (OURS_GATE, "none"))
    found["10: time"] = more(*speeds)
    of_kvasir = runs_of("table1-kvasir")[OURS_GATE]["selected"]["last"]
    found["7: ours on Kvasir"] = "IoU {}, F1 {}, macro F1 {}".format(
        *(percent(of_kvasir[name]) for name in ("iou_batch8", "dice_batch8", "dice_macro"))
    )
    for gate in ("spatial", "prosma-exact"):
        for when in ("after the first epoch", LAST):
            found[f"1: zeros, {gate}, {when}"] = zeros(gate, when, "z_zero_fraction")
        found[f"1: zeros, {gate}, of noise"] = zeros(gate, LAST, "z_zero_fraction_of_noise")
    for name in ("busi", "hippocampus"):
        found |= {
            f"1: lambda, {name}": of_gates(name, "lambda_mean", 3),
            f"1: zeros, {name}": of_gates(name, "z_zero_fraction"),
            f"2: prosma minus dense, {name}": difference(name, "dense"),
            f"2: without lambda, {name}": said(
                name, "threshold_sweep", r"times 0 Dice is (\S+), as trained (\S+) ", "{1} to {0}"
            ),
            f"5: psi inside by outside, {name}": of_gates(name, "psi_fg_bg_ratio", 2),
            f"5: the same, dense, {name}": of_gates(name, "psi_fg_bg_ratio", 2, "dense"),
            f"5: floor, {name}": of_gates(name, "gate_floor", 2),
        }
    for gate in (OURS_GATE, "dense", "attention"):
        found[f"6: noise, {gate}"] = said("busi", "noise_test", rf"(\S+) to (\S+) with {gate} ", "{0} to {1}")
    interval = r" \(difference \+(\S+), 95 % interval \+?(\S+) to \+(\S+)\)"
    words = "{0}, 95 % interval {1} to {2}"
    spreads = {name: of_gates(name, "channel_mean", 3, of="deviation") for name in ("busi", "hippocampus")}
    return found | {
        "2: prosma minus attention, hippocampus": difference("hippocampus", "attention"),
        "6: more than attention": said("busi", "noise_test", "more than attention" + interval, words),
        "6: more than dense": said(
            "busi", "noise_test", "than dense these cases do not show" + interval, words
        ),
        "9: mean channel, busi": spreads["busi"],
        "9: mean channel, hippocampus": f"{spreads['hippocampus'].split(' to ')[1]} at most",
    }


def more(ours: float, other: float, digits: int = 0) -> str:
    return f"{100 * (ours / other - 1):+.{digits}f} %"


def difference(name: str, gate: str) -> str:
    """Dice of prosma minus that of another gate, with its interval."""
    pattern = rf"prosma minus {gate}: (\S+), 95 % interval (\S+) to ([+-][\d.]+\d)"
    return said(name, "overlap", pattern, "{0} (95 % interval {1} to {2})")


def said(name: str, about: str, pattern: str, words: str) -> str:
    """Figures of a sentence of ``gates-NAME.json``, put in other words."""
    found = re.search(pattern, read(f"gates-{name}")["said"][about])
    assert found is not None, (name, about, pattern)
    return words.format(*found.groups())


def of_gates(name: str, measure: str, digits: int = 0, gate: str = OURS_GATE, of: str = "mean") -> str:
    """From the smallest to the largest skip's, over the cases of ``gates-NAME.json``."""
    rows = read(f"gates-{name}")["summary"]
    return span([r[of] for r in rows if (r["model"], r["measure"]) == (gate, measure)], digits)


def zeros(gate: str, when: str, measure: str) -> str:
    """From the smallest to the largest skip's, in the run of Table 3."""
    return span([skip[measure] for skip in runs_of("table3")[gate]["gates"][when].values()])


def span(values: list[float], digits: int = 0) -> str:
    """Without ``digits`` in percent."""
    if digits:
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return f"{100 * min(values):.0f} to {100 * max(values):.0f} %"


def iou(run: dict[str, Any]) -> str:
    """At the last epoch, percent."""
    return percent(run["selected"]["last"]["iou_batch8"])


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


TABLES = (
    "table1",
    "table1-tiny",
    "table1-glas",
    "table1-kvasir",
    "table1-clusters",
    "table2",
    "table2-tiny",
    "table3",
    "table3-tiny",
)
BLOCKS: dict[str, Callable[[], Rows]] = {
    **{name: lambda name=name: table(name) for name in TABLES},  # type: ignore[misc]
    "seeds": seeds,
    "speed": speed,
    "clusters": clusters,
    "kvasir": kvasir,
    "study": study_page.section,
}


if __name__ == "__main__":
    main()
