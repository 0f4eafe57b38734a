"""A run of Table 2: volumes of the Decathlon, by the protocol that MONAI's public tutorials have for them.

Nothing public says how the paper trained in 3D. ``msd3d`` is therefore that of MONAI's Spleen tutorial: a
spacing of 1.5 x 1.5 x 2 mm, gray values clipped, patches of 96 to a side of which half hold foreground, eight
per step (four of each of two cases there, of eight cases here), no random changes, Dice + cross-entropy by a
softmax, Adam 1e-4 with a cosine over 600 epochs, sliding windows of the training patch with half overlap and
Gaussian weights, and figures on the images' own grid. Spleen's and Colon's gray values are those of the
tutorials. Axes lie as our readers lay them, which is RAS but for flips. Any other data set, such as the
hippocampus as a stand-in, has the spacing, patch and gray values of our own plan, and two patches per step.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from paper_data import Split
from paper_run import TORCH_SEED
from torch import Tensor

from napari_prosma.data.fingerprint import Plan, make_plan, read_facts
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.metrics import dice_and_iou
from napari_prosma.data.preparation import prepare
from napari_prosma.errors import DataError
from napari_prosma.model.applying import finish
from napari_prosma.model.windows import Blend, predict, tile
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.batches import Batch, Batches, PreparedCases
from napari_prosma.training.losses import dice_cross_entropy

EPOCHS, RATE = 600, 1e-4
EVERY = 10
"""Epochs of a run of full length between two looks at the cases held out, which take longer than an epoch."""
SPACING = (2.0, 1.5, 1.5)
"""(z, y, x), mm."""
PATCH, PATCHES_PER_CASE, CASES_PER_STEP = (96, 96, 96), 4, 2
WINDOWS_AT_ONCE = 4
GRAY = {
    "Task09_Spleen": {"clip": (-57.0, 164.0), "mean": -57.0, "std": 221.0},
    "Task10_Colon": {"clip": (-30.0, 165.82), "mean": 62.18, "std": 32.65},
}
"""Of MONAI's tutorials: Spleen's to 0 and 1, Colon's by mean and spread."""
LABELLED = {"Task09_Spleen": 41, "Task10_Colon": 126, "Task04_Hippocampus": 260}


def read_volumes(folder: Path, incomplete: bool = False) -> tuple[DataSet, Plan, str]:
    """Cases of a Decathlon folder, the plan of ``msd3d`` for them, and which set it is (its folder's name).

    Raises
    ------
    DataError
        No volumes, or fewer cases than the set has.
    """
    data = find_cases(folder)
    if data.dims != 3:
        raise DataError(f"'{folder}' holds 2D images ({data.layout}); Table 2 is of volumes")
    name = folder.resolve().name
    whole = LABELLED.get(name)
    if whole is not None and len(data.cases) < whole and not incomplete:
        raise DataError(
            f"'{folder}' has {len(data.cases)} labelled cases, {name} has {whole}; complete it, or say "
            f"--incomplete to go on without"
        )
    if name not in GRAY:
        facts = list(read_facts(data.cases))
        return data, make_plan(facts, data.class_names, dims=3, batch=CASES_PER_STEP), name
    plan = Plan(
        dims=3,
        channels=data.channels,
        axes=3,
        # MONAI's tutorials learn one organ or tumour against the rest.
        class_names=data.class_names,
        spacing=SPACING,
        unit="mm",
        patch=PATCH,
        batch=PATCHES_PER_CASE * CASES_PER_STEP,
        intensity="ct",
        **GRAY[name],  # type: ignore[arg-type]
    )
    return data, plan, name


class VolumeTask:
    """Training of one network; the next patches are drawn while the device works on these."""

    def __init__(
        self,
        spec: ModelSpec,
        data: DataSet,
        prepared: PreparedCases,
        plan: Plan,
        split: Split,
        device: torch.device,
        seed: int = TORCH_SEED,
    ) -> None:
        if len(split.training) < CASES_PER_STEP:
            raise DataError(f"{len(split.training)} case(s) to learn from are fewer than {CASES_PER_STEP}")
        torch.manual_seed(seed)
        self.network = build_model(spec).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE)
        self.device, self.plan = device, plan
        self._cases, self._split = data.cases, split
        self._batches = Batches(prepared, split.training, plan, seed, augmentation=None)
        self._loss = dice_cross_entropy(spec.out_channels)
        self._ahead = ThreadPoolExecutor(1)
        self.steps = len(split.training) // CASES_PER_STEP

    def train(self, epoch: int) -> Tensor:
        self.network.train()
        total = torch.zeros((), device=self.device)
        first = epoch * self.steps
        coming: Future[Batch] = self._ahead.submit(self._batches.draw, first)
        for step in range(first, first + self.steps):
            batch = coming.result()
            if step + 1 < first + self.steps:
                coming = self._ahead.submit(self._batches.draw, step + 1)
            images, labels = batch.images.to(self.device), batch.labels.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                logits = self.network(images)
            loss = self._loss(logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return total / self.steps

    def reported(self) -> dict[str, float]:
        return self._figures(self._split.reported)

    def inner(self) -> dict[str, float]:
        """``loss`` is 1 - Dice: windows have no cross-entropy of their own."""
        if not self._split.inner:
            return {}
        figures = self._figures(self._split.inner)
        return {"loss": 1 - figures["dice"], **figures}

    def gates(self) -> dict[str, dict[str, float]]:
        """Not told here: ``prosma inspect`` has the windows' means of every measure."""
        return {}

    def _figures(self, indices: tuple[int, ...]) -> dict[str, float]:
        """Means over the cases: of the foreground classes, each class, and ``macro`` with the background."""
        self.network.eval()
        per_case = []
        for n in indices:
            case = self._cases[n]
            assert case.read_label is not None
            image, truth = case.read_image(), case.read_label()
            grid = prepare(image, self.plan).array
            tiling = tile(grid.shape[1:], self.plan.patch, self.network.divisor)
            blend = Blend(tiling, self.network.spec.out_channels)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                for _ in predict(self.network, grid, tiling, WINDOWS_AT_ONCE, blend):
                    pass
            found = finish(case.name, blend.result(), image, self.plan).labels
            per_case.append(case_figures(found, truth, self.plan.class_names))
        return {name: float(np.mean([case[name] for case in per_case])) for name in per_case[0]}


def case_figures(found: np.ndarray, truth: np.ndarray, class_names: tuple[str, ...]) -> dict[str, float]:
    """``dice`` and ``iou`` over the foreground, each class as ``dice/<class>``, ``dice_macro`` over all.

    What is in neither counts 1; ``found`` and ``truth`` are (*spatial) class indices.
    """
    overlap = [dice_and_iou(found, truth, k) for k in range(len(class_names))]
    figures = {
        "dice": float(np.mean([dice for dice, _ in overlap[1:]])),
        "iou": float(np.mean([iou for _, iou in overlap[1:]])),
        "dice_macro": float(np.mean([dice for dice, _ in overlap])),
    }
    return figures | {
        f"dice/{name}": dice for name, (dice, _) in list(zip(class_names, overlap, strict=True))[1:]
    }
