"""All that a sentence was made from, as one JSON; and a paragraph of methods that can be cited."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from napari_prosma import __version__
from napari_prosma.inspection.data_set import DataSetInspection, content_of
from napari_prosma.inspection.data_set_trials import Trials
from napari_prosma.inspection.faithfulness import CONTROLS
from napari_prosma.inspection.measures import MEASURES
from napari_prosma.inspection.noise import NOISES
from napari_prosma.inspection.statistics import FEWEST, LEVEL

SEED = 0
"""Of every random draw of an inspection: orders, redrawn weights, noise and signs."""


def versions() -> dict[str, str]:
    """Of this program, of Python and of what computes."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "matplotlib")}
    return {"napari-prosma": __version__, "Python": platform.python_version(), **packages}


def without_folders(value: Any) -> Any:
    """Where somebody keeps his files is nobody's business."""
    is_path = isinstance(value, str) and PurePath(value).is_absolute()
    return PurePath(value).name if is_path else value


def everything(found: DataSetInspection, tests: Trials | None, said: Mapping[str, str]) -> dict[str, Any]:
    """Models, cases, rows of the tests and sentences of an inspection, ready for JSON.

    ``of`` of a case holds the hash of every model's weights and size and time of the case's files.
    """
    models = {
        name: {
            "gate": each.spec.gate,
            "weights": content_of(each),
            "seed": each.config.get("seed"),
            "steps": each.steps,
            "epoch": each.epoch,
            "config": {key: without_folders(value) for key, value in each.config.items()},
            "split": each.split,
        }
        for name, each in found.checkpoints.items()
    }
    cases = [{k: v for k, v in asdict(case).items() if k != "thumbnail"} for case in found.cases]
    kept: dict[str, Any] = {
        "versions": versions(),
        "seed": SEED,
        "models": models,
        "cases": cases,
        "near_duplicates": found.units,
        "unusual_from": found.unusual_from if np.isfinite(found.unusual_from) else None,
        "deviations": {name: asdict(each) for name, each in found.deviations.items()},
        "left_out": found.failed,
        "measures": {
            n: {"label": m.label, "unit": m.unit, "limits": m.limits, "meaning": m.meaning}
            for n, m in MEASURES.items()
        },
        "tests": {} if tests is None else tests.rows,
        "sentences": dict(said),
    }
    return dict(to_jsonable_python(kept, inf_nan_mode="null", fallback=str))


def in_methods(kept: Mapping[str, Any]) -> str:
    """A paragraph for a methods section, made from what ``everything`` holds."""
    cases, duplicates = kept["cases"], kept["near_duplicates"]
    units = len({duplicates.get(case["name"], case["name"]) for case in cases})
    labelled = sum(case["reference"] == "label" for case in cases)
    models = ", ".join(
        f"{name} (gate {each['gate']}, {each['steps']} steps, seed {each['seed']}, weights {each['weights']})"
        for name, each in kept["models"].items()
    )
    text = (
        f"Gates were inspected with napari-prosma {kept['versions']['napari-prosma']} (PyTorch "
        f"{kept['versions']['torch']}) on {len(cases)} images, {labelled} with a label and {units} "
        "independent of "
        f"each other, near-duplicates counted as one. Models: {models}. Selectivity is the share "
        "of the gated "
        f"skip's energy that no constant per channel explains; relative energy is psi squared over its mean, "
        f"weighted by the energy of the skip. Intervals are Student's at {100 * LEVEL:g} %, "
        "simultaneous over "
        "skips and parts by the largest studentised mean under random signs; nothing is claimed "
        "from fewer than "
        f"{FEWEST} independent cases."
    )
    if kept["tests"]:
        tested = {row["image"] for rows in kept["tests"].values() for row in rows}
        deleted = kept["tests"].get("deletion_curve", ())
        shares = len({row["q"] for row in deleted})
        draws = len({row["draw"] for row in deleted if row["order"] == "random"})
        noise = {row["kind"] for row in kept["tests"].get("noise_test", ())}
        text += (
            f" On {len(tested)} of the images parts of the gates were set to their means, and "
            "positions of each "
            f"skip were replaced by its channel means in rising order of psi ({shares} "
            "shares), against "
            f"{', '.join(CONTROLS.values())} (chance: mean of {draws} draws)."
        )
        if noise:
            text += f" Noise: {'; '.join(f'{kind}, {NOISES[kind]}' for kind in sorted(noise))}."
    return f"{text} Random draws have the seed {kept['seed']}."
