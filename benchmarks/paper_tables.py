"""What the paper prints, our figures beside it, and the summaries that are kept in ``benchmarks/results``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from napari_prosma.data.atomic import written_whole

PRINTED = {
    ("BUSI", "ukan"): (63.38, 76.40),
    ("BUSI", "prosma"): (66.24, 79.29),
    ("Kvasir-SEG", "unet"): (54.58, 79.59),
    ("Kvasir-SEG", "attention-unet"): (62.75, 83.36),
    ("Kvasir-SEG", "unet++"): (61.93, 83.33),
    ("Kvasir-SEG", "unext"): (49.50, 76.64),
    ("Kvasir-SEG", "rolling-unet"): (60.28, 82.25),
    ("Kvasir-SEG", "ukan"): (53.78, 78.58),
    ("Kvasir-SEG", "ukan2"): (58.89, 81.04),
    ("Kvasir-SEG", "prosma"): (66.23, 85.43),
}
"""IoU and F1 of Table 1, %, where we have them; U-KAN's on BUSI as that paper gives them."""
PRINTED_TABLE2 = {("Task10_Colon", "prosma"): 63.14}
"""F1 of Table 2, %, where we have it; which Dice it is is not said."""
PRINTED_TABLE3 = {"none": 74.05, "channel": 75.22, "spatial": 77.47, "prosma": 80.13}
"""Of a data set that the paper does not name, so it stands beside, not against, ours."""
SHOWN = {
    "planar": (
        ("iou_batch8", "IoU"),
        ("dice_batch8", "F1"),
        ("dice_img", "per image F1"),
        ("dice_macro", "macro F1"),
    ),
    "volumes": (("dice", "foreground Dice"), ("iou", "IoU"), ("dice_macro", "macro Dice")),
}


def bound(iou: float) -> float:
    """The highest mean F1, %, that figures with this mean IoU, %, can have, whatever they are averaged over.

    ``F1 = 2 IoU / (1 + IoU)`` of each, which is concave (Jensen).
    """
    return 200 * iou / (100 + iou)


def print_table(
    table: str, heading: str, runs: Sequence[dict[str, Any]], expected: Sequence[str], seeds: int
) -> None:
    """Mean and spread over the seeds in percent, for each way to choose an epoch, beside what is printed."""
    print(f"\n{heading}")
    for model in expected:
        print("\n".join(_rows(table, model, [run for run in runs if run["model"] == model], seeds)))


def _rows(table: str, model: str, runs: Sequence[dict[str, Any]], seeds: int) -> Iterator[str]:
    sound = [run for run in runs if not run["diverged"]]
    said = [f"{len(runs) - len(sound)} of {len(runs)} DIVERGED"] * (len(sound) < len(runs))
    short = [len(run["epochs"]) for run in runs if run["shortened"]]
    if short:
        said.append(f"SHORTENED to {min(short)} epochs")
    said += printed(table, runs[0]["data"]["set"] if runs else "", model)
    yield f"{model} ({len(runs)} of {seeds} runs; {', '.join(said) or 'nothing printed known'})"
    for how in sound[0]["selected"] if sound else ():
        kept = [run["selected"][how] for run in sound if how in run["selected"]]
        shown = SHOWN["volumes" if table == "table2" else "planar"]
        figures = ", ".join(f"{word} {spread([100 * of[name] for of in kept])}" for name, word in shown)
        yield f"  {how:28} {figures}"


def printed(table: str, name: str, model: str) -> list[str]:
    """What the paper prints of a system, in words."""
    if table == "table1" and (name, model) in PRINTED:
        return ["printed {:.2f} / {:.2f}".format(*PRINTED[name, model])]
    if table == "table2" and (name, model) in PRINTED_TABLE2:
        return [f"printed F1 {PRINTED_TABLE2[name, model]:.2f}"]
    if table == "table3" and model in PRINTED_TABLE3:
        return [f"printed {PRINTED_TABLE3[model]:.2f} (data set not named)"]
    return []


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds."""
    return f"{mean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


def _iou(epoch: dict[str, Any]) -> float | None:
    """On the reported part; None where no figures were taken."""
    found = epoch.get("reported", {})
    named = [found[name] for name in ("iou_batch8", "iou") if name in found]
    return round(named[0], 4) if named else None


def summarise(paths: Sequence[Path], to: Path, command: str) -> None:
    """Write what a reader needs of finished runs into one file: chosen figures, losses, times."""
    kept = []
    for path in paths:
        run = json.loads(path.read_text())
        data = {
            name: value
            for name, value in run["data"].items()
            if name not in ("training", "inner", "reported")
        }
        counts = {name: len(run["data"][name]) for name in ("training", "inner", "reported")}
        kept.append(
            {
                **{name: value for name, value in run.items() if name not in ("epochs", "data")},
                "data": data | counts,
                "gates": {
                    "after the first epoch": run["epochs"][0].get("gates", {}),
                    "after the last epoch": run["epochs"][-1].get("gates", {}),
                },
                "loss of each epoch": [round(epoch["loss"], 4) for epoch in run["epochs"]],
                "IoU of each epoch": [_iou(epoch) for epoch in run["epochs"]],
            }
        )
    with written_whole(to) as temporary:
        temporary.write_text(json.dumps({"command": command, "runs": kept}, indent=1) + "\n")
