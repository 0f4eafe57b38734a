"""What is measured on this machine is remembered, and changes no result from one time to the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case, Image
from napari_prosma.errors import DataError
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Started
from napari_prosma.geometry import Geometry
from napari_prosma.model import tuning
from napari_prosma.model.applying import Segmentation
from napari_prosma.model.checkpoint import LAST, Checkpoint, load_checkpoint
from napari_prosma.model.passes import Work
from napari_prosma.model.tuning import (
    CACHE,
    Execution,
    Measured,
    computing,
    known_execution,
    tune,
    works_of,
)
from napari_prosma.model.windows import unwrap
from napari_prosma.nn.build import LAYOUTS, USUAL_LAYOUT, Layout, Network, build_model, lay_out
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

CPU = torch.device("cpu")
WORK = Work("forward", ModelSpec(2, 1, 1, (4, 6, 8)), (1, 1, 16, 16), CPU)
USUAL = Execution(USUAL_LAYOUT[2])
MEASURED = Measured(layout="contiguous", seconds={"contiguous": 0.3})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's measurements are remembered; not there yet."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuning.json"


def tuned(work: Work) -> None:
    """Let ``work`` be measured and remembered."""
    assert isinstance(list(tune([work]))[-1], Finished)


def remember(file: Path, work: Work, layout: Layout, seconds: dict[Layout, float] | None = None) -> None:
    """Let ``work`` have been measured with this layout as the faster one."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({work.key: {"layout": layout, "seconds": seconds or {}}}))


def unusual(work: Work) -> Layout:
    return next(layout for layout in LAYOUTS if layout != USUAL_LAYOUT[work.spec.dims])


# ---- what is chosen ---------------------------------------------------------------------------------------


def test_nothing_is_measured_unless_it_is_asked_for(file: Path) -> None:
    assert known_execution(WORK, 1e9) == USUAL
    assert not file.exists()


@pytest.mark.parametrize("dims", [2, 3])
def test_what_was_measured_is_used(file: Path, dims: int) -> None:
    work = replace(WORK, spec=ModelSpec(dims, 1, 1, (4, 6, 8)), shape=(2, 1, *(16,) * dims))
    tuned(work)
    found = json.loads(file.read_text())[work.key]
    assert set(found["seconds"]) == set(LAYOUTS)
    assert known_execution(work, 1) == Execution(found["layout"])
    remember(file, work, unusual(work))
    assert known_execution(work, 1) == Execution(unusual(work))


@pytest.mark.parametrize(
    "other",
    [
        replace(WORK, kind="step"),
        replace(WORK, shape=(2, 1, 16, 16)),
        replace(WORK, spec=ModelSpec(2, 1, 1, (4, 6, 10))),
        replace(WORK, spec=ModelSpec(2, 1, 1, (4, 6, 8), gate="none")),
        replace(WORK, precision="bf16-mixed"),
    ],
)
def test_other_work_is_measured_by_itself(other: Work) -> None:
    assert other.key != WORK.key


def test_a_panel_and_a_shell_go_by_one_measurement() -> None:
    """They compute with as many threads as there are cores, and with one less."""
    key, threads = WORK.key, torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert WORK.key == key
    finally:
        torch.set_num_threads(threads)


def test_panels_that_measure_at_once_lose_nothing(file: Path) -> None:
    def remember(who: str) -> None:
        for n in range(20):
            tuning._remember(file, {f"{who} {n}": MEASURED})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(remember, "abc"))
    assert len(tuning.remembered(file)) == 60


def test_what_another_version_remembers_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({"theirs": {"layout": "contiguous", "seconds": {}, "more": 1}}))
    tuning._remember(file, {"ours": MEASURED})
    assert set(tuning.remembered(file)) == {"ours"}
    assert set(json.loads(file.read_text())) == {"ours", "theirs"}


def test_what_cannot_be_measured_is_as_usual(file: Path) -> None:
    vast = replace(WORK, shape=(1, 1, 2**21, 2**21))
    *said, finished = tune([vast])
    assert finished == Finished({})
    assert any("could not be measured" in str(event) for event in said)
    assert known_execution(vast, 1e9) == USUAL


