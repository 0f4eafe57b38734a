"""A new field, objective, gate, measure or network is written in one place, and stands everywhere at once.

Each test adds a made-up one as a new file would, and looks for it in the form, the shell, the docs and the
lines of *Reproduce*, which are read back.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
import typer
from napari.components import ViewerModel
from pydantic import BaseModel, Field
from pytestqt.qtbot import QtBot
from typer.testing import CliRunner

from napari_prosma.cli.train import with_settings
from napari_prosma.data.case import Case
from napari_prosma.events import Finished
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.measures import MEASURES, Measure, skip_measures
from napari_prosma.inspection.record import GateRecord, Means, SkipRecord
from napari_prosma.inspection.report import measures_table
from napari_prosma.nn.baselines.unet import UNet
from napari_prosma.nn.build import Network, build_model
from napari_prosma.nn.gate_kinds import GATES, GateOptions, gate
from napari_prosma.nn.gates import Gate
from napari_prosma.nn.network_kinds import NETWORKS, network
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.plugin.evaluate.panel import EvaluatePanel
from napari_prosma.plugin.inspect.words import table_of_measures
from napari_prosma.plugin.shared.closing import let_go_of
from napari_prosma.plugin.shared.form import Form
from napari_prosma.plugin.train.settings import Settings
from napari_prosma.plugin.train.supervision import Supervision
from napari_prosma.segmentation.evaluate import evaluate
from napari_prosma.segmentation.evaluation_report import box_plots, measure_rows, summary_rows
from napari_prosma.segmentation.measures import MEASURES as EVALUATED
from napari_prosma.segmentation.measures import Measure as EvaluationMeasure
from napari_prosma.segmentation.pairs import Pair, Pairs
from napari_prosma.settings import Choice, Setting, entries_of
from napari_prosma.training import config as configuration
from napari_prosma.training import lines
from napari_prosma.training.config import LEARNING, SETTINGS, TrainConfig
from napari_prosma.training.lines import config_from_options, python_lines, shell_line
from napari_prosma.training.objective import make_objective
from napari_prosma.training.objectives import OBJECTIVES, ObjectiveOptions, objective
from napari_prosma.training.objectives.supervised.learning import Supervised

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test registers is taken out again; the user's home is empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    registered: tuple[dict[str, Any], ...] = (GATES, NETWORKS, OBJECTIVES, MEASURES, EVALUATED, SETTINGS)
    before = [dict(each) for each in registered]
    yield
    for each, held in zip(registered, before, strict=True):
        each.clear()
        each.update(held)


@pytest.fixture
def settings(qtbot: QtBot) -> Iterator[Callable[[], Settings]]:
    """Makes the form of the Train panel as it is with what is registered."""
    made: list[Settings] = []

    def make() -> Settings:
        made.append(Settings())
        qtbot.addWidget(made[-1])
        return made[-1]

    yield make
    for each in made:
        let_go_of(each)


def written(page: str) -> str:
    """A page of the docs with its tables."""
    write = runpy.run_path(str(DOCS / "tables.py"))["on_page_markdown"]
    return str(write((DOCS / page).read_text(encoding="utf-8")))


def told_by_the_shell(*words: str) -> tuple[str, dict[str, Any]]:
    """The help of a command with an option per setting, and what it makes of a line."""
    given: dict[str, Any] = {}

    @with_settings
    def train(**options: object) -> None:
        """As ``prosma train``."""
        given.update(options)

    app = typer.Typer(rich_markup_mode=None)
    app.command()(train)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).output
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return shown, given


def read_back(line: str) -> TrainConfig:
    """The configuration of a line of *Reproduce*, as the shell reads it."""
    _, _, data, _, run_dir, *words = shlex.split(line)
    _, given = told_by_the_shell(*words)
    return config_from_options({**given, "data": data, "run_dir": run_dir})


class MadeUpConfig(TrainConfig):
    """As if the fields stood in ``TrainConfig``."""

    smoothness: Annotated[
        float,
        Setting(group=LEARNING, help="How smooth outlines are.", label="Smoothness", tip="Made up", step=0.1),
    ] = Field(default=0.25, ge=0, le=2)
    mood: Annotated[Literal["calm", "wild"], Setting("The mood.", "Mood", group=LEARNING)] = "calm"
    remark: Annotated[str, Setting("A remark.", "Remark", group=LEARNING)] = ""
    window: Annotated[
        tuple[float, float] | None, Setting("Gray values that are seen.", "Window", group=LEARNING)
    ] = None
    roles: Annotated[tuple[str, ...], Setting("Who learns.", "Roles", group=LEARNING)] = ("head",)
    atlas: Annotated[Path | None, Setting("A file.", "Atlas", group=LEARNING)] = None
    tries: Annotated[int | None, Setting("Tries.", "Tries", group=LEARNING)] = Field(default=None, ge=1)
    shuffle: Annotated[bool, Setting("Keep the order.", "shuffle", group=LEARNING)] = True


def test_a_field(settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    entries = entries_of(MadeUpConfig)
    SETTINGS.update({name: entry for name, entry in entries.items() if name not in SETTINGS})
    for module in (configuration, lines):
        monkeypatch.setattr(module, "TrainConfig", MadeUpConfig)

    form = settings()
    form.fields["smoothness"].value = 1.5
    assert form.fields["smoothness"].native.maximum() == 2
    config = MadeUpConfig.of(**{**form.values(), "run_dir": "r", "data": "d", "threads": None})
    assert config.smoothness == 1.5

    line = shell_line(config)
    assert line.endswith("--smoothness 1.5")
    assert read_back(line) == config
    assert "smoothness=1.5," in python_lines(config)
    shown, _ = told_by_the_shell()
    assert re.search(r"--smoothness .*How smooth outlines are\..*0\.25", shown)
    assert "| `--smoothness` | 0.25 | How smooth outlines are. |" in written("training.md")


class MadeUpOptions(ObjectiveOptions):
    strength: Annotated[float, Setting(help="How strongly.", label="Strength", step=0.1)] = 0.5
    style: Annotated[
        str,
        Setting(
            help="In which way: {choices}.",
            label="Style",
            choices={"soft": Choice("softly", "Little by little"), "hard": Choice("hard", "At once")},
        ),
    ] = "soft"


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("mood", "wild", "--mood wild"),
        ("remark", "a 'b' \"c\" ü", None),
        ("window", (-100.5, 300.0), "--window -100.5,300.0"),
        ("roles", ("head", "gates"), "--roles head,gates"),
        ("atlas", Path("an atlas.csv"), None),
        ("tries", 3, "--tries 3"),
        ("shuffle", False, "--no-shuffle"),
    ],
)
def test_a_field_of_any_type(
    settings: Callable[[], Settings],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    option: str | None,
) -> None:
    entries = entries_of(MadeUpConfig)
    SETTINGS.update({name: entry for name, entry in entries.items() if name not in SETTINGS})
    for module in (configuration, lines):
        monkeypatch.setattr(module, "TrainConfig", MadeUpConfig)
    form = settings()

    def chosen() -> MadeUpConfig:
        return MadeUpConfig.of(**{**form.values(), "run_dir": "r", "data": "d", "threads": None})

    assert getattr(chosen(), name) == entries[name].default
    form.fields[name].value = value
    config = chosen()
    assert getattr(config, name) == value
    line = shell_line(config)
    assert option is None or line.endswith(option)
    assert read_back(line) == config


def test_a_number_beside_a_word_is_no_choice_of_the_word_alone() -> None:
    class Odd(BaseModel):
        tries: Annotated[int | Literal["auto"], Setting("How often.", "Tries")] = "auto"

    with pytest.raises(TypeError, match="no widget for the setting tries"):
        Form(entries_of(Odd).values())


def test_an_objective_with_two_options(qtbot: QtBot) -> None:
    @objective("made-up", "Odd labels", "It learns oddly", options=MadeUpOptions)
    def make() -> Supervised:
        return Supervised()

    form = Supervision(ViewerModel())
    qtbot.addWidget(form)
    form.objective.setCurrentText("Odd labels")
    assert form.sentence.plain_text() == "It learns oddly"
    assert not form.folds["made-up"].isHidden()
    form.options["made-up"]["strength"].value = 2
    form.options["made-up"]["style"].value = "hard"
    config = TrainConfig.of(run_dir="r", data="d", **form.values())
    assert config.objective_options == MadeUpOptions(strength=2, style="hard")
    let_go_of(form)

    line = shell_line(config)
    assert "--objective made-up --objective-option strength=2.0 --objective-option style=hard" in line
    assert read_back(line) == config
    assert "objective_options=MadeUpOptions(strength=2.0, style='hard')," in python_lines(config)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    shown, _ = told_by_the_shell()
    assert "made-up (odd labels)" in shown
    page = written("objectives.md")
    assert "made-up (odd labels)" in written("training.md")
    assert "| `strength=` | 0.5 | How strongly. |" in page
    assert "| `style=` | soft | In which way: soft, hard. |" in page
    assert isinstance(make_objective("made-up"), Supervised)


def test_a_gate(settings: Callable[[], Settings]) -> None:
    @gate("made-up", "half of it", "Passes half of every skip", parts=0)
    def make(skip: int, gating: int, dims: int, options: GateOptions) -> Gate:
        """Half of every skip, whatever is in it."""
        return Gate(None, None)

    form = settings()
    form.fields["gate"].native.setCurrentText("made-up: half of it")
    config = TrainConfig.of(**{**form.values(), "run_dir": "r", "data": "d", "threads": None})
    assert config.gate == "made-up"
    line = shell_line(config)
    assert "--gate made-up" in line
    assert read_back(line) == config
    assert "gate='made-up'," in python_lines(config)
    shown, _ = told_by_the_shell()
    assert "prosma-exact, made-up." in shown
    assert "| `made-up` | half of it | Half of every skip, whatever is in it. |" in written("method.md")
    network = build_model(ModelSpec(2, 1, 1, (4, 4, 4), gate="made-up"))
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)


def test_a_network() -> None:
    @network("made-up", widths=(4, 4, 4), dims=(2, 3))
    def make(spec: ModelSpec) -> Network:
        """The plain U-Net under another name."""
        return UNet(spec)

    config = TrainConfig.of(run_dir="r", data="d", network="made-up", widths="published")
    line = shell_line(config)
    assert line.endswith("--network made-up --widths published")
    assert read_back(line) == config
    shown, _ = told_by_the_shell()
    assert "ukan2, made-up." in shown
    assert "ukan2, made-up." in written("training.md")
    assert isinstance(build_model(ModelSpec(2, 1, 1, config.width_per_level, network="made-up")), UNet)


FORMAT = """
import numpy as np

