"""What a model in the package is worth to somebody with a handful of own images: fine-tuned or from scratch.

    python benchmarks/fine_tuning.py busi Dataset_BUSI_with_GT --clusters splits.json --core 0
    python benchmarks/fine_tuning.py kvasir Kvasir-SEG --clusters splits.json --core 0

``busi``: lesions of the images that ``breast-ultrasound`` was tested on and never learned from, 40 to learn
from and the others to test on. ``kvasir``: polyps in endoscopy, another organ, modality and number of
channels, 100 of them to test on. Near-duplicates (``--clusters``) lie on one side.

Systems: ``as shipped`` (nothing is learned; not for the three channels of ``kvasir``), ``fine-tuned``
(``TrainConfig`` with ``start_from`` alone), ``scratch`` (network and side that the program takes for some
minutes). All runs have the arithmetic of about 40 s of one core: a fixed number of steps, fewer of them at
the model's side of 192 than at 128, so that a busy machine changes no figure. ``--systems`` also takes
variants of the fine-tuning, such as ``decoder``.

One process per run; a row that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from learning import add_options, figures, parted, predictor, run_all
from shipped_models import MODELS, split

from napari_prosma.data.case import Case
from napari_prosma.data.layouts import find_cases
from napari_prosma.events import Notice
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering

MODEL = "breast-ultrasound"
EPOCHS = 4
STEPS = {128: 95, 192: 45}
"""Of an epoch, by the side of the images: about 40 s of one core for all of them."""
SCRATCH: dict[str, Any] = {
    "widths": "tiny",
    "entry": 2,
    "side": 128,
    "batch": 4,
    "steps_per_epoch": STEPS[128],
}
TUNED: dict[str, Any] = {"start_from": MODEL, "batch": 4, "steps_per_epoch": STEPS[192]}
SYSTEMS: dict[str, dict[str, Any]] = {
    "scratch": SCRATCH,
    "fine-tuned": TUNED,
    "decoder": {**TUNED, "trains": "decoder"},
    "gates and head": {**TUNED, "trains": "gates and head"},
    "slower": {**TUNED, "taken_rate": 0.1},
    "as fast as new": {**TUNED, "taken_rate": 1.0},
}
SHIPPED = "as shipped"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("busi", "kvasir"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--clusters", type=Path)
    parser.add_argument("--cases", default="5,10,20")
    parser.add_argument("--systems", default=f"{SHIPPED},fine-tuned,scratch")
    parser.add_argument("--seeds", default="0,1,2")
    add_options(parser, "fine-tuning.json")
    given = parser.parse_args()
    run_all(given, jobs(given), run_one, __file__, in_words)


def in_words(row: dict[str, Any]) -> str:
    return (
        f"{row['task']:8} cases {row['cases']:3}  seed {row['seed']}  {row['system']:16} "
        f"Dice {row['dice']:.4f}  {row.get('processor', 0):.0f} s of processor time"
    )


def jobs(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    systems = given.systems.split(",")
    if SHIPPED in systems and given.task == "busi":
        yield {"task": given.task, "cases": 0, "seed": 0, "system": SHIPPED}
    for seed in map(int, given.seeds.split(",")):
        for cases in map(int, given.cases.split(",")):
            for system in systems:
                if system != SHIPPED:
                    yield {"task": given.task, "cases": cases, "seed": seed, "system": system}


def run_one(given: argparse.Namespace, cases: int, seed: int, system: str, **_: Any) -> dict[str, Any]:
    data = find_cases(given.data)
    pool, tested = own_images(given, data.cases)
    if system == SHIPPED:
        shipped = load_checkpoint(MODEL)
        return figures(predictor(shipped), tested, len(data.class_names))
    learned = [pool[n] for n in np.random.RandomState(seed).permutation(len(pool))[:cases]]
    began = time.process_time()
    checkpoint, said = trained(learned, data.class_names, seed, SYSTEMS[system])
    taken = time.process_time() - began
    return {
        "processor": round(taken, 1),
        "epoch": checkpoint.epoch,
        **figures(predictor(checkpoint), tested, len(data.class_names)),
        "said": said,
    }


def own_images(given: argparse.Namespace, cases: list[Case]) -> tuple[list[Case], list[Case]]:
    """Cases to learn from and to test on, none of which the model in the package learned from."""
    if given.task == "kvasir":
        return parted(cases, 100, given.clusters)
    _, unseen = split(cases, MODELS[MODEL]["held_out"], given.clusters)
    lesions = [case for case in unseen if case.group != "normal"]
    return parted(lesions, len(lesions) - 40, given.clusters)


def trained(
    cases: list[Case], names: tuple[str, ...], seed: int, changes: dict[str, Any]
) -> tuple[Checkpoint, list[str]]:
    said = []
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.of(
            run_dir=Path(folder) / "run", epochs=EPOCHS, seed=seed, threads=1, device="cpu", **changes
        )
        for event in train(config, cases, names, steering=Steering(wants_previews=False)):
            if isinstance(event, Notice):
                said.append(event.message)
        checkpoint = load_checkpoint(config.run_dir)
    return checkpoint, [line for line in said if not line.startswith(("About", "Labelled"))]


if __name__ == "__main__":
    main()
