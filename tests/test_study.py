"""The study of the gates: its plan, its split, and one tiny run from training to looking, restarted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.case import Case
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.split import split_cases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small ultrasound images with their masks; two of them are the same."""
    for kind in ("images", "masks"):
        (tmp_path / "breast" / kind).mkdir(parents=True)
    for number in range(12):
        case = ultrasound_case(max(1, number), (48, 48))
        assert case.read_label is not None
        PIL.Image.fromarray(case.read_image().array[0]).save(tmp_path / f"breast/images/{number}.png")
        mask = case.read_label() * np.uint8(255)
        PIL.Image.fromarray(mask).save(tmp_path / f"breast/masks/{number}.png")
    return tmp_path / "breast"


@pytest.mark.usefixtures("benchmarks")
def test_every_block_varies_what_it_says() -> None:
    import study

    runs = study.plan_of(study.TRAINED)
    counts = {block: sum(run.block == block for run in runs) for block in study.TRAINED}
    assert counts == {"A": 25, "B": 12, "E": 3}
    assert len({run.name for run in runs}) == len(runs)
    assert {run.arm for run in runs if run.block == "A"} <= set(GATES)
    for run in runs:
        settings = {k: v for k, v in run.settings.items() if k != study.DECAYED}
        config = TrainConfig.of(run_dir=Path("x"), **settings)
        assert config.gate == (run.arm if run.block == "A" else "prosma")
        assert (config.gate_options.norm == "none") == (run.block == "E")


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("seed", [0, 3])
def test_near_duplicates_are_on_one_side_and_the_run_validates_on_the_inner_part(seed: int) -> None:
    import study

    cases = [Case(str(n), lambda: None) for n in range(40)]  # type: ignore[arg-type, return-value]
    clusters = [[str(n), str(n + 1), str(n + 2)] for n in range(0, 30, 3)]
    parts = study.split_of(cases, clusters, seed)
    names = {part: {case.name for case in held} for part, held in parts.items()}
    assert set.union(*names.values()) == {str(n) for n in range(40)}
    assert sum(map(len, names.values())) == 40
    for cluster in clusters:
        assert sum(bool(held & set(cluster)) for held in names.values()) == 1
    assert 8 <= len(names["test"]) <= 10
    ordered, fraction = study._in_order(parts["train"], parts["inner"], seed)
    _, held_out = split_cases(ordered, fraction, seed)
    assert {ordered[n].name for n in held_out} == names["inner"]


@pytest.mark.usefixtures("benchmarks")
def test_a_tiny_study_trains_looks_and_goes_on(folder: Path, tmp_path: Path) -> None:
    import study

    out = tmp_path / "study"
    line = [str(folder), "--out", str(out), "--widths", "quick", "--side", "32", "--cases", "2"]
    fast = ["--epochs", "1", "--steps", "1", "--seeds", "2", "--blocks", "A", "--part"]
    for part in ("2", "3", "4"):  # attention, dense, prosma
        study.main(["train", *line, *fast, part, "5"])
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert {path.stem for path in written} == {
        "clusters",
        *(f"A-{gate}-{seed}" for gate in ("attention", "dense", "prosma") for seed in (0, 1)),
    }
    assert json.loads((out / "clusters.json").read_text())["clusters"] == [["0", "1"]]
    run = json.loads((out / "A-prosma-0.json").read_text())
    assert run["config"]["gate"] == "prosma"
    assert set(run["last"]["cases"]) == set(run["best"]["cases"]) == set(run["split"]["test"])
    assert run["thresholds"]
    assert set(run["lambda"]) == {f"skip{level}" for level in range(1, len(run["thresholds"]) + 1)}
    assert all(epochs == [pytest.approx(0.6931, abs=0.01)] for epochs in run["lambda"].values())
    assert json.loads((out / "A-dense-0.json").read_text())["lambda"] == {}
    study.main(["train", *line, *fast, "4", "5"])
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.json")} == written
    study.main(["look", *line, "--part", "4", "6"])
    look = json.loads((out / "look-A-prosma-0.json").read_text())
    assert len(look["cases"]) == 2
    assert look["weights"] == run["last"]["weights"]
    assert look["beside"] == 1
    assert all(row.keys() == {"image", "strength", "dice"} for row in look["rows"]["noise"])
    assert all(
        row.keys() == {"image", "skip", "selectivity", "z_zero_fraction"} for row in look["rows"]["measures"]
    )
    assert all(look["rows"].values())
    assert {row["randomised"] for row in look["rows"]["seeds"]} >= {"decoder", "another training"}
    assert {row["part"] for row in look["rows"]["means"]} >= {"psi", "c", "both", "c over the images"}
    assert "study" in sys.modules


