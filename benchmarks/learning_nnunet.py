"""nnU-Net's part of ``learning.py``; runs under a Python that has nnunetv2 and needs nothing of this program.

    python benchmarks/learning_nnunet.py FOLDER --minutes 6 [--batch 2]

FOLDER holds ``nnUNet_raw/Dataset001_Here`` (``imagesTr``, ``labelsTr``, ``imagesTs``, ``dataset.json``).
Planning and preprocessing are not counted. Training is nnU-Net's own, with its steps and its learning rate
going by the processor time given: all cases, its augmentation in this process, no validation. Predictions
are written to FOLDER/predicted, without mirroring, as the other systems predict. Prints the number of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

FINAL_POWER = 0.9
"""Of nnU-Net's polynomial schedule."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--batch", type=int, help="instead of the plan's own")
    given = parser.parse_args()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(given.folder / name)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_compile="f", nnUNet_def_n_proc="1")
    from nnunetv2.run.run_training import get_trainer_from_args

    configuration = planned(given.folder, given.batch)
    import torch

    trainer = get_trainer_from_args("1", configuration, "all", device=torch.device("cpu"))
    steps = trained(trainer, 60 * given.minutes)
    predicted(trainer, given.folder)
    print(json.dumps({"steps": steps, "batch": trainer.batch_size, "configuration": configuration}))


def planned(folder: Path, batch: int | None) -> str:
    """The configuration of the plan that is trained, its data preprocessed."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([1], num_processes=1, show_progress_bar=False)
    api.plan_experiments([1])
    plan = next((folder / "nnUNet_preprocessed").glob("*/nnUNetPlans.json"))
    content = json.loads(plan.read_text(encoding="utf-8"))
    configuration = "3d_fullres" if "3d_fullres" in content["configurations"] else "2d"
    if batch:
        content["configurations"][configuration]["batch_size"] = batch
        plan.write_text(json.dumps(content), encoding="utf-8")
    api.preprocess([1], configurations=(configuration,), num_processes=(1,), show_progress_bar=False)
    return configuration


def trained(trainer: Any, seconds: float) -> int:
    trainer.disable_checkpointing = True
    os.environ.update(nnUNet_n_proc_DA="0")  # augmentation in this process, whose time counts
    trainer.on_train_start()
    began, steps = time.process_time(), 0
    trainer.network.train()
    while (share := (time.process_time() - began) / seconds) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - share) ** FINAL_POWER
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    return steps


def predicted(trainer: Any, folder: Path) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(
        use_mirroring=False, device=trainer.device, perform_everything_on_device=False, allow_tqdm=False
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    raw = next((folder / "nnUNet_raw").iterdir())
    ending = trainer.dataset_json["file_ending"]
    files = [[str(file)] for file in sorted((raw / "imagesTs").glob(f"*{ending}"))]
    (folder / "predicted").mkdir()
    predictor.predict_from_files_sequential(files, str(folder / "predicted"))


if __name__ == "__main__":
    main()
