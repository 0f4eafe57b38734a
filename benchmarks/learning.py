"""What is learned in some minutes of a processor: this program's defaults against plain recipes.

    python benchmarks/learning.py --data Task04_Hippocampus --held-out 60 --minutes 3,6,12 --core 0
    python benchmarks/learning.py --data Dataset_BUSI_with_GT --skip normal --clusters splits.json \\
        --held-out 130 --minutes 6,12 --systems prosma,monai-unet --core 0
    python benchmarks/learning.py --data Dataset_BUSI_with_GT --skip normal --clusters splits.json \\
        --held-out 130 --cases 10 --minutes 4 --seeds 0,1,2 --core 0

Systems: ``prosma`` (``TrainConfig`` with nothing but its minutes, as ``prosma train --minutes``), the same
with ``--gate none`` and ``attention``, MONAI's tutorial recipe (UNet of 16 to 256 channels with strides, 2
patches of each of 2 cases, or 4 images of 256 x 256, AdamW 1e-3 with a cosine, flips and intensity), and the
same recipe with its AttentionUnet; with ``--nnunet PYTHON``, a Python that has nnunetv2, also ``nnunet`` (its
own plan) and ``nnunet-batch-2``, see ``learning_nnunet.py``. Every system has the same cases to learn from
and the same minutes, its reading and validations counted in (not nnU-Net's preprocessing). Test cases were
never seen; near-duplicates (``--clusters``: a JSON file with lists of names anywhere in it) and patients lie
on one side, and the split that a data set brings is left aside.

Each run is a process of its own, held to ``--core`` with one thread (to ``--core 0,1`` with two), the systems
in turn. Figures are Dice on the test images' own grid, over those that have the structure. A row that is in
the file is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import nibabel as nib
import numpy as np
import torch
from measuring import circumstances

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case, Image
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.metrics import dice_and_iou
from napari_prosma.events import Finished, Notice
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering

GATES = {"prosma": {}, "prosma-none": {"gate": "none"}, "prosma-attention": {"gate": "attention"}}
RECIPES = ("monai-unet", "monai-attention-unet")
NNUNETS = {"nnunet": [], "nnunet-batch-2": ["--batch", "2"]}
SPLIT_SEED = 0
CHANNELS = (16, 32, 64, 128, 256)
SIDE = 256
"""Of the recipes' 2D images."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a data set in any layout")
    parser.add_argument("--skip", default="", help="leave out the cases of this group")
    parser.add_argument("--clusters", type=Path)
    parser.add_argument("--held-out", type=int, required=True, help="test cases")
    parser.add_argument("--cases", type=int, help="learn from so many of the others")
    parser.add_argument("--minutes", default="6")
    parser.add_argument("--systems", default=",".join([*GATES, *RECIPES]))
    parser.add_argument("--nnunet", metavar="PYTHON", help="one that has nnunetv2")
    parser.add_argument("--seeds", default="0")
    add_options(parser, "learning.json")
    given = parser.parse_args()
    run_all(given, jobs(given), run_one, __file__, in_words)


def in_words(row: dict[str, Any]) -> str:
    return (
        f"{row['data']:24} {row['minutes']:5g} min  cases {row['cases']:4}  seed {row['seed']}  "
        f"{row['system']:22} steps {row['steps']:5}  Dice {row['dice']:.4f}  {row['wall']:.0f} s"
    )


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """What :func:`run_all` goes by."""
    parser.add_argument("--core", default="0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / out)
    parser.add_argument("--one", help=argparse.SUPPRESS)


def run_all(
    given: argparse.Namespace,
    jobs: Iterable[dict[str, Any]],
    run_one: Callable[..., dict[str, Any]],
    script: str,
    in_words: Callable[[dict[str, Any]], str],
) -> None:
    """Run the jobs that ``--out`` lacks, one process of ``script`` each; rows are written as they come."""
    cores, out = given.core.split(","), given.out
    if given.one:  # this is such a process
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, set(map(int, cores)))
        torch.set_num_threads(len(cores))
        print(json.dumps(run_one(given, **json.loads(given.one))))
        return
    for job in jobs:
        known = read(out, script)
        if any(all(row.get(key) == value for key, value in job.items()) for row in known["runs"]):
            continue
        row = job | in_a_process(job, script, len(cores))
        known = read(out, script)
        known["runs"].append(row)
        out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(out) as temporary:
            temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(in_words(row), flush=True)