def unwrapped(lines: Iterable[str]) -> list[str]:
    return "\n".join(lines).replace("\n  ", " ").split("\n")


IMAGES = ("a", "b", "c", "d")


def over_images(value: float, spread: float = 0.01, **columns: object) -> list[dict]:
    """A row per image, with values that lie around one."""
    return [
        {"image": image, **columns, "value": value + spread * (n - 1.5)} for n, image in enumerate(IMAGES)
    ]


def named(rows: list[dict], name: str) -> list[dict]:
    return [{**{k: v for k, v in row.items() if k != "value"}, name: row["value"]} for row in rows]


def written_study(folder: Path, dice: dict[str, float], seeds: int) -> None:
    """Files as the study writes them, of made numbers: every seed is a little higher than the one before."""
    for arm, level in dice.items():
        for seed in range(seeds):
            value = level + 0.01 * seed + 0.001 * (arm == "dense") * (-1) ** seed
            measured = {"epoch": 100, "cases": {"a": {"dice": value}, "b": {"dice": value}}}
            run = {"block": "A", "arm": arm, "seed": seed, "last": measured, "best": measured}
            run["thresholds"] = {"gates.1": 0.6 + 0.1 * seed} if arm == "prosma" else {}
            run["config"] = {"steps_per_epoch": 135, "gate_options": {"threshold": 0.6931}}
            (folder / f"A-{arm}-{seed}.json").write_text(json.dumps(run))
            orders = {"psi": 0.7 + 0.01 * seed, "energy": 0.6, "random": 0.3}
            alike = {"another training": 0.4, "decoder": 0.3 if seed else 0.5}
            rows: dict[str, list] = {
                "measures": named(over_images(0.1, skip=1), "selectivity"),
                "means": named(over_images(0.2 + 0.01 * seed, skip=0, part="psi"), "worth"),
                "noise": [{"image": "a", "strength": s, "dice": value * (1 - s / 2)} for s in (0.0, 1.0)],
                "deletion": [
                    row
                    for order, d in orders.items()
                    for row in named(over_images(d, 0.01 * (order == "psi"), skip=1, order=order), "dice")
                ],
                "seeds": [
                    *(
                        row
                        for what, r in alike.items()
                        for row in named(
                            over_images(r, 0.001 * len(what), skip=1, randomised=what), "correlation"
                        )
                    ),
                    {"image": "a", "skip": 2, "randomised": "decoder"},
                ],
            }
            look = {"run": f"A-{arm}-{seed}", "arm": arm, "seed": seed, "rows": rows}
            (folder / f"look-A-{arm}-{seed}.json").write_text(json.dumps(look))


@pytest.mark.usefixtures("benchmarks")
def test_the_page_of_the_study_claims_what_its_seeds_show(tmp_path: Path) -> None:
    import study_page

    written_study(tmp_path, {"prosma": 0.7, "dense": 0.7, "none": 0.5}, seeds=5)
    found = study_page.summary(tmp_path)
    dense, none = (row for row in found["arms"] if row["arm"] != "prosma")
    assert none["difference"]["mean"] == pytest.approx(0.2)
    assert none["last"] == pytest.approx(0.52)
    # Student's interval over five seeds, for the four comparisons of the plan, wider as splits share images.
    values = [-0.001, 0.001, -0.001, 0.001, -0.001]
    reach = 4.3147 * np.std(values, ddof=1) * np.sqrt(1 / 5 + 0.2 / 0.65)
    assert dense["difference"]["low"] == pytest.approx(np.mean(values) - reach, rel=1e-3)
    lines = unwrapped(study_page.in_lines(found))
    for line in (
        "- With `prosma`, lambda started at 0.693 and ended at 0.600 to 1.000 (means per skip).",
        "- Dice is higher with `prosma` than with `none`: +0.200 (+0.200 to +0.200).",
        "- Setting psi to its mean in all skips of `prosma` costs Dice in 5 of 5 trainings (+0.220 on "
        "average).",
        "| `none` | 5 | 0.520 | 0.520 | `prosma`, 0.720 | +0.200 (+0.200 to +0.200) |",
        "| `prosma` | psi | +0.220 | 5 of 5 |",
        "- psi of `prosma` is shown to order positions better than the best control in 5 of 5 skips of 5 "
        "trainings.",
        "- psi of `prosma` is shown to be more alike between two trainings than with a redrawn decoder in 4 "
        "of 5 skips of 5 trainings, and to be less alike in 1.",
        "| `prosma` | 1 | 10.0 % | +0.120 | 5 of 5 | 0.40 | 0.34 | 4 of 5, the opposite in 1 |",
    ):
        assert line in lines
    said = " ".join(lines)
    assert "| `none` | 5 | 0.750 | `prosma`, 0.750 | " in said
    assert "No difference in Dice is shown between `prosma` and `dense`: " in said
    assert (
        "No difference in the share of Dice left under noise is shown between `prosma` and `dense`: " in said
    )
    assert "nan" not in said


