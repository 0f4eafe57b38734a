"""Series as a clinic has them, with a patient's identity, made on the spot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_files import AXIAL, save_slice
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from napari_prosma.data.readers import read_image
from napari_prosma.data.writers import write_dicom

NAME = "Doe^Jürgen"
SECRET = "Verysecretname"
"""How the names of several patients begin; nowhere but in DICOM may it be found."""
SHAPE = (5, 12, 10)
"""Slices, rows, columns."""
_PLACE = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
_C, _S = np.cos(0.3), np.sin(0.3)
ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": (_C, _S, 0.0, -_S * _C, _C * _C, _S),
    "gantry-tilted": AXIAL,
    "reversed": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
}
KINDS = (*ORIENTATIONS, "enhanced multi-frame", "single ultrasound", "ultrasound clip", "one CT slice")


def identity(patient: str = NAME, study: str = "1.2.840.1", frame: str = "1.2.840.2") -> dict[str, object]:
    return {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": patient,
        "PatientID": f"ID of {patient}",
        "PatientBirthDate": "19610203",
        "PatientSex": "O",
        "StudyInstanceUID": study,
        "StudyDate": "20260101",
        "StudyTime": "101112",
        "StudyID": "7",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Roe^Jane",
        "FrameOfReferenceUID": frame,
    }


def pixels(shape: Sequence[int] = SHAPE, seed: int = 0) -> np.ndarray:
    """No value occurs twice, so that each tells where it is."""
    return np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(np.uint16)


def save_stack(
    folder: Path, stack: np.ndarray, kind: str = "axial", uid: str = "1.2.3", **fields: object
) -> Path:
    """A file per slice, named so that the order of the names is not that of the places."""
    orientation = ORIENTATIONS[kind]
    normal = np.cross(orientation[:3], orientation[3:])
    step = np.array([0.0, 0.7, 3.0]) if kind == "gantry-tilted" else 3.0 * normal
    for number, plane in enumerate(stack):
        place = np.array([-20.5, 31.25, 100.0]) + number * step
        name = f"{(number * 7) % len(stack)}-{number}.dcm"
        values = {**identity(), "InstanceNumber": number + 1, **fields}
        save_slice(folder / name, place.round(6), plane, uid, tuple(np.round(orientation, 8)), **values)
    return folder


def save_enhanced(path: Path, stack: np.ndarray, order: Sequence[int], **fields: object) -> Path:
    """A multi-frame MR whose frames lie in any order."""
    groups = []
    for number in order:
        group, place, orientation, measures = (Dataset() for _ in range(4))
        place.ImagePositionPatient = [1, 2, 3 * number]
        orientation.ImageOrientationPatient = list(AXIAL)
        measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 3
        group.PlanePositionSequence, group.PlaneOrientationSequence = [place], [orientation]
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    values = {
        **identity(),
        "SOPClassUID": EnhancedMRImageStorage,
        "Modality": "MR",
        "NumberOfFrames": len(stack),
        "PerFrameFunctionalGroupsSequence": groups,
        **fields,
    }
    save_slice(path, (0, 0, 0), stack[list(order)], **values)
    _without(path, *_PLACE)
    return path


def save_ultrasound(path: Path, frames: np.ndarray, **fields: object) -> Path:
    """A clip (t, y, x), or an image (y, x), that does not say where it lies."""
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.01, 0.02
    is_clip = frames.ndim == 3
    values = {
        **identity(),
        "SOPClassUID": UltrasoundMultiFrameImageStorage if is_clip else UltrasoundImageStorage,
        "Modality": "US",
        "SequenceOfUltrasoundRegions": [region],
        **({"NumberOfFrames": len(frames), "FrameTime": 40} if is_clip else {}),
        **fields,
    }
    save_slice(path, (0, 0, 0), frames, **values)
    _without(path, "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID")
    return path


def save_kind(folder: Path, kind: str) -> Path:
    """A series of one of ``KINDS``; where it lies."""
    if kind in ORIENTATIONS:
        return save_stack(folder, pixels(), kind)
    if kind == "enhanced multi-frame":
        return save_enhanced(folder / "a.dcm", pixels(), (2, 0, 4, 3, 1))
    if kind == "one CT slice":
        save_slice(folder / "a.dcm", (1, 2, 3), pixels()[0], **identity())
        return folder / "a.dcm"
    frames = pixels()
    return save_ultrasound(folder / "a.dcm", frames if kind == "ultrasound clip" else frames[0])


def save_patients(folder: Path, suffix: str, patients: int = 3, shape: Sequence[int] = SHAPE) -> None:
    """Patients whose segments have another order, and other letters, each; labels lie in another folder."""
    for n in range(patients):
        who = identity(f"{SECRET}{n}^Patient", f"1.2.840.{n}", f"1.2.841.{n}")
        label = np.zeros(shape, np.uint8)
        label[1, 2:5, 2:5], label[2, 6:9, 3:8] = 1, 2
        image = pixels(shape, n) % 100 + label.astype(np.uint16) * 200
        series = read_image(save_stack(folder / f"p{n}" / "ct", image, uid=f"1.2.3.{n}", **who)).series
        assert series is not None
        save_stack(folder / f"p{n}" / "scout", pixels((2, 12, 10)), "coronal", f"1.2.4.{n}", **who)
        names = ("background", "Liver", "Tumour")
        if n == 1:
            label, names = np.where(label, 3 - label, 0).astype(np.uint8), ("background", "TUMOUR", "liver ")
        write_dicom(folder / "labels" / f"{n}{suffix}", label, series, names)


def judged(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy (of dicom3tools) is not installed")
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False, errors="replace")
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def _without(path: Path, *names: str) -> None:
    import pydicom

    data = pydicom.dcmread(path)
    for name in names:
        if name in data:
            delattr(data, name)
    data.save_as(path)
