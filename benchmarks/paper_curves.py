"""The curves of runs of the paper's tables: loss and IoU on the reported part, per epoch, a row per table.

    python benchmarks/paper_curves.py benchmarks/results/paper-table1.json --out docs/images/paper-curves.png

Takes what ``paper.py --summary`` writes. A run that diverged ends where it did, and its name says so. The
picture keeps the digest of its files, by which a test tells whether it is still theirs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL.PngImagePlugin import PngInfo

from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.network_kinds import NETWORKS, OURS
from napari_prosma.nn.spec import OURS_GATE

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
"""Okabe and Ito's, which the colour-blind tell apart, and gray."""
OURS_COLOUR = "black"
ROW_INCHES, WIDTH_INCHES, DPI = 1.9, 8.5, 110
FONT = 7


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("summaries", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="a .png")
    chosen = parser.parse_args(arguments)
    figure = draw([json.loads(path.read_text()) for path in chosen.summaries])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    kept = PngInfo()
    kept.add_text("Description", digest(chosen.summaries))
    picture = PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # A third of the size: there are few colours.
    picture.quantize(64).save(chosen.out, optimize=True, pnginfo=kept)


def digest(summaries: Sequence[Path]) -> str:
    """Of what is in the files, in their order."""
    return hashlib.blake2b(b"".join(path.read_bytes() for path in summaries), digest_size=8).hexdigest()


def draw(summaries: Sequence[dict[str, Any]]) -> Figure:
    """Two axes per summary, (loss, IoU), in their order."""
    figure = Figure(figsize=(WIDTH_INCHES, ROW_INCHES * len(summaries)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(summaries), 2, squeeze=False)
    for (loss, iou), summary in zip(axes, summaries, strict=True):
        for run in summary["runs"]:
            draw_run(loss, iou, run)
        heading = title(summary)
        for ax, what in ((loss, "training loss"), (iou, "IoU on the reported part, %")):
            ax.set_title(f"{heading}: {what}", fontsize=FONT + 1, loc="left")
            ax.tick_params(labelsize=FONT)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_xlabel("epoch", fontsize=FONT, labelpad=1)
            ax.spines[["top", "right"]].set_visible(False)
        iou.set_ylim(bottom=0)
        iou.legend(fontsize=FONT, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def draw_run(loss: Axes, iou: Axes, run: dict[str, Any]) -> None:
    name = run["model"]
    look: dict[str, Any] = {"color": colour(name), "marker": "o", "linewidth": 1.2, "markersize": 2.5}
    look["linestyle"] = "--" if name in GATES and name != OURS_GATE else "-"
    losses = run["loss of each epoch"]
    loss.plot(range(1, len(losses) + 1), losses, **look)
    overlaps = [(n, 100 * iou) for n, iou in enumerate(run["IoU of each epoch"], 1) if iou is not None]
    label = f"{name} (diverged)" if run["diverged"] else name
    iou.plot([n for n, _ in overlaps], [value for _, value in overlaps], label=label, **look)


def colour(model: str) -> str:
    """The same in every row; ours is black."""
    if model == OURS_GATE:
        return OURS_COLOUR
    order = [name for name in (NETWORKS if model in NETWORKS else GATES) if name not in (OURS, OURS_GATE)]
    return COLOURS[order.index(model)]


def title(summary: dict[str, Any]) -> str:
    """Which table, of which set, and the preset of the widths."""
    table = summary["command"].split("paper.py ")[1].split()[0].replace("table", "Table ")
    data, settings = summary["runs"][0]["data"], summary["runs"][0]["settings"]
    whole = " by clusters" * data.get("clusters kept whole", False)
    return f"{table}, {data['set'].removeprefix('Task04_')}{whole}, {settings['widths']}"


if __name__ == "__main__":
    main()
