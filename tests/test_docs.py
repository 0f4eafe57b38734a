"""Every notebook and ``python`` code block of the documentation runs; blocks marked ``py`` are only shown."""

import json
import re
import runpy
from pathlib import Path

import pytest

from napari_prosma.training import statistics

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples_of(page: Path) -> list[tuple[int, str]]:
    """Line of the first statement and source of every runnable block."""
    text = page.read_text(encoding="utf-8")
    return [(text[: match.start(1)].count("\n"), match[1]) for match in BLOCK.finditer(text)]


RUNNABLE = [page for page in PAGES if examples_of(page)]


def test_there_are_examples_to_run():
    assert len(RUNNABLE) >= 3


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__docs__"}
    for line, source in examples_of(page):
        # Empty lines in front give a failure the page's own line number.
        exec(compile("\n" * line + source, str(page), "exec"), names)


NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
STEPS = re.compile(r"\bsteps_per_epoch=\d+")
CLAIM = re.compile(r"^ *assert ", re.MULTILINE)


def cells_of(notebook: Path) -> list[str]:
    """Sources of the cells with code; one that claims nothing of what it learned learns for a few steps."""
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert not [cell for cell in cells if cell["outputs"]], "outputs are not kept: they would age"
    sources = ["".join(cell["source"]) for cell in cells]
    claims = any(CLAIM.search(source) for source in sources)
    return sources if claims else [STEPS.sub("steps_per_epoch=2", source) for source in sources]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_run_from_top_to_bottom(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(statistics, "PATCHES", (4, 32))  # as for a user, of whom it claims what is learned
    names: dict[str, object] = {"__name__": "__notebook__"}
    for number, source in enumerate(cells_of(notebook), start=1):
        exec(compile(source, f"{notebook.name}, cell {number} with code", "exec"), names)


def test_every_door_has_a_notebook() -> None:
    doors = sorted((ROOT / "docs" / "start").glob("*.md"))
    assert [page.stem for page in doors] == [notebook.stem for notebook in NOTEBOOKS]
    for page in doors:
        assert f"({page.stem}.ipynb)" in page.read_text(encoding="utf-8")


def test_the_page_of_the_panels_lists_every_key() -> None:
    from napari_prosma.plugin.shared.keys import KEYS

    page = (ROOT / "docs" / "panels.md").read_text(encoding="utf-8")
    for key in KEYS.values():
        assert f"| {key.name} | {key.does} |" in page


def test_the_page_of_python_names_has_every_public_name() -> None:
    import napari_prosma

    page = runpy.run_path(str(ROOT / "docs" / "api_page.py"))
    rows, modules = page["names"](), page["modules"]().split()
    for name in set(napari_prosma.__all__) - {"__version__"}:
        home = f"napari_prosma.{napari_prosma._HOMES[name]}"
        assert f"| [`{name}`][{home}.{name}] | " in rows
        assert modules.count(home) == 1
    assert "|  |" not in rows, "a name says what it is"


def test_tables_of_the_docs_come_from_what_is_registered() -> None:
    from napari_prosma.inspection.measures import MEASURES
    from napari_prosma.nn.gate_kinds import GATES
    from napari_prosma.training.config import SETTINGS
    from napari_prosma.training.objectives import OBJECTIVES

    write = runpy.run_path(str(ROOT / "docs" / "tables.py"))["on_page_markdown"]

    def rows(page: str) -> set[str]:
        written = write((ROOT / "docs" / page).read_text(encoding="utf-8"))
        assert "<!-- table" not in written
        return {line.split(" | ")[0].strip("| `") for line in written.splitlines() if line.startswith("| `")}

    assert {entry.option for entry in SETTINGS.values()} <= rows("training.md")
    assert set(GATES) <= rows("method.md")
    assert set(MEASURES) <= rows("command-line.md")
    options = {f"{name}=" for kind in OBJECTIVES.values() for name in kind.options.model_fields}
    assert options <= rows("objectives.md")


LEARNED = re.compile(r"^\| ([a-z ]+) \| \d+ \| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
TRAINING = re.compile(r"\**(0\.\d{3})\** \(([\d,]+)(?: steps of (\d))?(?:, side \d+)?\)")
DATA = {
    "hippocampus": "Task04_Hippocampus",
    "breast lesions": "Dataset_BUSI_with_GT",
    "polyps": "kvasir_seg",
    "glands": "glas",
}


def test_the_figures_of_learning_are_those_that_were_measured() -> None:
    """Cells that sum several trainings up are not compared."""
    files = sorted((ROOT / "benchmarks" / "results").glob("learning*.json"))
    runs = [run for file in files for run in json.loads(file.read_text(encoding="utf-8"))["runs"]]
    page = (ROOT / "docs" / "decisions" / "minutes.md").read_text(encoding="utf-8")
    compared = 0
    for images, minutes, *cells in LEARNED.findall(page):
        for system, cell in zip(("prosma", "monai-unet"), cells, strict=True):
            if (told := TRAINING.fullmatch(cell)) is None:
                continue
            dice, steps, patches = told.groups()
            measured = {
                (f"{run['dice']:.3f}", f"{run['steps']:,}", " ".join(run["said"]))
                for run in runs
                if (run["data"], run["minutes"], run["system"]) == (DATA[images], int(minutes), system)
            }
            said = [words for *figures, words in measured if figures == [dice, steps]]
            assert said, f"{images}: {cell}"
            assert patches is None or any(f"steps of {patches} patches" in words for words in said), cell
            compared += 1
    assert compared > 20
