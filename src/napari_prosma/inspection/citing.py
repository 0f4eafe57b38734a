"""All that a sentence was made from, as one JSON; and a paragraph of methods that can be cited."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_jsonable_python

from napari_prosma import __version__
from napari_prosma.data.atomic import written_whole
from napari_prosma.inspection.faithfulness import CONTROLS, Row, having_structure, windows_in_words
from napari_prosma.inspection.measures import MEASURES
from napari_prosma.inspection.noise import IN_WORDS, NOISES
from napari_prosma.inspection.statistics import FEWEST, LEVEL, RESAMPLES
from napari_prosma.inspection.trace import cautions
from napari_prosma.model.checkpoint import COUNT, Checkpoint

if TYPE_CHECKING:
    from napari_prosma.inspection.data_set import DataSetInspection
    from napari_prosma.inspection.data_set_trials import Trials
    from napari_prosma.inspection.record import GateRecord

NUMBERS = "inspection.json"
"""The file, after the name of an image where it is of one."""
SEED = 0
"""Of every random draw of an inspection; orders and noise hang on the image, too."""
_HASH_BYTES = 10


def versions() -> dict[str, str]:
    """Of this program, of Python and of what computes."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "matplotlib")}
    return {"napari-prosma": __version__, "Python": platform.python_version(), **packages}


def without_folders(value: Any) -> Any:
    """Where somebody keeps his files, on whatever system, is nobody's business."""
    is_path = isinstance(value, str) and any(
        kind(value).is_absolute() for kind in (PurePosixPath, PureWindowsPath)
    )
    return PureWindowsPath(value).name if is_path else value


def content_of(checkpoint: Checkpoint) -> str:
    """Hash of a model's weights, 20 hexadecimal digits; without what norms count, which changes no answer."""
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for name, tensor in sorted(checkpoint.weights.items()):
        if name.endswith(COUNT):
            continue
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_of(array: np.ndarray) -> str:
    """Hash of the values of an image or a label, 20 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=_HASH_BYTES).hexdigest()


def _model(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "gate": checkpoint.spec.gate,
        "network": checkpoint.plan.dims_in_words(),
        "plan": checkpoint.plan.in_words(),
        "weights": content_of(checkpoint),
        "seed": checkpoint.config.get("seed"),
        "steps": checkpoint.steps,
        "epoch": checkpoint.epoch,
        "config": {key: without_folders(value) for key, value in checkpoint.config.items()},
        "metrics": checkpoint.metrics,
        "split": checkpoint.split,
    }


def of_one_image(record: GateRecord, further: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`everything` holds of many cases, of one: models, hash of the image, measures."""
    records = {"model": record} | ({} if record.second is None else {"second model": record.second})
    return {
        "versions": versions(),
        "seed": SEED,
        "models": {name: _model(each.checkpoint) for name, each in records.items()},
        "image": {
            "name": record.name,
            "shape": record.image.array.shape,
            "content": hash_of(record.image.array),
        },
        "foreground": record.reference,
        "notices": {
            name: [*each.image.notices, *cautions(each.checkpoint, each.image)]
            for name, each in records.items()
        },
        "measures": {
            name: {str(level): skip.measures for level, skip in each.skips.items()}
            for name, each in records.items()
        },
        **further,
    }


