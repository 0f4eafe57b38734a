"""The paper's tables are run again by its protocol; no run is done twice, and none is dropped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import torch

from napari_prosma.data.preparation import normalise
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec

SEED = 2981
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.fixture(scope="module")
def paper(benchmarks: None) -> ModuleType:
    import paper

    return paper


@pytest.fixture(scope="module")
def data(benchmarks: None) -> ModuleType:
    import paper_data

    return paper_data


@pytest.fixture(scope="module")
def planar(benchmarks: None) -> ModuleType:
    import paper_planar

    return paper_planar


@pytest.fixture(scope="module")
def busi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of BUSI's layout, each with a bright rectangle; ``benign (3)`` has two masks."""
    folder = tmp_path_factory.mktemp("data") / "Dataset_BUSI_with_GT"
    random = np.random.default_rng(0)
    for group in ("benign", "malignant"):
        (folder / group).mkdir(parents=True)
        for n in range(1, 7):
            image = random.integers(0, 90, (40, 48), np.uint8)
            mask = np.zeros((40, 48), np.uint8)
            mask[8 + n : 24 + n, 10:30] = 255
            image[mask > 0] += 120
            name = f"{group} ({n})"
            PIL.Image.fromarray(image).save(folder / group / f"{name}.png")
            PIL.Image.fromarray(mask).save(folder / group / f"{name}_mask.png")
    second = np.zeros((40, 48), np.uint8)
    second[30:38, 36:46] = 255
    PIL.Image.fromarray(second).save(folder / "benign" / "benign (3)_mask_1.png")
    return folder


def run(paper: ModuleType, folder: Path, out: Path, *more: str, what: str = "table1") -> None:
    settings = ["--widths", "quick", "--size", "32", "--seeds", str(SEED), "--device", "cpu", "--incomplete"]
    paper.main([what, "--data", str(folder), "--out", str(out), *settings, *more])


def only_result(out: Path) -> dict:
    (path,) = out.glob("*.json")
    return json.loads(path.read_text())


def mask(rows: slice, columns: slice) -> torch.Tensor:
    found = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    found[..., rows, columns] = True
    return found


# ---- figures --------------------------------------------------------------------------------------------


def test_the_families_of_figures_have_their_known_values(planar: ModuleType) -> None:
    """Those of torchmetrics for an object of 10 x 10 pixels that is missed, and half found."""
    truth, missed = mask(slice(10, 20), slice(10, 20)), mask(slice(0), slice(0))
    assert planar.families(missed, truth)["dice_macro"] == pytest.approx(0.4938, abs=1e-4)
    assert planar.families(missed, truth)["dice_img"] == 0
    assert planar.families(missed, missed)["iou_img"] == 1
    half = planar.families(mask(slice(10, 20), slice(10, 15)), truth)
    assert half["iou_batch8"] == pytest.approx(0.5, abs=1e-6)
    assert half["dice_img"] == pytest.approx(2 / 3)
    assert half["dice_macro"] == pytest.approx(0.830, abs=1e-3)


def test_pooled_figures_weigh_batches_by_their_size(planar: ModuleType) -> None:
    torch.manual_seed(0)
    found, truth = torch.rand(11, 1, 6, 6) > 0.6, torch.rand(11, 1, 6, 6) > 0.5

    def iou(part: slice) -> float:
        return float((found[part] & truth[part]).sum() / (found[part] | truth[part]).sum())

    wanted = (8 * iou(slice(8)) + 3 * iou(slice(8, 11))) / 11
    measured = planar.families(found, truth)
    assert measured["iou_batch8"] == pytest.approx(wanted, abs=1e-5)
    assert measured["dice_img"] <= 2 * measured["iou_img"] / (1 + measured["iou_img"])


