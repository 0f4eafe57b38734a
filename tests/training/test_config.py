"""Settings of a run: what is refused, in whose words, and that JSON brings them back whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_prosma.data.fingerprint import Plan
from napari_prosma.errors import ConfigError
from napari_prosma.nn.gate_kinds import GateOptions
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.objectives import ObjectiveOptions
from napari_prosma.training.objectives.dim import DimOptions


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"gate": "garden"}, "unknown gate 'garden'; choose one of prosma"),
        ({"widths": "huge"}, "unknown width preset 'huge'; choose one of auto, quick"),
        ({"widths": (8, 16)}, "widths must be at least three"),
        ({"widths": (8, 16, 0)}, "positive"),
        ({"gated_levels": (5,)}, "gated levels"),
        ({"dims": 4}, "dims: .*found 4"),
        ({"epochs": 0}, "epochs: .*found 0"),
        ({"minutes": 0}, "minutes"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"device": "tpu"}, "device"),
        ({"epocs": 3}, "epocs"),
        ({"gate_options": {"norm": "layer"}}, "norm must be 'batch' or 'none'"),
    ],
)
def test_wrong_settings_are_named(setting: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TrainConfig.of(**{"run_dir": "run", **setting})
    assert "run_dir" not in str(caught.value)  # what is right is not repeated


def test_json_brings_every_setting_back() -> None:
    config = TrainConfig(
        run_dir=Path("run"),
        widths=(8, 16, 32),
        gate="dense",
        gate_options=GateOptions(dilations=(1, 3), norm="none", threshold=0.25),
        gated_levels=(2,),
        plan=Plan(dims=3, channels=2, class_names=("background", "a"), patch=(16, 16, 16), batch=2),
        minutes=1.5,
        learning_rate=1 / 3,
    )
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainConfig(**config.model_dump(mode="json")) == config


def test_settings_of_earlier_versions_are_read() -> None:
    """Each objective had a field of its own, and only that of the chosen one counted."""
    then = {"objective": "dim", "dim": {"rho": 0.2, "divergence": "kl"}, "dale": {"every": 3}}
    config = TrainConfig.of(run_dir="run", **then)
    assert config.objective_options == DimOptions(rho=0.2, divergence="kl")
    assert TrainConfig.of(run_dir="run", dim={"rho": 0.2}).objective_options == ObjectiveOptions()


@pytest.mark.parametrize("preset", sorted(WIDTHS))
def test_presets_and_plain_widths_give_the_network_its_channels(preset: str) -> None:
    plan = Plan(dims=2, channels=3, class_names=("background", "a", "b"), patch=(64, 64), batch=2)
    spec = TrainConfig(run_dir=Path("run"), widths=preset, gate="spatial").model_spec(plan)
    assert (spec.widths, spec.in_channels, spec.out_channels, spec.gate) == (WIDTHS[preset], 3, 3, "spatial")
    assert TrainConfig(run_dir=Path("run"), widths=(4, 8, 12)).model_spec(plan).widths == (4, 8, 12)