def test_measuring_takes_no_random_numbers(file: Path) -> None:
    before = torch.get_rng_state()
    tuned(replace(WORK, kind="step", spec=ModelSpec(2, 1, 1, (4, 6, 8), network="unext")))
    assert torch.equal(torch.get_rng_state(), before)


def test_compiled_is_what_gives_back_its_time() -> None:
    found = Measured(layout="contiguous", seconds={"contiguous": 0.3}, compiled=0.2, compiling=60)
    assert found.execution(500, np.inf) == Execution("contiguous")
    assert found.execution(700, np.inf) == Execution("contiguous", 60)
    assert found.execution(700, 150) == Execution("contiguous")  # ended by its time, after 500 passes
    slower = found.model_copy(update={"compiled": 0.4})
    assert slower.execution(1e9, np.inf) == Execution("contiguous")


def test_layouts_agree_to_rounding() -> None:
    for dims in (2, 3):
        network = build_model(ModelSpec(dims, 1, 1, (4, 6, 8))).eval()
        image, found = torch.randn(1, 1, *(16,) * dims), []
        for layout in LAYOUTS:
            lay_out(network, dims, layout)
            weight = network.get_submodule("encoder.1.body.0").weight
            assert weight.is_contiguous() == (layout == "contiguous")
            with torch.no_grad():
                found.append(network(image))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


# ---- the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda t: t[: len(t) // 2], lambda t: t.replace("channels", "odd"), str])
def test_a_damaged_file_is_as_none(file: Path, damage: Callable[[str], str]) -> None:
    remember(file, WORK, "channels-last")
    file.write_text(damage(file.read_text()) if damage is not str else "[]")
    assert known_execution(WORK, 1) == USUAL
    tuned(WORK)
    assert WORK.key in json.loads(file.read_text())


def test_where_nothing_can_be_remembered_all_is_as_usual_and_tuning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    assert known_execution(WORK, 1) == USUAL
    with pytest.raises(DataError, match=r"tuning\.json"):
        tuned(WORK)


def test_an_empty_name_of_the_folder_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "")
    tuned(WORK)
    assert known_execution(WORK, 1) == USUAL


def test_tuning_measures_again_and_replaces_what_was_remembered(file: Path) -> None:
    remember(file, WORK, "contiguous", dict.fromkeys(LAYOUTS, 1e6))
    tuned(WORK)
    found = json.loads(file.read_text())[WORK.key]
    assert max(found["seconds"].values()) < 1e3


# ---- a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, settings: Callable[..., TrainConfig]) -> TrainConfig:
    return settings(tmp_path / "run", widths=(4, 6, 8), epochs=3, patch=(16, 16), batch=2)


def after(
    config: TrainConfig, cases: list[Case], epochs: int, resumed: Checkpoint | None = None
) -> Checkpoint:
    """What is kept after the run has had so many epochs."""
    with closing(train(config, cases, resumed=resumed)) as events:
        for event in events:
            if isinstance(event, EpochEnd) and event.epoch == epochs:
                break
    return load_checkpoint(config.run_dir / LAST)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


