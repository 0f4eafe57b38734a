"""The floors of the house: who may import whom, and what an import costs.

An arrow points to a lower floor only, and rooms on one floor do not see each other::

    6  cli  plugin/{contributions, shared, train, annotate, segment, evaluate, inspect, doubts, runs}
    5  app
    4  export  inspection  segmentation  training
    3  model
    2  data  nn
    1  errors  events  geometry  libraries  settings

Within ``plugin/`` every room sees ``shared`` only; what lies in no room, such as the demo, sees all rooms.
``python tests/test_structure.py`` counts the imports from each room into each other one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import napari_prosma

PACKAGE = Path(napari_prosma.__file__).parent
NAME = PACKAGE.name

FOR_ALL = {"errors", "events", "geometry", "libraries", "settings"}
LOW = {"data", "nn", "model"}
NEIGHBOURS = {"export", "inspection", "segmentation", "training"}
ROOMS = {
    f"plugin/{room}"
    for room in (
        *("contributions", "shared", "train", "annotate", "segment", "evaluate", "inspect", "doubts"),
        "runs",
    )
}
BELOW_PLUGIN = LOW | NEIGHBOURS | {"app"}
MAY_IMPORT: dict[str, set[str]] = {
    **{room: set[str]() for room in (*FOR_ALL, "data", "nn")},
    "model": {"data", "nn"},
    **dict.fromkeys(NEIGHBOURS, LOW),
    "app": LOW | NEIGHBOURS,
    "cli": BELOW_PLUGIN,
    **dict.fromkeys(ROOMS, BELOW_PLUGIN | {"plugin/shared"}),
    "plugin": BELOW_PLUGIN | ROOMS,
    "__main__": {"cli"},
}
WINDOWS = {"qtpy", "napari", "magicgui", "superqt", "vispy", "PyQt5", "PyQt6", "PySide2", "PySide6"}


def imported_names(source: str, package: str) -> Iterator[str]:
    """Absolute dotted names that ``source``, a module of ``package``, imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def part_of(name: str) -> str | None:
    """Room of the package that the dotted ``name`` lies in; None for names of others."""
    first, _, rest = name.partition(".")
    if first != NAME:
        return None
    # A public name taken from the package itself comes from its home.
    return room_of(napari_prosma._HOMES.get(rest.split(".")[0], rest).split("."))


def room_of(parts: Sequence[str]) -> str:
    """Room of a module, by its dotted name in parts."""
    room = "/".join(parts[:2])
    return room if room in ROOMS else parts[0]


def is_private(name: str) -> bool:
    """Whether only its own room may use it."""
    return name.startswith("_") and not name.startswith("__")


def breaches(source: str, part: str, package: str) -> list[str]:
    """What ``source``, a module of ``part``, imports against the arrows."""
    found = []
    for name in imported_names(source, package):
        ours, outside = part_of(name), name.split(".")[0]
        if ours is not None:
            if ours not in MAY_IMPORT[part] | FOR_ALL | {part, "", "__version__"}:
                found.append(f"{part} may not import {name}")
            elif ours not in {part, ""} and any(map(is_private, name.split("."))):
                found.append(f"{name} is private to {ours}")
        elif outside in WINDOWS and part.split("/")[0] != "plugin":
            found.append(f"{outside} outside plugin/")
        elif outside == "torch" and part == "data":
            found.append("torch in data/")
        elif outside == "triton" and package == f"{NAME}.nn.fast":
            continue
        elif part == "nn" and outside != "torch" and outside not in sys.stdlib_module_names:
            found.append(f"{outside} in nn/, which imports torch only")
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_import_only_downwards(path: Path) -> None:
    assert breaches(path.read_text(encoding="utf-8"), *place_of(path)) == []


def place_of(path: Path) -> tuple[str, str]:
    """Room and package of a module."""
    relative = path.relative_to(PACKAGE)
    return room_of(relative.with_suffix("").parts), ".".join([NAME, *relative.parts[:-1]])


TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix()
)
def test_nothing_is_tested_through_private_names_of_another_room(path: Path) -> None:
    room = room_of(path.relative_to(TESTS).with_suffix("").parts)
    names = imported_names(path.read_text(encoding="utf-8"), "tests")
    private = [name for name in names if part_of(name) and any(map(is_private, name.split(".")))]
    assert [name for name in private if part_of(name) != room] == []