from napari_prosma.data.case import Header, Image
from napari_prosma.geometry import Geometry

SUFFIXES = (".numbers",)


def read(path):
    array = np.loadtxt(path, dtype=np.uint8)
    return Image(array[None], Geometry.pixels(2))


def read_header(path):
    return Header(1, read(path).array.shape[1:], Geometry.pixels(2))
"""


def test_a_format(tmp_path: Path) -> None:
    """In a process of its own, as if the file lay in ``data/formats``."""
    (tmp_path / "made_up.py").write_text(FORMAT, encoding="utf-8")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            np.savetxt(tmp_path / kind / f"{name}.numbers", np.eye(8), fmt="%d")
    program = f"""
from napari_prosma.data import formats
formats.__path__.append({str(tmp_path)!r})
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.readers import SUFFIXES, stem
assert ".numbers" in SUFFIXES and stem("a.numbers") == "a"
found = find_cases({str(tmp_path)!r})
print(found.summary, found.cases[1].read_image().array.sum(), found.cases[1].read_label().sum())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Images and masks in two folders: 2 cases 8 8", done.stderr


def test_a_measure_of_a_gate() -> None:
    MEASURES["made_up"] = Measure("peak", lambda skip: float(skip.energy.max()), "The largest energy", "x")
    geometry = Geometry.pixels(2)
    skip = SkipRecord(1, 1, geometry, np.full((2, 2), 3.0), np.ones((2, 2)), 0.0, Means(None, None, (0.0,)))
    skip.measures.update(skip_measures(skip))
    unused: Any = None
    record = GateRecord("a", "none", unused, unused, {1: skip}, unused, "label")

    (row,) = measures_table(record)
    assert row["made_up"] == 3
    _, rows, meanings = table_of_measures({"": record})
    assert ["peak", "", "3.0"] in rows
    assert "The largest energy" in meanings
    assert "| `made_up` | The largest energy | 0, 1 |" in written("command-line.md")