def jobs(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for minutes in map(float, given.minutes.split(",")):
        for seed in map(int, given.seeds.split(",")):
            for system in given.systems.split(","):
                yield {
                    "data": given.data.name,
                    "held_out": given.held_out,
                    "cases": given.cases or 0,
                    "minutes": minutes,
                    "cores": len(given.core.split(",")),
                    "seed": seed,
                    "system": system,
                }


def read(path: Path, script: str) -> dict[str, Any]:
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    return {
        **circumstances(torch.device("cpu")),
        "command": f"see the head of benchmarks/{Path(script).name}",
        "runs": [],
    }


def in_a_process(job: dict[str, Any], script: str, cores: int) -> dict[str, Any]:
    words = [sys.executable, script, *sys.argv[1:], "--one", json.dumps(job)]
    threads = {"OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)}
    done = subprocess.run(words, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_one(given: argparse.Namespace, system: str, minutes: float, seed: int, cores: int, **_: Any) -> dict:
    data = find_cases(given.data)
    cases = [replace(case, split="") for case in data.cases if not given.skip or case.group != given.skip]
    learned, tested = parted(cases, given.held_out, given.clusters)
    if given.cases:
        learned = [learned[n] for n in np.random.RandomState(seed).permutation(len(learned))[: given.cases]]
    wall, processor = time.monotonic(), time.process_time()
    if system in GATES:
        steps, predict, said = ours(learned, data.class_names, minutes, seed, cores, GATES[system])
    elif system in NNUNETS:
        words = [given.nnunet or sys.executable, *NNUNETS[system], "--minutes", str(minutes)]
        steps, predict, said = nnunet(words, learned, tested, data.class_names)
    else:
        steps, predict, said = recipe(system, learned, len(data.class_names), minutes, seed)
    taken = {"wall": time.monotonic() - wall, "processor": time.process_time() - processor}
    return {
        **{name: round(seconds, 1) for name, seconds in taken.items()},
        "learned_from": len(learned),
        "steps": steps,
        **figures(predict, tested, len(data.class_names)),
        "said": said,
    }


def figures(
    predict: Callable[[Case], np.ndarray], tested: Sequence[Case], classes: int
) -> dict[str, float | int]:
    """Mean Dice of those that have a structure, and in how many of them nothing was found."""
    rows = [dice_of(predict(case), case, classes) for case in tested]
    found = [row for row in rows if row]
    return {
        "dice": float(np.mean([np.mean(row) for row in found])),
        "nothing_found": sum(not any(row) for row in found),
        "tested": len(found),
    }


def dice_of(labels: np.ndarray, case: Case, classes: int) -> list[float]:
    """Of every class that the case has."""
    assert case.read_label is not None
    truth = case.read_label()
    return [dice_and_iou(labels, truth, k)[0] for k in range(1, classes) if (truth == k).any()]


def parted(
    cases: Sequence[Case], held_out: int, clusters_in: Path | None = None
) -> tuple[list[Case], list[Case]]:
    """Cases to learn from and to test on; what belongs together lies on one side."""
    clusters = list(lists_in(json.loads(clusters_in.read_text()))) if clusters_in else []
    place = {name: n for n, cluster in enumerate(clusters) for name in cluster}
    groups: dict[Any, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        name = case.name.split("/")[-1].removesuffix(".png")
        groups.setdefault(place.get(name, case.name), []).append(case)
    shuffled = [[*groups.values()][n] for n in np.random.RandomState(SPLIT_SEED).permutation(len(groups))]
    tested: list[Case] = []
    while len(tested) < held_out:
        tested += shuffled.pop()
    learned = [case for group in shuffled for case in group]
    return learned, tested


def lists_in(value: Any) -> Iterator[list[str]]:
    """Every list of several names."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value):
        if len(value) < 20:  # a list of near-duplicates, not one of a whole split
            yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from lists_in(inner)


# ---- systems ----------------------------------------------------------------------------------------------


def ours(
    cases: list[Case], names: Sequence[str], minutes: float, seed: int, threads: int, changes: dict
) -> tuple[int, Any, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.of(
            run_dir=Path(folder) / "run", minutes=minutes, seed=seed, threads=threads, device="cpu", **changes
        )
        said = []
        for event in train(config, cases, names, steering=Steering(wants_previews=False)):
            if isinstance(event, Notice):
                said.append(event.message)
        checkpoint = load_checkpoint(config.run_dir)
        steps = load_checkpoint(config.run_dir / "last.safetensors").place["step"]

    return (
        steps,
        predictor(checkpoint),
        [line for line in said if line.startswith(("Plan", "About", "A step"))],
    )


def predictor(checkpoint: Checkpoint) -> Callable[[Case], np.ndarray]:
    """Labels of a case on its own grid."""

    def predict(case: Case) -> np.ndarray:
        *_, finished = segment(checkpoint, case.read_image(), device="cpu")
        assert isinstance(finished, Finished)
        return finished.result.labels

    return predict


def recipe(
    system: str, cases: list[Case], classes: int, minutes: float, seed: int
) -> tuple[int, Any, list[str]]:
    from monai.data import CacheDataset, DataLoader
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.layers import Norm
    from monai.networks.nets import AttentionUnet, UNet
    from monai.transforms import (
        Compose,
        NormalizeIntensityd,
        RandCropByPosNegLabeld,
        RandFlipd,
        RandRotate90d,
        RandScaleIntensityd,
        RandShiftIntensityd,
        Resized,
        SpatialPadd,
    )
    from monai.utils import set_determinism

    began, both = time.process_time(), ["image", "label"]
    set_determinism(seed)
    dims, channels = cases[0].read_image().array.ndim - 1, len(cases[0].read_image().array)
    patch = (32, 48, 32) if dims == 3 else (SIDE, SIDE)

    def item(case: Case) -> dict[str, torch.Tensor]:
        assert case.read_label is not None
        image = torch.from_numpy(np.ascontiguousarray(case.read_image().array, dtype=np.float32))
        return {"image": image, "label": torch.from_numpy(case.read_label()[None].astype(np.float32))}

    fixed: list[Any] = [NormalizeIntensityd("image", channel_wise=True)]
    drawn: list[Any] = [RandFlipd(both, 0.5, axis) for axis in range(dims)]
    if dims == 3:
        crop = RandCropByPosNegLabeld(both, "label", patch, pos=1, neg=1, num_samples=2)
        fixed, drawn = [*fixed, SpatialPadd(both, patch)], [crop, *drawn]
    else:
        fixed.append(Resized(both, patch, mode=("bilinear", "nearest")))
        drawn.append(RandRotate90d(both, 0.5))
    drawn += [RandScaleIntensityd("image", 0.1, 0.5), RandShiftIntensityd("image", 0.1, 0.5)]
    data = CacheDataset(
        [item(case) for case in cases], Compose([*fixed, *drawn]), progress=False, num_workers=0
    )
    loader = DataLoader(data, batch_size=min(2 if dims == 3 else 4, len(cases)), shuffle=True, drop_last=True)
    strides = (2, 2, 2, 2)
    out = classes
    if system == "monai-unet":
        network = UNet(dims, channels, out, CHANNELS, strides, num_res_units=2, norm=Norm.BATCH)
    else:
        network = AttentionUnet(dims, channels, out, CHANNELS, strides)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    steps, seconds = 0, 60 * minutes
    while time.process_time() - began < seconds:
        for batch in loader:
            share = (time.process_time() - began) / seconds
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (0.5 + 0.5 * math.cos(math.pi * share))
            optimizer.zero_grad()
            loss(network(batch["image"]), batch["label"]).backward()
            optimizer.step()
            steps += 1
    network.eval()

    @torch.no_grad()
    def predict(case: Case) -> np.ndarray:
        given = item(case)
        size = given["label"].shape[1:]
        image = Compose(fixed)(given)["image"][None]
        if dims == 3:
            whole = sliding_window_inference(image, patch, 4, network, overlap=0.5, mode="gaussian")
            start = [(n - m) // 2 for n, m in zip(image.shape[2:], size, strict=True)]  # as it was padded
            logits = whole[(..., *(slice(s, s + n) for s, n in zip(start, size, strict=True)))]
        else:
            logits = torch.nn.functional.interpolate(network(image), size, mode="bilinear")
        return logits.argmax(dim=1)[0].numpy().astype(np.uint8)

    return steps, predict, []


def nnunet(
    words: list[str], learned: list[Case], tested: list[Case], names: Sequence[str]
) -> tuple[int, Any, list[str]]:
    """``words``: its Python, then options."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        raw = folder / "nnUNet_raw" / "Dataset001_Here"
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            (raw / part).mkdir(parents=True)
        first = learned[0].read_image().array
        ending = ".png" if first.ndim == 3 else ".nii.gz"
        for n, case in enumerate(learned):
            assert case.read_label is not None
            write(raw / "imagesTr" / f"case{n:04}_0000{ending}", case.read_image())
            write(raw / "labelsTr" / f"case{n:04}{ending}", labels_of(case))
        for n, case in enumerate(tested):
            write(raw / "imagesTs" / f"case{n:04}_0000{ending}", case.read_image())
        about = {
            "channel_names": {str(n): f"channel {n}" for n in range(len(first))},
            "labels": {name: n for n, name in enumerate(names)},
            "numTraining": len(learned),
            "file_ending": ending,
        }
        (raw / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
        python, *options = words
        script = str(Path(__file__).with_name("learning_nnunet.py"))
        done = subprocess.run(
            [python, script, scratch, *options], stdout=subprocess.PIPE, text=True, check=True
        )
        said = json.loads(done.stdout.splitlines()[-1])
        found = {
            case.name: read_labels(folder / "predicted" / f"case{n:04}{ending}")
            for n, case in enumerate(tested)
        }
    return said["steps"], lambda case: found[case.name], [f"{said['configuration']}, batch {said['batch']}"]


def labels_of(case: Case) -> Image:
    assert case.read_label is not None
    return Image(case.read_label()[None].astype(np.uint8), case.read_image().geometry)


def write(path: Path, image: Image) -> None:
    """A colour or grey picture of 8 bits, or a volume of one channel with its spacing."""
    array = image.array
    if array.ndim == 3:
        imageio.imwrite(path, array.transpose(1, 2, 0).squeeze().astype(np.uint8))
    else:
        nib.save(nib.Nifti1Image(array[0].T, np.diag([*image.geometry.spacing[::-1], 1.0])), path)


def read_labels(path: Path) -> np.ndarray:
    return imageio.imread(path) if path.suffix == ".png" else np.asarray(nib.load(path).dataobj).T


if __name__ == "__main__":
    main()