def test_the_best_cut_is_that_of_a_search_over_all_of_them(planar: ModuleType) -> None:
    """Masks that are too small at one half because nothing is sure yet."""
    torch.manual_seed(0)
    truth = torch.rand(3, 1, 16, 16) > 0.7
    logits = 2 * truth + torch.randn(3, 1, 16, 16) - 2
    p = torch.sigmoid(logits)
    found = [p >= cut / 100 for cut in range(100)]
    iou = [float((mask & truth).sum() / (mask | truth).sum()) for mask in found]
    measured = planar.at_the_best_cut(logits, truth)
    assert measured["iou_best_cut"] == pytest.approx(max(iou))
    assert measured["best_cut"] == pytest.approx(iou.index(max(iou)) / 100)
    assert measured["best_cut"] < 0.5
    assert measured["area"] == pytest.approx(float((logits > 0).sum() / truth.sum()))
    assert measured["iou_best_cut"] > planar.families(logits > 0, truth)["iou_micro"]


def test_figures_of_volumes_count_foreground_and_background_apart() -> None:
    from paper_volumes import case_figures

    truth = np.zeros((4, 4, 4), np.uint8)
    truth[0, 0] = 1
    truth[1, 0] = 2
    found = truth.copy()
    found[1, 0, :2] = 0
    figures = case_figures(found, truth, ("background", "a", "b"))
    assert figures["dice/a"] == 1
    assert figures["dice/b"] == pytest.approx(2 * 2 / (2 + 4))
    assert figures["dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["iou"] == pytest.approx((1 + 1 / 2) / 2)
    assert figures["dice_macro"] == pytest.approx((1 + 2 / 3 + 2 * 56 / (56 + 58)) / 3)


def test_no_printed_f1_of_kvasir_can_be_that_of_its_iou() -> None:
    from paper_tables import PRINTED, bound

    beyond = {key: f1 - bound(iou) for key, (iou, f1) in PRINTED.items()}
    assert all(5.7 < excess < 10.5 for (name, _), excess in beyond.items() if name == "Kvasir-SEG")
    assert all(excess < 0 for (name, _), excess in beyond.items() if name == "BUSI")


# ---- splits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "training", "reported"), [(647, 517, 130), (165, 132, 33)])
def test_the_split_is_that_of_scikit_learn(
    data: ModuleType, count: int, training: int, reported: int
) -> None:
    """``train_test_split`` holds out the first fifth, rounded up, of a permutation drawn from the seed."""
    parts = data.split([f"image {n}" for n in range(count)], SEED)
    drawn = np.random.RandomState(SEED).permutation(count)
    assert (len(parts.training), len(parts.inner), len(parts.reported)) == (training, 0, reported)
    assert list(parts.reported) == drawn[:reported].tolist()
    assert sorted([*parts.training, *parts.reported]) == list(range(count))


@pytest.mark.parametrize(
    ("seed", "digest"),
    [(2981, "8961cceed6469f94"), (6142, "a088ee881781579b"), (1187, "b1d5be83f6c914fe")],
)
def test_the_reported_images_of_busi_are_those_of_ukan(data: ModuleType, seed: int, digest: str) -> None:
    """The digests are of the names that U-KAN's own code holds out of the 647."""
    names = sorted(data.NAMED["BUSI"])
    reported = sorted(names[n] for n in data.split(names, seed).reported)
    assert hashlib.blake2b("\n".join(reported).encode(), digest_size=8).hexdigest() == digest


def test_the_split_of_ukan2_has_880_images_of_which_176_are_chosen_on(
    data: ModuleType, planar: ModuleType
) -> None:
    preset = planar.PRESETS["ukan2_exact"]
    names = [f"image {n}" for n in range(1000)]
    parts = data.split(names, 0, (), preset.inner, preset.reported)
    assert (len(parts.training), len(parts.inner), len(parts.reported)) == (704, 176, 120)
    listed = data.split(names, 0, (), preset.inner, names[:120])
    assert sorted(listed.reported) == list(range(120))
    assert (len(listed.training), len(listed.inner)) == (704, 176)


def test_near_duplicates_lie_on_one_side_of_every_split(data: ModuleType) -> None:
    names = [f"image {n}" for n in range(40)]
    clusters = [["image 0", "image 9"], ["image 3", "image 4", "image 20"], ["image 30", "image 31"]]
    for seed in range(30):
        parts = data.split(names, seed, clusters, inner=0.3)
        sides = [{names[n] for n in part} for part in (parts.training, parts.inner, parts.reported)]
        assert sorted([*parts.training, *parts.inner, *parts.reported]) == list(range(40))
        assert all(any(set(cluster) <= side for side in sides) for cluster in clusters)
        assert 8 <= len(parts.reported) <= 10


def test_clusters_of_another_set_are_refused(data: ModuleType) -> None:
    with pytest.raises(ConfigError, match="none of the 2 near-duplicates is in this set"):
        data.split(["a", "b", "c"], 0, [["x", "y"]])


# ---- sets -----------------------------------------------------------------------------------------------


def test_a_packed_set_is_the_set(data: ModuleType, busi: Path, tmp_path: Path) -> None:
    pictures = data.read_pictures(busi, 32, incomplete=True)
    assert pictures.images.shape == (12, 1, 32, 32)  # gray is kept once
    data.pack(pictures, tmp_path / "busi.npz")
    held = data.read_pictures(tmp_path / "busi.npz", incomplete=True)
    assert (held.layout, held.names, held.missing) == (pictures.layout, pictures.names, pictures.missing)
    np.testing.assert_array_equal(held.images, pictures.images)
    np.testing.assert_array_equal(held.masks, pictures.masks)
    with pytest.raises(DataError, match="holds images of 32 pixels, asked for 64"):
        data.read_pictures(tmp_path / "busi.npz", 64, incomplete=True)


def test_several_masks_of_an_image_are_united(data: ModuleType, busi: Path) -> None:
    pictures = data.read_pictures(busi, 40, incomplete=True)
    united = pictures.masks[pictures.names.index("benign (3)"), 0]
    assert united[20, 15] == 1
    assert united[34, 34] == 1
    assert pictures.masks[pictures.names.index("benign (2)"), 0, 34, 34] == 0


def test_what_is_missing_of_a_set_is_named(data: ModuleType, busi: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"635 of 647 images are missing: benign \(10\), benign \(100\)"):
        data.read_pictures(busi, 32)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for folder in ("images", "masks"):
        PIL.Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(tmp_path / folder / "a.png")
    with pytest.raises(DataError, match="the tables are of BUSI, GlaS, Kvasir-SEG"):
        data.read_pictures(tmp_path, 32)


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "benchmarks" / "paper.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_a_set_that_is_not_whole_is_named_in_the_shell(busi: Path, tmp_path: Path) -> None:
    found = shell("table1", "--data", str(busi), "--out", str(tmp_path))
    assert found.returncode == 2
    assert "635 of 647 images are missing: benign (10), benign (100)" in found.stderr
    assert "--incomplete" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("table1", ["--data", "nowhere"], "'nowhere' does not exist"),
        ("table1", ["--data", "empty"], "'empty' is empty; put images in"),
        ("table1", ["--data", "set.npz"], "'set.npz' is no set packed by this program"),
        ("table2", ["--data", "BUSI"], "holds 2D images (BUSI); Table 2 is of volumes"),
        ("table1", ["--data", "BUSI", "--clusters", "none.json"], "--clusters 'none.json' cannot be read"),
        ("table1", ["--data", "BUSI", "--clusters", "set.npz"], "'set.npz' holds no near-duplicates of BUSI"),
        ("table1", ["--data", "BUSI", "--official", "none.txt"], "--official 'none.txt' cannot be read"),
        ("table3", ["--data", "BUSI", "--threshold", "-1"], "threshold must be positive, found -1.0"),
        ("table1", ["--data", "BUSI", "--seeds", "a"], "invalid whole_numbers value: 'a'"),
    ],
)
def test_a_line_that_cannot_be_run_says_why(
    paper: ModuleType,
    busi: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("set.npz").write_text("no set")
    Path("BUSI").symlink_to(busi)
    with pytest.raises(SystemExit) as ended:
        paper.main([what, "--out", "runs", "--incomplete", "--device", "cpu", *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


# ---- training -------------------------------------------------------------------------------------------


def test_images_are_moved_by_a_quarter_turn_and_then_a_flip(planar: ModuleType) -> None:
    torch.manual_seed(0)
    draws, images = torch.rand(64, 4), torch.rand(64, 2, 5, 5)
    found = planar.moved(images, planar.symmetry_of(draws, turns=True))
    for image, (turn, quarter, flip, kind), moved in zip(images, draws.tolist(), found, strict=True):
        wanted = torch.rot90(image, int(4 * quarter), (1, 2)) if turn < 0.5 else image
        wanted = wanted.flip(((1, 2), (1,), (2,))[int(3 * kind)]) if flip < 0.5 else wanted
        assert torch.equal(moved, wanted)
    flipped = planar.moved(images, planar.symmetry_of(draws, turns=False))
    assert all(
        any(torch.equal(f, image.flip(axes)) for axes in ((), (1,), (2,), (1, 2)))
        for f, image in zip(flipped, images, strict=True)
    )


def test_only_the_exact_preset_divides_by_255_twice_and_swaps_the_colours(planar: ModuleType) -> None:
    image = torch.tensor([255, 128, 0], dtype=torch.uint8)[None, :, None, None]
    values = {
        name: planar.Normal(preset, torch.device("cpu"))(image)[0, :, 0, 0]
        for name, preset in planar.PRESETS.items()
    }
    assert values["paper2d"][0] == pytest.approx((1 - 0.485) / 0.229)
    assert values["ukan_exact"][2] == pytest.approx((1 - 0.406) / 0.225 / 255)
    assert values["ukan2_exact"].tolist() == pytest.approx([1, 128 / 255, 0])


def test_dividing_by_255_twice_delays_the_norms_by_a_hundred_steps(
    data: ModuleType, planar: ModuleType, busi: Path
) -> None:
    """Running variances begin at 1, and that of what the first norm takes is some 1e-6."""
    images = torch.from_numpy(data.read_pictures(busi, 32, incomplete=True).images[:8])
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    too_large = {}
    for name in ("ukan_exact", "paper2d"):
        values = planar.Normal(planar.PRESETS[name], torch.device("cpu"))(images)
        first[1].reset_running_stats()
        variance = float(first[0](values).var(dim=(0, 2, 3)).mean().detach())
        too_large[name] = []
        for _ in range(120):
            first(values)
            too_large[name].append(float(first[1].running_var.mean() / variance))
    assert too_large["ukan_exact"][15] > 1000
    assert too_large["ukan_exact"][63] > 10
    assert too_large["ukan_exact"][119] < 3
    assert too_large["paper2d"][15] < 10


def test_the_arithmetic_of_a_step_is_that_of_the_published_widths() -> None:
    """70.03 and 68.04 thousand million multiplications per image of 256 pixels with and without the gates."""
    from paper_run import flops_per_step

    for gate, multiplications in (("prosma", 70.03e9), ("none", 68.04e9)):
        step = flops_per_step(ModelSpec(2, 3, 1, WIDTHS["large"], gate), 8, (256, 256))
        assert step == pytest.approx(3 * 2 * 8 * multiplications, rel=1e-3)


def test_a_run_that_is_there_is_not_run_again(paper: ModuleType, busi: Path, tmp_path: Path) -> None:
    settings = ("--models", "unext", "--epochs", "1", "--summary", str(tmp_path / "summary.json"))
    run(paper, busi, tmp_path / "runs", *settings)
    (path,) = (tmp_path / "runs").iterdir()
    first = path.stat().st_mtime_ns
    run(paper, busi, tmp_path / "runs", *settings)
    assert path.stat().st_mtime_ns == first
    result = json.loads(path.read_text())
    assert result["shortened"]
    assert len(result["data"]["reported"]) == 3
    (short,) = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert short["data"]["reported"] == 3
    assert short["selected"] == result["selected"]


def test_the_state_of_the_gates_is_kept_beside_that_on_noise(
    paper: ModuleType, busi: Path, tmp_path: Path
) -> None:
    run(paper, busi, tmp_path, "--epochs", "1", "--models", "prosma-unet", "--threshold", "0.01")
    (epoch,) = only_result(tmp_path)["epochs"]
    assert set(epoch["gates"]) == {"1", "2", "3", "4"}
    for state in epoch["gates"].values():
        assert 0 < state["z_zero_fraction"] < 1
        assert 0 < state["z_zero_fraction_of_noise"] < 1
        assert state["z_zero_fraction_of_noise"] != state["z_zero_fraction"]
        assert state["channel_spread"] > 0
        assert state["lambda_mean"] == pytest.approx(0.01, abs=0.001)


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(
    paper: ModuleType, busi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--models", "unext", "--epochs", "3", "--preset", "paper2d")
    run(paper, busi, tmp_path / "whole", *settings)
    assert "goes on" not in capsys.readouterr().out
    for _ in range(2):  # no time, so an epoch at a time
        run(paper, busi, tmp_path / "cut", *settings, "--minutes", "1e-9")
        assert "the same line goes on" in capsys.readouterr().out
        assert not list((tmp_path / "cut").glob("*.json"))
    run(paper, busi, tmp_path / "cut", *settings, "--minutes", "1e-9")
    whole, cut = (only_result(tmp_path / name)["epochs"] for name in ("whole", "cut"))
    assert len(cut) == 3
    for before, after in zip(whole, cut, strict=True):
        assert (before["loss"], before["reported"]) == (after["loss"], after["reported"])


class Waiting:
    """A task that is halted for a tenth of a second in every epoch, and computes next to nothing."""

    def __init__(self) -> None:
        self.network = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.1)
        self.steps = 1

    def train(self, epoch: int) -> torch.Tensor:
        time.sleep(0.1)
        self.optimizer.step()
        return torch.zeros(())

    def reported(self) -> dict[str, float]:
        return {"iou": 0.5}

    def inner(self) -> dict[str, float]:
        return {}

    def gates(self) -> dict[str, dict[str, float]]:
        return {}


def test_a_budget_does_not_pass_while_a_run_is_halted(benchmarks: None, tmp_path: Path) -> None:
    from paper_run import Length, fit

    result = fit(Waiting(), Length(epochs=5, seconds=0.15), tmp_path / "waiting.part")
    assert result is not None
    assert len(result["epochs"]) == 5
    assert result["seconds"] < 0.4


def test_a_budget_is_shared_by_all_runs_of_a_line(paper: ModuleType, busi: Path, tmp_path: Path) -> None:
    run(paper, busi, tmp_path, "--models", "unext", "unet", "--epochs", "1", "--budget", "4")
    assert all("_minutes2_" in path.name for path in tmp_path.glob("*.json"))
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_another_torch_seed_is_another_run_of_the_same_split(
    paper: ModuleType, busi: Path, tmp_path: Path
) -> None:
    run(paper, busi, tmp_path, "--models", "unext", "--epochs", "1", "--torch-seeds", "1029,7")
    first, second = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json")))
    assert first["data"] == second["data"]
    assert first["epochs"][0]["loss"] != second["epochs"][0]["loss"]


def test_epochs_are_chosen_on_the_reported_and_honestly() -> None:
    from paper_run import selected

    figures = [(0.5, 0.2, 0.9), (0.9, 0.4, 0.5), (0.7, 0.8, 0.7)]
    epochs = [
        {"reported": {"iou": iou}, "inner": {"iou": inner, "loss": loss}} for iou, inner, loss in figures
    ]
    chosen = selected(epochs, "iou")
    assert {how: figures["epoch"] for how, figures in chosen.items()} == {
        "best on the reported": 2,
        "last": 3,
        "best on a part of training": 3,
    }
    assert selected(epochs, "iou", by_loss=True)["best on a part of training"] == {"epoch": 2, "iou": 0.9}


def test_the_preset_of_ukan2_stops_when_the_inner_loss_no_longer_falls(
    paper: ModuleType, busi: Path, tmp_path: Path
) -> None:
    """Nothing is learned at a rate of 1e-12 but the norms' statistics, which settle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paper_planar.RATE", 1e-12)
        patch.setitem(
            sys.modules["paper_planar"].PRESETS,
            "ukan2_exact",
            dataclasses.replace(paper.PRESETS["ukan2_exact"], reported=2, patience=3),
        )
        run(paper, busi, tmp_path, "--models", "unext", "--preset", "ukan2_exact")
    result = only_result(tmp_path)
    losses = [epoch["inner"]["loss"] for epoch in result["epochs"]]
    assert result["stopped early"]
    assert not result["shortened"]
    assert len(losses) - 1 - losses.index(min(losses)) == 3
    assert result["selected"]["best on a part of training"]["epoch"] == losses.index(min(losses)) + 1


def test_a_run_that_diverged_is_told_and_kept(
    paper: ModuleType, busi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.json"
    settings = ("--epochs", "4", "--summary", str(summary), "--models", "unext")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paper_planar.RATE", 1e30)
        run(paper, busi, tmp_path / "runs", *settings)
    run(paper, busi, tmp_path / "runs", *settings, "unet")
    printed = capsys.readouterr().out
    assert "1 of 1 DIVERGED" in printed
    assert "DIVERGED in epoch" in printed
    kept = json.loads(summary.read_text())
    assert [run["diverged"] for run in kept["runs"]] == [True, False]


def decathlon(folder: Path) -> Path:
    """A folder of that layout with a bright block in each of four volumes."""
    random = np.random.default_rng(0)
    cases = []
    for n in range(4):
        image = random.normal(0, 1, (20, 18, 17)).astype(np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[4 : 12 + n, 4:12, 4:12] = 1
        image[label > 0] += 5
        for kind, array in (("imagesTr", image), ("labelsTr", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.2, 1.0])), folder / kind / f"b_{n}.nii.gz")
        cases.append({"image": f"./imagesTr/b_{n}.nii.gz", "label": f"./labelsTr/b_{n}.nii.gz"})
    names = {"0": "background", "1": "block"}
    (folder / "dataset.json").write_text(
        json.dumps({"labels": names, "training": cases, "modality": {"0": "MRI"}})
    )
    return folder


def test_spleen_has_the_grid_and_gray_values_of_its_tutorial(benchmarks: None, tmp_path: Path) -> None:
    from paper_volumes import read_volumes

    folder = decathlon(tmp_path / "Task09_Spleen")
    with pytest.raises(DataError, match="has 4 labelled cases, Task09_Spleen has 41"):
        read_volumes(folder)
    _, plan, name = read_volumes(folder, incomplete=True)
    assert (name, plan.spacing, plan.patch, plan.batch) == ("Task09_Spleen", (2.0, 1.5, 1.5), (96, 96, 96), 8)
    values = normalise(np.array([-1000, -57, 53.5, 164, 900], np.float32).reshape(1, 1, 1, 5), plan)
    assert values.ravel().tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_volumes_are_trained_and_reported_on_their_own_grid(
    paper: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = decathlon(tmp_path / "Task99_Block")
    settings = ["--widths", "quick", "--seeds", "1", "--budget", "1e-9", "--device", "cpu"]
    paper.main(
        ["table2", "--data", str(folder), "--out", str(tmp_path / "runs"), "--models", "unet", *settings]
    )
    result = only_result(tmp_path / "runs")
    assert result["spec"]["out_channels"] == 2
    assert len(result["epochs"]) == 1  # there was time for one, and it is reported though no tenth
    figures = result["selected"]["last"]
    assert 0 < figures["dice"] <= 1
    assert figures["dice_macro"] > figures["dice"] / 2
    with pytest.raises(SystemExit):
        paper.main(["table2", "--data", str(folder), "--out", str(tmp_path), "--models", "unext", *settings])
    assert "network 'unext' is 2D" in capsys.readouterr().err