@pytest.mark.usefixtures("benchmarks")
def test_a_training_is_judged_by_clusters_of_its_images(tmp_path: Path) -> None:
    import study_page

    written_study(tmp_path, {"prosma": 0.7}, seeds=1)
    path = tmp_path / "look-A-prosma-0.json"
    look = json.loads(path.read_text())
    look["rows"]["means"] = named(over_images(0.2, skip=0, part="psi"), "worth")
    path.write_text(json.dumps(look))
    (tmp_path / "clusters.json").write_text(json.dumps({"clusters": [["a", "b", "c"]]}))
    (gate,) = study_page.summary(tmp_path)["gates"]
    # Two units: their interval for twelve comparisons reaches far below 0.
    assert gate["worth"]["psi"] == {"mean": pytest.approx(0.205), "of": 1, "in": 0, "below": 0}
    (tmp_path / "clusters.json").write_text(json.dumps({"clusters": []}))
    (gate,) = study_page.summary(tmp_path)["gates"]
    assert gate["worth"]["psi"] == {"mean": pytest.approx(0.2), "of": 1, "in": 1, "below": 0}


@pytest.mark.usefixtures("benchmarks")
def test_every_table_counts_the_comparisons_of_the_plan() -> None:
    import study
    import study_page

    arms = {block: {run.arm for run in study.plan_of([block])} for block in study.TRAINED}
    assert len(arms["A"] - {"prosma"}) == study_page.AT_ONCE["A"] == study_page.AT_ONCE["noise"]
    assert len(arms["B"]) + len(arms["E"]) == study_page.AT_ONCE["BE"]
    assert pytest.approx(study.TEST / (1 - study.TEST - study.INNER)) == study_page.SHARED
    for run in study_page.read_study(study_page.STUDY).runs:
        parts = {part: len(names) for part, names in run["split"].items()}
        assert pytest.approx(parts["test"] / parts["train"], rel=0.05) == study_page.SHARED
    looks = study_page.summary(study_page.STUDY)["gates"]
    of_one = [len(study_page.SET_TO_MEANS) + 2 * len(gate["skips"]) for gate in looks]
    assert set(of_one) == {study_page.AT_ONCE["training"]}
    assert set(study_page.CONTROL_OF) <= arms["B"]
    assert {control for _, control in study_page.CONTROL_OF.values()} <= arms["B"]


@pytest.mark.usefixtures("benchmarks")
def test_an_arm_of_another_block_stands_beside_what_it_differs_from(tmp_path: Path) -> None:
    import study_page

    written_study(tmp_path, {"prosma": 0.7}, seeds=3)
    for path in sorted(tmp_path.glob("A-*.json")):
        run = json.loads(path.read_text()) | {"block": "B", "arm": "start 0.1"}
        run |= {
            "thresholds": {"gates.1": 0.12},
            "config": {"steps_per_epoch": 135, "gate_options": {"threshold": 0.1}},
        }
        run["last"] = {"cases": {"a": {"dice": run["last"]["cases"]["a"]["dice"] - 0.1}}}
        (tmp_path / path.name.replace("A-prosma", "B-start 0.1")).write_text(json.dumps(run))
        run |= {"arm": "decay on theta"}
        (tmp_path / path.name.replace("A-prosma", "B-decay")).write_text(json.dumps(run))
        measures = [{"image": "a", "skip": skip, "z_zero_fraction": skip / 25} for skip in (1, 2)]
        look = {"run": f"B-start 0.1-{run['seed']}", "arm": "start 0.1", "seed": run["seed"]}
        look["rows"] = {"measures": measures}
        (tmp_path / f"look-{look['run']}.json").write_text(json.dumps(look))
    printed = json.loads((tmp_path / "A-prosma-0.json").read_text()) | {"block": "E", "arm": "printed"}
    printed |= {"config": {"steps_per_epoch": 135, "gate_options": {"threshold": 0.6931, "norm": "none"}}}
    printed |= {"thresholds": {"gates.1": 0.15}, "lambda": {"skip1": [0.125, 0.15]}}
    (tmp_path / "E-printed-0.json").write_text(json.dumps(printed))
    lines = unwrapped(study_page.in_lines(study_page.summary(tmp_path)))
    for line in (
        "- With `start 0.1`, lambda started at 0.100 and ended at 0.120 (means per skip); 4 to 8 % of the "
        "entries of z are zero on test images.",
        # Without norms the start is not the setting's.
        "- With `printed`, lambda started at the median of |u| on the first batch, was 0.125 after 135 steps "
        "and ended at 0.150 (means per skip).",
        "- Dice is higher with `prosma` than with `start 0.1`: +0.100 (+0.100 to +0.100).",
        "- No difference in Dice is shown between `start 0.1` and `decay on theta`: +0.000 (+0.000 to "
        "+0.000).",
        # An arm that is not complete takes no seed from the others, and stands beside its own seeds.
        "| `start 0.1` | 3 | 0.610 | 0.710 | `prosma`, 0.710 | +0.100 (+0.100 to +0.100) |",
        "| `printed` | 1 | 0.700 | 0.700 | `prosma`, 0.700 | +0.000, no interval |",
    ):
        assert line in lines