class _Imports:
    """What Python does with our modules when one of them is the first to be imported, by their source."""

    def __init__(self) -> None:
        self.bodies = {_dotted(path): ast.parse(path.read_text(encoding="utf-8")).body for path in MODULES}
        self.bodies[NAME] = []  # which imports nothing of ours before it is asked
        self.trouble: list[str] = []

    def first(self, module: str) -> list[str]:
        """Names that are asked for before they are there."""
        self.defined: dict[str, set[str]] = {}
        self.complete: set[str] = set()
        self.trouble = []
        self._load(module)
        return self.trouble

    def _load(self, module: str) -> None:
        if module in self.defined or module not in self.bodies:
            return
        if "." in module:
            self._load(module.rpartition(".")[0])
        if module in self.defined:  # its package has asked for it
            return
        self.defined[module] = set()
        self._run(module, self.bodies[module])
        self.complete.add(module)

    def _run(self, module: str, body: Sequence[ast.stmt]) -> None:
        defined = self.defined[module]
        for node in body:
            match node:
                case ast.ImportFrom(module=str(source), level=0, names=names):
                    self._load(source)
                    for alias in names:
                        self._load(f"{source}.{alias.name}")
                        known = self.defined.get(source, {alias.name})
                        is_there = source in self.complete | {NAME} or alias.name in known
                        if not is_there and f"{source}.{alias.name}" not in self.bodies:
                            self.trouble.append(f"{module} wants {alias.name} of {source}")
                        defined.add(alias.asname or alias.name)
                case ast.Import(names=names):
                    for alias in names:
                        self._load(alias.name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    defined.add(name)
                case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                    pass
                case ast.If() | ast.Try() | ast.With():
                    self._run(module, [x for x in ast.iter_child_nodes(node) if isinstance(x, ast.stmt)])
                case _:
                    defined |= {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join([NAME, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def test_every_module_can_be_the_first_that_is_imported() -> None:
    imports = _Imports()
    assert {name: wrong for name in imports.bodies if (wrong := imports.first(name))} == {}


def test_every_room_is_there() -> None:
    assert {room_of(path.relative_to(PACKAGE).with_suffix("").parts) for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("nn", "from napari_prosma.data.case import Case"),
        ("nn", "from napari_prosma import Case"),
        ("nn", "from ..training import run"),
        ("nn", "import napari_prosma.training.run"),
        ("nn", "from monai.networks.nets import UNet"),
        ("data", "import torch.nn as nn"),
        ("data", "def late():\n    from torch import Tensor"),
        ("data", "from napari_prosma.nn import spec"),
        ("training", "from napari_prosma.cli import app"),
        ("segmentation", "from napari_prosma.plugin.shared.job import start"),
        ("inspection", "import importlib\nimportlib.import_module('napari_prosma.plugin.shared.layers')"),
        ("inspection", "from qtpy.QtWidgets import QWidget"),
        ("cli", "import napari"),
        ("cli", "from napari_prosma.plugin import layers"),
        ("errors", "from napari_prosma.nn import prox"),
        ("events", "import torch\nfrom napari_prosma.nn.gates import GateTrace"),
        ("events", "from napari_prosma.data.case import Case"),
        ("model", "from napari_prosma.training.config import TrainConfig"),
        ("training", "from napari_prosma.segmentation.segment import segment"),
        ("inspection", "from napari_prosma import segment"),
        ("app", "from napari_prosma.cli import app"),
        ("plugin/train", "from napari_prosma.plugin.doubts.dock import DoubtedLabels"),
        ("plugin/shared", "from napari_prosma.plugin.train.panel import TrainPanel"),
        ("segmentation", "from napari_prosma.data.layouts.recognise import _MARK"),
    ],
)
def test_a_breach_of_the_arrows_is_seen(part: str, source: str) -> None:
    assert breaches(source, part, f"{NAME}.{part}")


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("nn", "import torch\nfrom napari_prosma.nn.prox import soft_threshold\nfrom . import prox"),
        ("data", "import numpy\nfrom napari_prosma.errors import DataError"),
        ("training", "from napari_prosma.nn.unet import ProSMAUNet\nfrom napari_prosma import __version__"),
        ("inspection", "from napari_prosma.model.checkpoint import load_checkpoint"),
        ("plugin/train", "from napari_prosma.app.runs import left_run"),
        ("cli", "from napari_prosma import train, segment"),
        (
            "plugin/inspect",
            "import napari\nfrom qtpy import QtCore\nfrom napari_prosma.inspection import maps",
        ),
        ("events", "from napari_prosma.geometry import Geometry"),
    ],
)
def test_an_arrow_that_points_down_is_allowed(part: str, source: str) -> None:
    assert breaches(source, part, f"{NAME}.{part}") == []


def loaded_by(statement: str, *watched: str) -> set[str]:
    """Which of the ``watched`` top-level modules are there after ``statement`` in a fresh process."""
    program = f"import sys\n{statement}\nprint(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) & set(watched)


HEAVY = ("torch", "monai", "matplotlib", *WINDOWS)


def test_importing_the_package_loads_neither_torch_nor_qt_nor_napari() -> None:
    assert loaded_by("import napari_prosma; dir(napari_prosma); napari_prosma.__version__", *HEAVY) == set()


def test_reading_the_manifest_loads_neither_torch_nor_qt() -> None:
    manifest = PACKAGE / "napari.yaml"
    read = f"import npe2; assert npe2.PluginManifest.from_file({str(manifest)!r}).name == 'napari-prosma'"
    assert loaded_by(read, *HEAVY, NAME) == set()


def test_the_data_part_loads_no_torch() -> None:
    """The arrow by name is not enough: nothing that data/ imports from others may load torch either."""
    modules = [path for path in MODULES if path.is_relative_to(PACKAGE / "data") and path.stem != "__init__"]
    dotted = (".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in modules)
    names = ", ".join(f"{NAME}.{name}" for name in dotted)
    assert loaded_by(f"import {names}", "torch", *WINDOWS) == set()


def test_panels_are_painted_before_anything_slow_is_loaded() -> None:
    panels = ", ".join(
        f"{NAME}.{room.replace('/', '.')}.panel" for room in ROOMS if (PACKAGE / room / "panel.py").is_file()
    )
    slow = ("torch", "monai", "matplotlib", "nibabel", "pydicom", "highdicom", "zarr")
    assert loaded_by(f"import {panels}", *slow) == set()


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_shell_tells_what_there_is_before_anything_is_loaded(option: str) -> None:
    """Half of the 0.44 s that --help took were NumPy and the options of ``train``."""
    program = f"from napari_prosma.cli.app import app\ntry: app(['{option}'])\nexcept SystemExit: pass"
    assert loaded_by(program, "numpy", *HEAVY) == set()


def test_a_worker_loads_no_torch_before_it_says_whether_it_is_free() -> None:
    assert loaded_by(f"import {NAME}.app.elsewhere.worker", "torch", *WINDOWS) == set()


def test_loading_is_told_apart_from_not_loading() -> None:
    assert loaded_by("import napari_prosma.nn.prox", "torch", "napari") == {"torch"}


@pytest.mark.parametrize("name", sorted(napari_prosma._HOMES))
def test_public_names_have_a_home(name: str) -> None:
    """Read from the source, so that a name whose home was renamed is seen without importing torch."""
    place = PACKAGE.joinpath(*napari_prosma._HOMES[name].split("."))
    home = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    tree = ast.parse(home.read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert name in defined


def arrows() -> Counter[tuple[str, str]]:
    """How many imports go from one room into another; names for all rooms are left out."""
    counted: Counter[tuple[str, str]] = Counter()
    for path in MODULES:
        here, package = place_of(path)
        rooms = map(part_of, imported_names(path.read_text(encoding="utf-8"), package))
        counted.update((here, room) for room in rooms if room in MAY_IMPORT and room not in FOR_ALL | {here})
    return counted


def test_arrows_are_counted() -> None:
    counted = arrows()
    assert counted["training", "model"] > 10
    assert not counted["training", "segmentation"]


if __name__ == "__main__":
    for (here, there), number in sorted(arrows().items()):
        print(f"{here:20} -> {there:20} {number:4}")
