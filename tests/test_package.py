"""The package as napari and pip see it: the manifest, the built wheel, and what listing the plugin costs."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from npe2 import PluginManifest

import napari_prosma

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "src" / "napari_prosma" / "napari.yaml"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution("napari-prosma")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the contents of the wheel that pip would install."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("napari_prosma-*.whl")
    zipfile.ZipFile(built).extractall(folder / "contents")
    return folder / "contents"


def files_in(folder: Path) -> set[Path]:
    """Files below ``folder``, relative to it, without hidden and compiled ones."""
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in inside if not any(part.startswith((".", "__")) for part in path.parts)}


def test_installed_manifest_is_the_one_at_the_top(manifest: PluginManifest):
    assert manifest.name == "napari-prosma"
    assert manifest.display_name == "ProSMA"
    # A checkout without symbolic links (Windows) holds the link's target as text.
    link = ROOT / "napari.yaml"
    target = link.readlink() if link.is_symlink() else Path(link.read_text().strip())
    assert (ROOT / target).resolve() == MANIFEST.resolve()


def test_every_command_of_the_manifest_can_be_imported(manifest: PluginManifest):
    manifest.validate_imports()


def test_panels_are_named_as_in_the_walk_through(manifest: PluginManifest):
    names = [widget.display_name for widget in manifest.contributions.widgets or []]
    assert names == ["Train", "Annotate", "Segment", "Inspect gates", "Evaluate", "Runs"]


def test_menu_entries_lie_in_menus_that_napari_opens_to_plugins(manifest: PluginManifest):
    from napari._app_model.constants._menus import is_menu_contributable

    menus = manifest.contributions.menus
    assert {command.command for items in menus.values() for command in items} == {
        "napari-prosma.train",
        "napari-prosma.annotate",
        "napari-prosma.segment",
        "napari-prosma.inspect",
        "napari-prosma.evaluate",
    }
    assert all(is_menu_contributable(menu) for menu in menus)


def test_wheel_carries_manifest_icon_types_and_sample_data(wheel: Path, manifest: PluginManifest):
    packed = PluginManifest.from_file(wheel / "napari_prosma" / "napari.yaml")
    assert packed.contributions == manifest.contributions
    entry_points = next(wheel.glob("*.dist-info")) / "entry_points.txt"
    assert "[napari.manifest]\nnapari-prosma = napari_prosma:napari.yaml" in entry_points.read_text()

    resource = "/".join(manifest.icon.split(":"))
    assert {Path(resource), Path("napari_prosma/py.typed")} <= files_in(wheel)

    assert (wheel / "napari_prosma" / "docs" / "panels.md").is_file(), "which the panels show"
    samples = files_in(ROOT / "sample_data")
    assert samples <= files_in(wheel / "napari_prosma" / "sample_data")
    assert {path.suffix for path in samples} >= {".png", ".gz"}
    assert next(wheel.glob("*.dist-info/licenses/LICENSE")).is_file()


def test_wheel_names_the_version_of_the_package(wheel: Path):
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    assert f"\nVersion: {napari_prosma.__version__}\n" in metadata.read_text()


def test_listing_the_plugin_imports_nothing_of_it():
    listing = (
        "import sys, npe2\n"
        "manager = npe2.PluginManager.instance()\n"
        "manager.discover()\n"
        "assert 'napari-prosma' in manager\n"
        "assert list(manager.iter_widgets()) and list(manager.iter_compatible_readers(['ct.nii.gz']))\n"
        "costly = ('napari_prosma', 'torch', 'qtpy', 'PyQt')\n"
        "print([name for name in sys.modules if name.startswith(costly)])\n"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_napari_imports_nothing_of_it(tmp_path: Path):
    opening = (
        "import sys, napari\n"
        "viewer = napari.Viewer(show=False)\n"
        "from napari._app_model import get_app_model\n"
        "assert 'napari-prosma.train' in get_app_model().commands\n"
        "print([name for name in sys.modules if name.startswith(('napari_prosma', 'torch'))])\n"
        "viewer.close()\n"
    )
    environment = {**os.environ, "NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    command = [sys.executable, "-c", opening]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_supported_pythons_are_the_same_wherever_they_are_written():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers = "\n".join(project["classifiers"])
    supported = re.findall(r"Python :: (3\.\d+)", classifiers)
    oldest, newest = supported[0], supported[-1]
    assert project["requires-python"] == f">={oldest}"

    script = (ROOT / ".ci" / "python.sh").read_text()
    bounds = re.search(r"\((\d+), (\d+)\) <= sys.version_info\[:2\] <= \((\d+), (\d+)\)", script)
    assert bounds
    assert (f"{bounds[1]}.{bounds[2]}", f"{bounds[3]}.{bounds[4]}") == (oldest, newest)
    assert " ".join(f"python{version}" for version in reversed(supported)) in script
    assert f'python: ["{oldest}", "{newest}"]' in (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    for page in ("README.md", "CONTRIBUTING.md", "docs/install.md"):
        assert f"{oldest} to {newest}" in (ROOT / page).read_text(encoding="utf-8")


def test_version_is_the_same_wherever_it_is_written():
    version = napari_prosma.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


CONDA_NAMES = {
    "dask": "dask-core",
    "isal": "python-isal",
    "lightning-fabric": "pytorch-lightning",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
}


def test_the_conda_recipe_asks_for_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gui"]]
    named = (re.match(r"([\w-]+)(?:\[.*\])?(.*)", each) for each in wanted)
    pairs = [f"{CONDA_NAMES.get(each[1], each[1])} {each[2]}" for each in named if each]
    assert recipe["requirements"]["run"] == ["python >=${{ python_min }}", *pairs]
    assert project["requires-python"] == f">={recipe['context']['python_min']}"
    assert recipe["context"]["version"] == napari_prosma.__version__
    assert f"prosma = {project['scripts']['prosma']}" in recipe["build"]["python"]["entry_points"]
    assert recipe["about"]["summary"] == project["description"]


BROUGHT = {
    "loguru": "bioimageio.core",
    "npe2": "napari",
    "onnx_ir": "onnxscript",
    "pint": "napari",
    "pydantic_core": "pydantic",
    "vispy": "napari",
}
"""Modules that belong to a package we ask for, and that it asks for itself."""


def third_party_imports() -> set[str]:
    """Top-level modules of others that the package imports anywhere, in functions too."""
    found: set[str] = set()
    for path in MANIFEST.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"napari_prosma"}


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def test_everything_that_is_imported_is_asked_for():
    """By the package or an extra of it, and not only by what another one happens to bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = {canonical(r) for r in project["dependencies"]}
    asked |= {canonical(r) for name, of_extra in extras.items() if name != "dev" for r in of_extra}
    asked.add("triton")  # a part of PyTorch with CUDA; used where it is there
    homes = packages_distributions()
    for module in sorted(third_party_imports()):
        home = {canonical(name) for name in homes[module]}
        if module in BROUGHT:
            by = BROUGHT[module]
            assert canonical(by) in asked
            assert home & {canonical(r) for r in requires(by) or ()}, f"{by} brings {module} no longer"
        else:
            assert home & asked, f"{module} is imported, but nothing asks for it"