def test_a_run_goes_on_as_it_computed_also_on_another_machine(
    file: Path, config: TrainConfig, ultrasound: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = after(config.model_copy(update={"run_dir": config.run_dir.with_name("usual")}), ultrasound, 3)
    work = works_of(usual, "cpu")[1]
    remember(file, work, unusual(work))
    whole = after(config.model_copy(update={"run_dir": config.run_dir.with_name("whole")}), ultrasound, 3)
    assert whole.place["layout"] != USUAL_LAYOUT[2]
    half = after(config, ultrasound, 1)
    monkeypatch.setenv(CACHE, "")
    assert same(after(config, ultrasound, 3, half), whole)
    assert not same(usual, whole)


def test_a_run_from_before_layouts_were_kept_goes_on_as_usual(
    file: Path, config: TrainConfig, ultrasound: list[Case]
) -> None:
    whole = after(config, ultrasound, 2)
    half = after(config, ultrasound, 1)
    for name in ("layout", "compiling"):
        del half.place[name]
    assert same(after(config, ultrasound, 2, half), whole)
    assert not file.exists()


# ---- a segmentation ---------------------------------------------------------------------------------------


def segmented(checkpoint: Checkpoint, slices: int) -> Segmentation:
    stack = np.random.default_rng(0).normal(size=(1, slices, 16, 16)).cumsum(axis=-1).astype(np.float32)
    image = Image(stack, Geometry((1.0,) * 3, (0.0,) * 3, "mm"))
    finished = list(segment(checkpoint, image, device="cpu"))[-1]
    assert isinstance(finished, Finished)
    return finished.result


def test_the_same_image_gives_the_same_mask_each_time(
    file: Path, make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(patch=(16, 16))
    usual = segmented(checkpoint, 20)
    work = works_of(checkpoint, "cpu")[0]
    remember(file, work, unusual(work))
    first, again = segmented(checkpoint, 20), segmented(checkpoint, 20)
    assert np.array_equal(first.probabilities, again.probabilities)
    assert not np.array_equal(usual.probabilities, first.probabilities)
    np.testing.assert_allclose(usual.probabilities, first.probabilities, atol=1e-5)


# ---- compiled ---------------------------------------------------------------------------------------------


def made(model: Network | Ensemble, work: Work) -> tuple[Network | Ensemble, list[Event]]:
    """The model as ``computing`` makes it, without a compiler's minute, and what was said until then."""

    def pull() -> Iterator[Event]:
        found.append((yield from computing(model, work, Execution("contiguous", 2.0))))

    found: list[Network | Ensemble] = []
    with torch.compiler.set_stance("force_eager"):
        said = list(pull())
    return found[0], said


@pytest.mark.parametrize("members", [1, 2])
def test_what_is_compiled_is_the_same_model(members: int) -> None:
    networks = [build_model(WORK.spec).eval() for _ in range(members)]
    model = networks[0] if members == 1 else Ensemble(networks)
    compiled, said = made(model, WORK)
    assert compiled is not model
    assert unwrap(compiled).spec == WORK.spec
    assert isinstance(said[0], Started)
    image = torch.randn(WORK.shape)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        assert torch.equal(compiled(image), model(image))


def test_what_cannot_be_compiled_computes_as_it_is() -> None:
    network = build_model(WORK.spec).eval()
    found, said = made(network, replace(WORK, shape=(1, 2, 16, 16)))  # a channel too many fails, too
    assert found is network
    assert isinstance(said[-1], Notice)
    assert "could not be compiled" in said[-1].message


def test_tuning_tells_what_compiling_brings(file: Path) -> None:
    with torch.compiler.set_stance("force_eager"):
        *_, finished = tune([WORK], compiled=True)
    assert isinstance(finished, Finished)
    assert 0 < finished.result[WORK].compiled < 10
    kept = json.loads(file.read_text())[WORK.key]
    assert (kept["compiled"], kept["compiling"]) == (
        finished.result[WORK].compiled,
        finished.result[WORK].compiling,
    )


# ---- fused gates ------------------------------------------------------------------------------------------


def test_fused_gates_are_used_only_where_they_beat_both_other_ways() -> None:
    found = Measured(layout="contiguous", seconds={"contiguous": 0.3}, fused=0.1)
    assert not found.execution(1e9, np.inf).fused  # nobody knows what compiling would bring
    assert found.model_copy(update={"compiled": 0.2}).execution(1, np.inf) == Execution(
        "contiguous", fused=True
    )
    assert found.model_copy(update={"compiled": 0.05}).execution(1e9, np.inf) == Execution("contiguous", 1.0)
    assert not found.model_copy(update={"compiled": 0.4, "fused": 0.3}).execution(1e9, np.inf).fused
    assert "with fused gates 100 ms" in found.in_words()


@pytest.fixture
def interpreted() -> None:
    """Fused gates can be tried here: Triton's interpreter computes them."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Triton computes for CUDA here")


@pytest.mark.parametrize("kind", ["forward", "step"])
def test_tuning_tells_what_fused_gates_bring_and_a_run_uses_it(
    kind: str, interpreted: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = replace(WORK, kind=kind, spec=ModelSpec(2, 1, 1, (4, 6, 8)))
    with torch.compiler.set_stance("force_eager"):
        *_, finished = tune([work], compiled=True)
    assert isinstance(finished, Finished)
    assert 0 < finished.result[work].fused < 10
    kept = json.loads(file.read_text())[work.key]
    assert kept["fused"] == finished.result[work].fused
    file.write_text(json.dumps({work.key: {**kept, "fused": 1e-6}}))
    assert known_execution(work, 1).fused


def test_nothing_is_fused_where_a_gate_has_no_such_end(interpreted: None, file: Path) -> None:
    work = replace(WORK, spec=ModelSpec(2, 1, 1, (4, 6, 8), gate="attention"))
    with torch.compiler.set_stance("force_eager"):
        *_, finished = tune([work], compiled=True)
    assert isinstance(finished, Finished)
    assert finished.result[work].fused is None


@pytest.mark.parametrize("fault", ["wrong", "failing"])
def test_fused_gates_that_are_wrong_or_fail_are_told_and_not_used(
    fault: str, interpreted: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_prosma.nn.fast import tail

    joined = tail.joined

    def faulty(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if fault == "failing":
            raise RuntimeError("out of resources")
        both, psi = joined(*given)
        return both * 1.1, psi

    monkeypatch.setattr(tail, "joined", faulty)
    with torch.compiler.set_stance("force_eager"):
        *said, finished = tune([replace(WORK, spec=ModelSpec(2, 1, 1, (4, 6, 8)))], compiled=True)
    assert isinstance(finished, Finished)
    assert [one.fused for one in finished.result.values()] == [None]
    told = [event.message for event in said if isinstance(event, Notice)]
    assert any({"wrong": "they are not used", "failing": "out of resources"}[fault] in one for one in told)


def with_fused_gates(file: Path, work: Work) -> None:
    """Let fused gates have been measured as the fastest way."""
    measured = Measured(layout=USUAL.layout, seconds={USUAL.layout: 1.0}, compiled=1.0, fused=0.1)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({work.key: measured.model_dump(mode="json")}))


def test_a_segmentation_with_fused_gates_is_the_same(
    interpreted: None, file: Path, make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(patch=(16, 16))
    usual = segmented(checkpoint, 2)
    with_fused_gates(file, works_of(checkpoint, "cpu")[0])
    from napari_prosma.nn.fast import tail

    calls, joined = [], tail.joined
    monkeypatch.setattr(tail, "joined", lambda *given: calls.append(1) or joined(*given))
    fused = segmented(checkpoint, 2)
    assert calls
    np.testing.assert_allclose(usual.probabilities, fused.probabilities, atol=1e-5)


def test_a_run_learns_with_fused_gates_goes_on_with_them_and_without_where_they_fail(
    interpreted: None,
    file: Path,
    config: TrainConfig,
    ultrasound: list[Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_prosma.nn.fast import tail

    config = config.model_copy(update={"epochs": 2, "steps_per_epoch": 1})
    usual = after(config.model_copy(update={"run_dir": config.run_dir.with_name("usual")}), ultrasound, 1)
    with_fused_gates(file, works_of(usual, "cpu")[1])
    half = after(config, ultrasound, 1)
    assert half.place["fused"]
    for name, weight in usual.weights.items():
        torch.testing.assert_close(half.weights[name], weight, rtol=1e-3, atol=1e-4)

    def failing(*given: torch.Tensor) -> None:
        raise RuntimeError("out of resources")

    monkeypatch.setattr(tail, "joined", failing)
    said = list(train(config, ultrasound, resumed=half))
    assert any(isinstance(event, Notice) and "kernel of the gates failed" in event.message for event in said)
    assert isinstance(said[-1], Finished)
    assert not load_checkpoint(config.run_dir / LAST).place["fused"]