def test_a_measure_of_an_evaluation(qtbot: QtBot) -> None:
    EVALUATED["volume_ratio"] = EvaluationMeasure(
        "volume ratio",
        lambda masks: float(masks.predicted.sum() / masks.truth.sum()),
        "Predicted over true size",
        in_brief=True,
    )
    truth = np.pad(np.ones((4, 4), np.uint8), 2)
    predicted = np.where(np.arange(8) < 4, truth, 0).astype(np.uint8)
    held = [Case.from_arrays("a", each[None], each) for each in (predicted, truth)]
    *_, last = evaluate(Pairs((Pair("a", *held),), ("background", "lesion")))
    assert isinstance(last, Finished)

    (row,), (summary,) = measure_rows(last.result), summary_rows(last.result)
    assert row["volume ratio"] == summary["mean volume ratio"] == 0.5
    assert [axes.get_title() for axes in box_plots(last.result).axes][-1] == "volume ratio"
    panel = EvaluatePanel(ViewerModel())
    qtbot.addWidget(panel)
    panel.happened(last)
    heading, cell = panel.table.horizontalHeaderItem(6), panel.table.item(0, 6)
    assert heading is not None
    assert cell is not None
    assert (heading.text(), cell.text()) == ("volume ratio", "0.500")
    assert panel.summary.plain_text().endswith("volume ratio 0.500")
    panel.close_down()
    assert "| `volume ratio` | Predicted over true size |" in written("command-line.md")
