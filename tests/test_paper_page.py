"""Every figure of ours on ``docs/results.md`` is of a file under ``benchmarks/results``."""

from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("benchmarks")
PUBLISHED = """
    57.2 66.2 68.6 77.0 0.10
    1.5 2.0 1.1 70.96 61.52 2.86 80.13 66.24 79.29 66.23 85.43 63.14 0.693 1.9 2.9 3.36 0.1
"""
"""Decimal numbers of the page that no run of ours brought: of papers, of protocols, of arithmetic."""


@pytest.fixture(scope="module")
def page(benchmarks: None) -> str:
    return (ROOT / "docs" / "results.md").read_text()


def test_the_tables_of_the_results_page_are_those_of_its_files(page: str) -> None:
    from paper_page import BLOCK, BLOCKS, filled

    assert filled(page) == page
    assert {found["name"] for found in BLOCK.finditer(page)} == set(BLOCKS)


def test_every_figure_in_the_text_of_the_results_page_is_of_its_files(page: str) -> None:
    from paper_page import BLOCK, figures

    text = " ".join(BLOCK.sub("", page).split())
    ours = figures()
    assert {what: figure for what, figure in ours.items() if figure not in text} == {}
    decimal = r"(?<![\d.])\d+\.\d+(?![\d.])"
    known = set(re.findall(decimal, " ".join(ours.values()))) | set(PUBLISHED.split()) | {"2603.03187"}
    assert set(re.findall(decimal, text)) <= known


def test_the_curves_on_the_results_page_are_those_of_its_files(page: str) -> None:
    from paper_curves import digest

    command = re.search(r"^python benchmarks/paper_curves.py (.+) --out (\S+)$", page, re.MULTILINE)
    assert command is not None
    files, picture = command[1].split(), ROOT / command[2]
    assert f"({picture.relative_to(ROOT / 'docs')})" in page
    with PIL.Image.open(picture) as drawn:
        assert drawn.info["Description"] == digest([ROOT / file for file in files])


def test_curves_hold_every_loss_and_every_figure_taken(benchmarks: None) -> None:
    from paper_curves import draw

    run = {"model": "unet", "diverged": False, "data": {"set": "BUSI"}, "settings": {"widths": "tiny"}}
    run |= {"loss of each epoch": [1.5, 1.25, 1.0], "IoU of each epoch": [None, 0.25, 0.5]}
    loss, iou = draw([{"command": "python benchmarks/paper.py table1 --data X", "runs": [run]}]).axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 1.5], [2, 1.25], [3, 1.0]]
    assert iou.lines[0].get_xydata().tolist() == [[2, 25], [3, 50]]
    assert loss.get_title(loc="left") == "Table 1, BUSI, tiny: training loss"