def write_numbers(kept: Mapping[str, Any], path: Path) -> None:
    """Write what an inspection holds as JSON, NaN as null."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(_plain(kept), indent=1), encoding="utf-8")


def _plain(kept: Mapping[str, Any]) -> dict[str, Any]:
    return dict(to_jsonable_python(kept, inf_nan_mode="null", fallback=str))


def everything(
    inspection: DataSetInspection,
    tests: Trials | None,
    said: Mapping[str, str],
    intervals: Mapping[str, list[Row]],
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """Models, cases, rows of the tests, sentences and their intervals, of an inspection of many cases.

    ``of`` of a case holds the hash of every model's weights and size and time of the case's files.
    ``further`` is what else is said; the methods are made from all of it.
    """
    cases = [{k: v for k, v in asdict(case).items() if k != "thumbnail"} for case in inspection.cases]
    kept = {
        **further,
        "versions": versions(),
        "seed": SEED,
        "models": {name: _model(each) for name, each in inspection.checkpoints.items()},
        "cases": cases,
        "units": inspection.units,
        "unusual_from": inspection.unusual_from if np.isfinite(inspection.unusual_from) else None,
        "deviations": {name: asdict(each) for name, each in inspection.deviations.items()},
        "left_out": inspection.failed,
        "measures": {
            n: {"label": m.label, "unit": m.unit, "limits": m.limits, "meaning": m.meaning}
            for n, m in MEASURES.items()
        },
        "tests": {} if tests is None else tests.rows,
        "not_applied": {} if tests is None else tests.not_applied,
        "sentences": dict(said),
        "intervals": dict(intervals),
        "association": asdict(inspection.association()),
    }
    plain = _plain(kept)
    return {**plain, "methods": in_methods(plain)}


def in_methods(kept: Mapping[str, Any]) -> str:
    """A paragraph for a methods section, made from what ``everything`` holds."""
    cases, together = kept["cases"], kept["units"]
    units = len({together.get(case["name"], case["name"]) for case in cases})
    labelled = sum(case["reference"] == "label" for case in cases)
    models = ", ".join(
        f"{name} ({each['network']}, gate {each['gate']}, {each['steps']} steps, seed {each['seed']}, "
        f"weights {each['weights']})"
        for name, each in kept["models"].items()
    )
    text = (
        f"Gates were inspected with napari-prosma {kept['versions']['napari-prosma']} (PyTorch "
        f"{kept['versions']['torch']}) on {len(cases)} images, {labelled} with a label and {units} "
        "independent of each other, near-duplicates and images of one patient counted as one. "
        f"Models: {models}. Selectivity is the share of the gated skip's energy that no constant per channel "
        "explains; relative energy is psi squared over its mean, weighted by the energy of the skip. "
        f"{_intervals_in_methods(kept)}Nothing is claimed from fewer than {FEWEST} independent cases."
    )
    tests = kept["tests"]
    per_image = any(tests.get(test) for test in ("deletion_curve", "noise_test"))
    drawn = "; noise and orders also depend on the image" if per_image else ""
    draws = "Other random draws" if _random_decoders(tests) else "Random draws"
    return f"{text}{_tests_in_methods(tests)} {draws} use seed {kept['seed']}{drawn}."


def _intervals_in_methods(kept: Mapping[str, Any]) -> str:
    """How the intervals were made, of each kind that there is."""
    every = [each for held in kept["intervals"].values() for each in held]
    text = ""
    if any(each["low"] is not None and each["low"] < each["high"] for each in every):
        text = (
            f"Intervals are bootstrap-t at {100 * LEVEL:g} % ({RESAMPLES} resamples of the independent "
            "cases), at least as wide as Student's, cut at what is possible, and simultaneous over the skips "
            "and parts of a model and over the models that are compared with the first; skips that do not "
            "have the same cases share the error (Bonferroni). "
        )
    if kept["association"]["rho"] is not None:
        text += (
            f"The {100 * LEVEL:g} % interval of Spearman's rho is by Fisher's transformation with the "
            "variance of Fieller, Hartley and Pearson. "
        )
    return text


def _random_decoders(tests: Mapping[str, Sequence[Row]]) -> list[int]:
    """Seeds of the decoders that were drawn anew."""
    drawn = [row for row in tests.get("sanity_check", ()) if row["randomised"] == "decoder"]
    return sorted({int(row["seed"]) for row in drawn})


def _tests_in_methods(tests: Mapping[str, Sequence[Row]]) -> str:
    """What was done in the tests, of those alone that these gates allow."""
    rows = [row for held in tests.values() for row in held]
    if not rows:
        return ""
    tested, labelled = ({r["image"] for r in rows if key in r} for key in ("image", "dice"))
    done = []
    parts = {row["part"] for row in tests.get("leave_one_out", ())}
    if parts:
        what = "parts of the gates and whole skips" if parts & {"psi", "c"} else "whole skips"
        zero = ", and whole skips to zero" if "skip zero" in parts else ""
        done.append(f"{what} were set to their means{zero}")
    deleted = tests.get("deletion_curve", ())
    if deleted:
        shares = len({row["q"] for row in deleted})
        draws = len({row["draw"] for row in deleted if row["order"] == "random"})
        *controls, last = CONTROLS.values()
        done.append(
            f"positions of each skip were replaced by its channel means in rising order of psi ({shares} "
            f"shares), against {', '.join(controls)} and {last} (mean of {draws} random orders)"
        )
    scales = {float(row["scale"]) for row in tests.get("threshold_sweep", ())}
    if scales:
        done.append(f"lambda was multiplied by {min(scales):g} to {max(scales):g}")
    seeds = _random_decoders(tests)
    if seeds:
        decoders = "a random decoder (seed" if len(seeds) == 1 else f"{len(seeds)} random decoders (seeds"
        done.append(f"psi was correlated with that of {decoders} {', '.join(map(str, seeds))})")
    noise = {(str(row["kind"]), float(row["strength"])) for row in tests.get("noise_test", ())}
    for kind in sorted({kind for kind, _ in noise}):
        strongest = max(strength for of, strength in noise if of == kind)
        words = f"{IN_WORDS.get(kind, kind)} noise of strength 0 to {strongest:g} was added"
        done.append(f"{words} ({NOISES[kind].replace(':', ',', 1)})")
    where = windows_in_words(rows)
    window = f", in {where}" if where else ""
    left = {row["image"] for held in tests.values() for row in having_structure(held)}
    empty = len({row["image"] for row in rows if "empty" in row} - left)
    nothing = f", {empty} with nothing to lose and not counted" if empty else ""
    labels = f"{len(labelled)} with a label{nothing}"
    return f" On {len(tested)} of the images, {labels}{window}: {'; '.join(done)}."
