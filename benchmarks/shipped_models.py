"""Trains the models that lie in the package, and writes them with their cards, measured on cases never seen.

    python benchmarks/shipped_models.py breast-ultrasound Dataset_BUSI_with_GT --clusters splits.json \\
        --out runs
    python benchmarks/shipped_models.py hippocampus-mr Task04_Hippocampus --out runs

A run that was stopped goes on; one that is over is only measured and written again, into ``--to``. The cases
to test on are those of ``benchmarks/learning.py``; near-duplicates (``--clusters``: a JSON file with lists of
names anywhere in it) lie on one side. BUSI's normal images are learned from, too, so that the model can say
that there is nothing. The cards name their worst cases but show no image of anybody's data.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from learning import parted

from napari_prosma.app.shipping import ship_model
from napari_prosma.data.case import Case
from napari_prosma.data.layouts import find_cases
from napari_prosma.events import EpochEnd, Finished, Notice
from napari_prosma.model.checkpoint import LAST, load_checkpoint
from napari_prosma.model.header import SHIPPED
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering

MODELS: dict[str, dict[str, Any]] = {
    "breast-ultrasound": {
        "held_out": {"": 130, "normal": 27},
        "settings": {
            "modality": "ultrasound",
            "widths": "tiny",
            "entry": 2,
            "side": 192,
            "batch": 4,
            "epochs": 100,
        },
        "terms": {
            "data": "BUSI: breast ultrasound of one hospital, 780 images, of which 647 show lesions",
            "licence": "CC0 1.0",
            "citation": "Al-Dhabyani et al. 2020, Dataset of breast ultrasound images, Data in Brief 28, "
            "104863, doi:10.1016/j.dib.2019.104863",
            "licence_text": """# Licence of these weights

The weights in this folder were learned from the BUSI data set (Al-Dhabyani et al. 2020). Its public page
says CC0 1.0. The weights are given under CC0 1.0 as well; please cite the authors:

Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. Data in Brief 28 (2020),
104863. doi:10.1016/j.dib.2019.104863
""",
            "not_for": (
                "Telling benign from malignant lesions: it finds both as one class.",
                "Images of other organs, of colour Doppler or elastography.",
            ),
        },
    },
    "hippocampus-mr": {
        "held_out": {"": 60},
        "settings": {
            "modality": "mr",
            "widths": (16, 32, 64, 128),
            "entry": 2,
            "patch": (32, 48, 32),
            "batch": 4,
            "epochs": 120,
        },
        "terms": {
            "data": "Medical Segmentation Decathlon, Task04: T1-weighted MR cut to the hippocampus, 1 mm",
            "licence": "CC BY-SA 4.0",
            "citation": "Antonelli et al. 2022, The Medical Segmentation Decathlon, Nature Communications "
            "13, 4128, doi:10.1038/s41467-022-30695-9",
            "licence_text": """# Licence of these weights

The weights in this folder were learned from Task04 (hippocampus) of the Medical Segmentation Decathlon
(Antonelli et al. 2022), which is given under CC BY-SA 4.0. The weights are given under the same licence:
https://creativecommons.org/licenses/by-sa/4.0/

Antonelli M et al. The Medical Segmentation Decathlon. Nature Communications 13 (2022), 4128.
doi:10.1038/s41467-022-30695-9
""",
            "not_for": ("Whole heads: it learned from images that were cut to the hippocampus.",),
        },
    },
}
INNER = 0.05
"""Share of the cases learned from that tell one epoch from another."""
AVERAGE = 0.999


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clusters", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the run")
    parser.add_argument("--to", type=Path, default=SHIPPED, help="folder for the model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = find_cases(given.data)
    learned, tested = split(data.cases, MODELS[given.model]["held_out"], given.clusters)
    config = TrainConfig.of(
        run_dir=given.out / given.model,
        data=given.data,
        average=AVERAGE,
        seed=0,
        threads=1,
        device="cpu",
        **MODELS[given.model]["settings"],
    )
    last = config.run_dir / LAST
    resumed = load_checkpoint(last) if last.is_file() else None
    if resumed is None or resumed.epoch < config.epochs:
        follow(config, learned, data.class_names, resumed)
    for event in ship_model(
        config.run_dir,
        given.to / given.model,
        tested,
        pictures=False,
        device="cpu",
        **MODELS[given.model]["terms"],
    ):
        if isinstance(event, Finished):
            for figures in event.result.figures:
                print(figures)


def split(
    cases: Sequence[Case], held_out: dict[str, int], clusters: Path | None
) -> tuple[list[Case], list[Case]]:
    """Cases to learn from, a few of which validate, and cases to test on."""
    learned: list[Case] = []
    tested: list[Case] = []
    for group, number in held_out.items():
        chosen = [case for case in cases if (case.group == "normal") == (group == "normal")]
        rest, test = parted(chosen, number, clusters)
        kept, inner = parted(rest, max(1, round(INNER * len(rest))), clusters)
        learned += [*kept, *(replace(case, split="val") for case in inner)]
        tested += test
    return learned, tested


def follow(config: TrainConfig, cases: list[Case], names: Sequence[str], resumed: Any) -> None:
    began = time.monotonic()
    for event in train(config, cases, names, resumed, steering=Steering(wants_previews=False)):
        if isinstance(event, Notice):
            print(event.message, flush=True)
        elif isinstance(event, EpochEnd):
            minutes = (time.monotonic() - began) / 60
            found = event.validation or {}
            print(
                f"{minutes:6.1f} min  epoch {event.epoch}  loss {event.loss:.4f}  {found.get('dice')}",
                flush=True,
            )


if __name__ == "__main__":
    main()