@pytest.mark.usefixtures("benchmarks")
def test_arms_are_compared_on_the_seeds_that_all_of_them_have(tmp_path: Path) -> None:
    import study_page

    written_study(tmp_path, {"prosma": 0.7, "none": 0.5}, seeds=3)
    (tmp_path / "A-prosma-2.json").unlink()
    found = study_page.summary(tmp_path)
    assert [(row["arm"], row["seeds"]) for row in found["arms"]] == [("prosma", 2), ("none", 2)]
    assert found["arms"][1]["last"] == pytest.approx(0.505)


@pytest.mark.usefixtures("benchmarks")
def test_the_section_of_the_results_page_is_that_of_its_files() -> None:
    import study_page

    page = study_page.PAGE.read_text()
    assert study_page.SECTION.search(page)
    assert study_page.filled(page) == page


@pytest.mark.usefixtures("benchmarks")
def test_what_was_looked_at_is_the_model_of_its_run() -> None:
    import study_page

    study = study_page.read_study(study_page.STUDY)
    weights = {run["run"]: run["last"]["weights"] for run in study.runs}
    looks = [look for look in study.looks if "weights" in look]
    assert looks
    assert all(look["weights"] == weights[look["run"]] for look in looks)


@pytest.mark.usefixtures("benchmarks")
def test_looks_at_other_seeds_are_not_compared(tmp_path: Path) -> None:
    import study_page

    written_study(tmp_path, {"prosma": 0.7, "dense": 0.7}, seeds=2)
    (tmp_path / "look-A-prosma-0.json").unlink()
    (tmp_path / "look-A-dense-1.json").unlink()
    look = json.loads((tmp_path / "look-A-dense-0.json").read_text())
    look["rows"]["means"] = named(over_images(-0.1, skip=0, part="psi"), "worth")
    (tmp_path / "look-A-dense-0.json").write_text(json.dumps(look))
    text = "\n".join(unwrapped(study_page.in_lines(study_page.summary(tmp_path))))
    assert "| `dense` | 1 | 0.750 |  | no seed in common |" in text
    assert (
        "Setting psi to its mean in all skips of `dense` is not shown to cost Dice in the only training, "
        "and gains some in 1 (-0.100 on average)."
    ) in text
    assert "nan" not in text


@pytest.mark.usefixtures("benchmarks")
def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    import study_page

    written_study(tmp_path, {"prosma": 0.7, "none": 0.1}, seeds=1)
    said = " ".join(unwrapped(study_page.in_lines(study_page.summary(tmp_path))))
    assert "Dice with `prosma` and with `none`: too few seeds in common (1) to claim anything." in said
    assert "Dice is higher" not in said
    assert "of `prosma` costs Dice in the only training (+0.200 on average)" in said
    assert (
        "is not shown to be more alike between two trainings than with a redrawn decoder in any of 1 skip of "
        "1 training, but shown to be less alike in 1."
    ) in said


@pytest.mark.usefixtures("benchmarks")
def test_decay_reaches_theta_alone_and_only_meanwhile() -> None:
    import study
    import torch

    from napari_prosma.nn.build import build_model
    from napari_prosma.nn.spec import ModelSpec
    from napari_prosma.training import learner

    before = learner.make_optimizer
    network = build_model(ModelSpec(2, 1, 1, (4, 6, 8)))
    with study.decayed_theta():
        learner.make_optimizer(network, TrainConfig.of(run_dir=Path("x")))
    assert learner.make_optimizer is before
    theta = network.gate(1).spatial.theta  # type: ignore[union-attr, operator]
    with torch.no_grad():
        theta.fill_(-2.0)
    (theta * 0).sum().backward()
    assert torch.allclose(theta.grad, torch.full_like(theta, -2.0 * study.DECAY))
    weight = network.head.weight
    (weight * 0).sum().backward()
    assert not weight.grad.any()
