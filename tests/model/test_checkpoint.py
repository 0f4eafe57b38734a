"""One file holds a model whole; whatever else lies there is refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from napari_prosma.data.readers import read_label
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import CheckpointError, DataError
from napari_prosma.events import Event
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import (
    FORMAT,
    Checkpoint,
    ensemble_of,
    load_checkpoint,
    save_checkpoint,
)
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.config import TrainConfig

Make = Callable[..., Checkpoint]


@pytest.fixture
def written(make_checkpoint: Make, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, make_checkpoint())
    return path


def rewrite(path: Path, header: Callable[[dict], object] = dict, **tensors: torch.Tensor | None) -> None:
    """Write the file again with a changed header, and tensors replaced (None: left out)."""
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        stored = json.loads(file.metadata()["prosma"])
    for name, tensor in tensors.items():
        held.pop(name, None)
        if tensor is not None:
            held[name] = tensor
    save_file(held, path, metadata={"prosma": json.dumps(header(stored))})


@pytest.mark.parametrize("gate", ["prosma", "prosma-exact", "attention", "none"])
def test_a_checkpoint_comes_back_bit_for_bit(gate: str, make_checkpoint: Make, tmp_path: Path) -> None:
    before = replace(
        make_checkpoint(gate, dims=3, classes=("background", "a", "b"), spacing=(3.3, 0.1 + 0.2, 1 / 3)),
        config=TrainConfig(run_dir=tmp_path, learning_rate=1 / 3).model_dump(mode="json"),
        metrics={"dice": 1 / 3},
        split={"training": ["ä 1", "b"], "validation": ["c"]},
        epoch=7,
    )
    save_checkpoint(tmp_path / "model.safetensors", before)
    after = load_checkpoint(tmp_path / "model.safetensors")
    for name in ("spec", "plan", "config", "epoch", "metrics", "split"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.weights.keys() == before.weights.keys()
    for name, tensor in before.weights.items():
        assert torch.equal(after.weights[name], tensor), name
        assert after.weights[name].dtype == tensor.dtype
    assert after.path == tmp_path / "model.safetensors"


def test_a_run_writes_its_whole_configuration_and_split(trained: tuple[Path, list[Event]]) -> None:
    run_dir, _ = trained
    found = load_checkpoint(run_dir / "last.safetensors")
    config = TrainConfig(**found.config)
    assert config.run_dir == run_dir
    assert config.widths == (8, 16, 32)
    assert len(found.split["training"]) == 4
    assert len(found.split["validation"]) == 2
    assert found.plan.class_names == ("background", "lesion")


def test_a_built_network_is_in_evaluation_mode_and_answers_as_before(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    before = make_checkpoint()
    save_checkpoint(tmp_path / "m.safetensors", before)
    image = torch.linspace(-2, 2, 1024).sin().view(1, 1, 32, 32)
    networks = [before.build(), load_checkpoint(tmp_path / "m.safetensors").build()]
    assert not any(network.training for network in networks)
    with torch.no_grad():
        first, second = (network(image) for network in networks)
    assert torch.equal(first, second)


def test_a_run_folder_gives_its_best_and_else_its_last(make_checkpoint: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.safetensors", make_checkpoint(epoch=5))
    assert load_checkpoint(tmp_path).epoch == 5
    save_checkpoint(tmp_path / "best.safetensors", make_checkpoint(epoch=2))
    assert load_checkpoint(str(tmp_path)).epoch == 2


# ---- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_file_cut_short_is_refused(kept: float, written: Path) -> None:
    content = written.read_bytes()
    written.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is no checkpoint or is cut short"):
        load_checkpoint(written)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are not weights, " * 100)
    with pytest.raises(CheckpointError, match=r"notes\.txt' is no checkpoint"):
        load_checkpoint(path)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"other\.safetensors' is a safetensors file but no ProSMA"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors' does not exist"):
        load_checkpoint(tmp_path / "gone.safetensors")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"head.bias": None}, "lacks the tensor 'head.bias'"),
        ({"extra.weight": torch.zeros(1)}, "holds a tensor 'extra.weight'"),
        ({"head.bias": torch.zeros(3)}, r"'head.bias' is torch.float32 of shape \(3,\).*needs.*\(1,\)"),
        ({"head.bias": torch.zeros(1, dtype=torch.float64)}, "'head.bias' is torch.float64"),
    ],
)
def test_tensors_that_do_not_fit_the_network_are_named(tensors: dict, words: str, written: Path) -> None:
    rewrite(written, **tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(written)
    assert str(written) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: {**header, "format": FORMAT + 1}, "newer version"),
        (lambda header: {**header, "format": "one"}, "damaged"),
        (lambda header: [header], "damaged"),
        (lambda header: {k: v for k, v in header.items() if k != "plan"}, "damaged.*plan"),
        (lambda header: {**header, "plan": {**header["plan"], "patch": [32]}}, "damaged.*patch"),
        (lambda header: {**header, "spec": {**header["spec"], "gate": "garden"}}, "damaged.*garden"),
        (lambda header: {**header, "spec": {**header["spec"], "widths": []}}, "damaged.*widths"),
        (
            lambda header: {**header, "plan": {**header["plan"], "channels": 3}},
            "network and its plan disagree",
        ),
    ],
)
def test_a_damaged_or_newer_header_is_refused(change: Callable, words: str, written: Path) -> None:
    rewrite(written, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(written)
    assert str(written) in str(caught.value)


def test_a_file_that_goes_on_behind_its_tensors_is_not_read(written: Path) -> None:
    os.truncate(written, 2**40)
    with pytest.raises(CheckpointError, match="longer than its tensors"):
        load_checkpoint(written)


def test_a_newer_file_is_called_newer_even_where_it_is_cut_short(written: Path) -> None:
    rewrite(written, lambda header: {**header, "format": FORMAT + 1})
    written.write_bytes(written.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="newer version"):
        load_checkpoint(written)


@pytest.mark.parametrize("header", ["{", "", "[" * 100_000])
def test_a_header_that_is_no_json_is_refused(header: str, written: Path) -> None:
    save_file({"a": torch.zeros(1)}, written, metadata={"prosma": header})
    with pytest.raises(CheckpointError, match=r"header of .* is damaged"):
        load_checkpoint(written)


DAMAGE = hypothesis_settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def opens_or_is_refused(path: Path) -> None:
    """Any other error than ours goes through."""
    with suppress(CheckpointError):
        load_checkpoint(path).build()


@given(data=st.data())
@DAMAGE
def test_a_byte_changed_in_the_header_never_ends_in_a_traceback(data: st.DataObject, written: Path) -> None:
    content = bytearray(written.read_bytes())
    position = data.draw(st.integers(0, 7 + int.from_bytes(content[:8], "little")))
    content[position] = data.draw(st.sampled_from(b'0123456789-.[]{},:e"') | st.integers(0, 255))
    damaged = written.with_name("damaged.safetensors")
    damaged.write_bytes(content)
    opens_or_is_refused(damaged)


def places(value: object) -> Iterator[tuple]:
    """The way to every value in a header."""
    inner = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    for key, held in inner:
        yield (key,)
        yield from ((key, *rest) for rest in places(held))


ODD = [
    None,
    True,
    -1,
    0,
    2,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    [0],
    [1] * 40,
    {},
    {"a": 1},
]


@given(data=st.data())
@DAMAGE
def test_a_value_changed_in_the_header_never_ends_in_a_traceback(data: st.DataObject, written: Path) -> None:
    def change(header: dict) -> dict:
        header["place"] = {"step": 4, "losses": [0.5], "best": 0.1, "seconds": 2.0}
        *way, last = data.draw(st.sampled_from(list(places(header))))
        held = header
        for key in way:
            held = held[key]
        held[last] = data.draw(st.sampled_from(ODD))
        return header

    content = written.read_bytes()
    rewrite(written, change)
    opens_or_is_refused(written)
    written.write_bytes(content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 0),
        ("epoch", -1),
        ("epoch", None),
        ("config", []),
        ("metrics", {"dice": "good"}),
        ("split", {"training": "a"}),
        ("place", {"step": 4}),
        ("place", {"step": -4, "losses": [], "best": 0.0, "seconds": 0.0}),
        ("place", {"step": 4, "losses": 1, "best": 0.0, "seconds": 0.0}),
        ("place", {"step": 4, "losses": [], "best": 0.0, "seconds": float("nan")}),
    ],
)
def test_a_wrong_field_of_the_header_is_named(field: str, value: object, written: Path) -> None:
    rewrite(written, lambda header: {**header, field: value})
    with pytest.raises(CheckpointError, match=f"the header of .* is damaged .*{field}"):
        load_checkpoint(written)


def test_opening_a_pickle_runs_no_code(tmp_path: Path) -> None:
    torch.save({"weights": np.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "model.pt")


# ---- averages and ensembles --------------------------------------------------------------------------------


def test_weights_that_are_trained_lie_beside_their_average_and_must_fit_too(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    average, raw = make_checkpoint(), make_checkpoint(seed=4)
    path = tmp_path / "last.safetensors"
    held = replace(average, state={f"raw.{name}": tensor for name, tensor in raw.weights.items()})
    save_checkpoint(path, held)
    found = load_checkpoint(path)
    assert torch.equal(found.weights["head.weight"], average.weights["head.weight"])
    assert torch.equal(found.state["raw.head.weight"], raw.weights["head.weight"])
    rewrite(path, **{"state.raw.head.weight": torch.zeros(3)})
    with pytest.raises(
        CheckpointError, match=r"the tensor 'raw\.head\.weight' is torch.float32 of shape \(3,\)"
    ):
        load_checkpoint(path)


@pytest.fixture
def ensemble(make_checkpoint: Make) -> Checkpoint:
    members = [
        replace(
            make_checkpoint(seed=seed, epoch=seed),
            metrics={"dice": seed / 10},
            split={"training": ["a", "b", "c"][:seed], "validation": ["d"]},
        )
        for seed in (1, 2, 3)
    ]
    return ensemble_of(members, {"seed": 5})


@torch.no_grad()
def test_an_ensemble_comes_back_and_answers_with_the_mean_of_its_networks(
    ensemble: Checkpoint, make_checkpoint: Make, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "ensemble.safetensors", ensemble)
    found = load_checkpoint(tmp_path)
    network = found.build()
    assert isinstance(network, Ensemble)
    assert not any(module.training for module in network.modules())
    assert (found.members, found.epoch, found.config) == (3, 3, {"seed": 5})
    assert found.metrics == pytest.approx({"dice": 0.2})
    assert found.split == {"training": ["a", "b", "c", "d"], "validation": []}
    image = torch.linspace(-2, 2, 1024).sin().view(1, 1, 32, 32)
    alone = [make_checkpoint(seed=seed).build()(image).sigmoid() for seed in (1, 2, 3)]
    assert torch.allclose(network(image).sigmoid(), torch.stack(alone).mean(dim=0), atol=1e-6)


def test_the_folder_of_a_cross_validation_gives_its_ensemble_and_before_it_is_there_says_so(
    ensemble: Checkpoint, make_checkpoint: Make, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "fold1" / "best.safetensors", make_checkpoint())
    with pytest.raises(CheckpointError, match=r"is not finished and has no ensemble.safetensors yet.*fold1'"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path / "fold1").members == 1
    save_checkpoint(tmp_path / "ensemble.safetensors", ensemble)
    assert load_checkpoint(tmp_path).members == 3


@pytest.mark.parametrize("name", ["members.1.head.bias", "members.3.head.bias"])
def test_an_ensemble_that_lacks_a_tensor_or_has_one_too_many_is_refused(
    name: str, ensemble: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "ensemble.safetensors"
    save_checkpoint(path, ensemble)
    rewrite(path, **{name: torch.zeros(1) if name.startswith("members.3") else None})
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'members\.[13]\."):
        load_checkpoint(path)


def test_models_of_other_data_and_one_task_are_an_ensemble(make_checkpoint: Make) -> None:
    first = make_checkpoint(dims=3)
    other = replace(first, plan=first.plan.model_copy(update={"largest": (8, 8, 9)}))
    both = ensemble_of([first, other], {})
    assert (both.members, both.plan.largest) == (2, ())  # not all are known
    first = replace(first, plan=first.plan.model_copy(update={"largest": (9, 8, 8)}))
    assert ensemble_of([first, other], {}).plan.largest == (9, 8, 9)


def test_models_of_different_tasks_are_no_ensemble(make_checkpoint: Make, ensemble: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="differ in their network or plan"):
        ensemble_of([make_checkpoint(), make_checkpoint("attention")], {})
    with pytest.raises(CheckpointError, match="differ in their network or plan"):
        ensemble_of([make_checkpoint(), make_checkpoint(classes=("background", "liver"))], {})
    with pytest.raises(CheckpointError, match="is an ensemble of 3 networks and cannot be part of another"):
        ensemble_of([ensemble, ensemble], {})


def test_steps_are_those_of_the_run_and_of_the_model_it_started_from(make_checkpoint: Make) -> None:
    held = make_checkpoint()
    seen = int(held.weights["encoder.0.body.1.num_batches_tracked"])
    assert held.steps == seen > 1
    assert replace(held, place={"step": 1}).steps == 1, "the norms saw previews, too"
    assert replace(held, place={"step": 1}, config={"start_from": "model"}).steps == seen
    assert replace(held, place={"step": 1, "learned": seen + 5}).steps == seen + 5
    without = {name: t for name, t in held.weights.items() if "num_batches" not in name}
    assert replace(held, weights=without, place={"step": 7}).steps == 7


# ---- written whole or not at all ------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(
    written: Path, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            with pytest.raises(DataError, match=r"cannot write '.*model\.safetensors'.*No space"):
                save_checkpoint(written, make_checkpoint(seed=9))
        assert written.read_bytes() == content
        assert os.listdir(written.parent) == [written.name]
    assert load_checkpoint(written).epoch == 1


@pytest.mark.parametrize("where", ["file/model.safetensors", "folder"])
def test_a_place_that_cannot_hold_a_file_is_an_error_with_its_name(
    where: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("keep me")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=f"cannot write '.*{where}'"):
        save_checkpoint(tmp_path / where, make_checkpoint())
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "keep me"


def test_folders_on_the_way_are_made(make_checkpoint: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a" / "b" / "model.safetensors", make_checkpoint())
    assert isinstance(load_checkpoint(tmp_path / "a" / "b" / "model.safetensors").spec, ModelSpec)


def test_training_a_built_network_leaves_its_checkpoint_alone(make_checkpoint: Make) -> None:
    held = make_checkpoint()
    before = {name: tensor.clone() for name, tensor in held.weights.items()}
    network = held.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert all(torch.equal(held.weights[name], tensor) for name, tensor in before.items())


# ---- what promises more than it holds, and what a disk changed -----------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: {**h, "spec": {**h["spec"], "widths": [1] * 2000}}, "2,000 levels"),
        (lambda h: {**h, "spec": {**h["spec"], "widths": [8, 16, 10**9]}}, "1,000,000,000 channels"),
        (lambda h: {**h, "plan": {**h["plan"], "patch": [10**6, 10**6]}}, "elements of a patch"),
        (lambda h: {**h, "config": json.loads('{"a":' * 150 + "1" + "}" * 150)}, "levels within each other"),
    ],
    ids=["levels", "channels", "patch", "nesting"],
)
def test_a_header_that_promises_too_much_is_refused_at_once(
    written: Path, change: Callable[[dict], object], said: str
) -> None:
    rewrite(written, change)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(written)


@pytest.mark.parametrize("members", [2, 2000])
def test_names_of_members_are_no_networks(written: Path, members: int) -> None:
    empty = {f"members.{k}.a": torch.zeros(0) for k in range(members)}
    with safe_open(written, framework="pt") as file:
        names = dict.fromkeys(file.keys())
    rewrite(written, **names, **empty)
    with pytest.raises(CheckpointError, match=r"networks|levels"):
        load_checkpoint(written)


@given(st.data())
@hypothesis_settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_a_flipped_bit_is_never_taken_for_a_weight(written: Path, data: st.DataObject) -> None:
    content = bytearray(written.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.integers(start, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    changed = written.with_name("changed.safetensors")
    changed.write_bytes(content)
    with pytest.raises(CheckpointError, match="no longer what was written"):
        load_checkpoint(changed)


def test_a_checkpoint_without_a_checksum_is_read(written: Path) -> None:
    """As those of earlier versions."""
    rewrite(written)
    assert load_checkpoint(written).members == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_a_loaded_checkpoint_and_label_let_go_of_their_files(written: Path, tmp_path: Path) -> None:
    label = np.zeros((3, 4, 5), np.uint8)
    files = [write_labels(tmp_path / name, label, Geometry.pixels(3)) for name in ("a.nii", "a.tif")]
    held = load_checkpoint(written), [read_label(path)[0] for path in files]
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert len(held) == 2
