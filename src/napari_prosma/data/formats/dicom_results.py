"""What a DICOM object made of a series has in common with it: patient, study, frame of reference, planes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from napari_prosma.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

    from napari_prosma.data.formats.dicom import Series

IDENTITY = (
    "A DICOM object carries the identity of the patient, as the viewer that opens it needs it. NIfTI does not"
)
"""What is to be said before one is written."""
MANUFACTURER, MODEL = "napari-prosma", "ProSMA-UNet"
_UTF_8 = "ISO_IR 192"
_OF_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("PatientSize", "PatientWeight", "EthnicGroup", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
    *("StudyDescription", "AccessionNumber", "ReferringPhysicianName", "Modality"),
    *("PositionReferenceIndicator", "LossyImageCompression", "LossyImageCompressionRatio"),
    "LossyImageCompressionMethod",
)
_NEVER_ABSENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "Modality"),
)
"""Attributes that may be empty, but must be there."""


@dataclass(frozen=True)
class Plane:
    """Where a slice of a series lies, and the frame that was stored there; none where it is missing."""

    position: tuple[float, ...]
    instance: str
    frame_number: int | None
    """From 1, of a file of several frames."""


@dataclass(frozen=True)
class Source:
    """The series that an object is made of, as far as the object repeats it."""

    series: Series

    @cached_property
    def header(self) -> Dataset:
        """Attributes of patient and study, in UTF-8, and those that tell how the images lie.

        Raises ``DataError``: the file is no longer there.
        """
        from pydicom import Dataset, config, dcmread
        from pydicom.uid import generate_uid

        path = self.series.files[0]
        try:
            # Warnings of pydicom repeat the values, and with them the patient's name.
            with config.disable_value_validation():
                found = dcmread(path, stop_before_pixels=True, force=True)
                found.decode()
        except OSError as error:
            raise DataError(
                f"'{path}' cannot be read any longer ({error.strerror}); a DICOM object repeats what it "
                "says of the study: put the series back, or save as NIfTI"
            ) from error
        kept = Dataset()
        for name in _OF_PATIENT_AND_STUDY:
            if name in found:
                kept[name] = found[name]
        for name in _NEVER_ABSENT:
            if kept.get(name) is None:
                setattr(kept, name, "")
        kept.SpecificCharacterSet = _UTF_8
        # Headers that an anonymiser emptied get the same identifiers every time.
        uid = self.series.uid or generate_uid(entropy_srcs=[str(path)])
        kept.SeriesInstanceUID = uid
        kept.ReferencedSOPClassUID = found.get("SOPClassUID", "")
        if not kept.get("StudyInstanceUID"):
            kept.StudyInstanceUID = generate_uid(entropy_srcs=[uid, "study"])
        kept.FrameOfReferenceUID = found.get("FrameOfReferenceUID") or generate_uid(
            entropy_srcs=[uid, "frame"]
        )
        kept.Rows, kept.Columns = int(found.Rows), int(found.Columns)
        thickness = found.get("SliceThickness")
        kept.SliceThickness = thickness if thickness and thickness > 0 else self.slice_distance
        return kept

    @cached_property
    def lies_in_patient(self) -> bool:
        """Whether every frame says where in the patient it lies, and no two lie in one place."""
        first = self.series.frames[0]
        if first is None or first.orientation is None or first.in_volume:
            return False
        places = {frame.position for frame in self.series.frames if frame is not None}
        return None not in places and len(places) == sum(frame is not None for frame in self.series.frames)

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """One per frame of the series; places are made up along an axis where the series tells none."""
        source = self.series.geometry.source
        found = []
        for number, frame in enumerate(self.series.frames):
            position: tuple[float, ...] = (0.0, 0.0, float(-number))
            if self.lies_in_patient:
                if frame is not None and frame.position is not None:
                    position = frame.position
                else:
                    assert source is not None
                    right, front, head = (np.asarray(source.affine) @ (0, 0, number, 1))[:3]
                    position = (-float(right), -float(front), float(head))
            if frame is None:
                found.append(Plane(position, "", None))
            else:
                several = frame.of_frames > 1
                found.append(Plane(position, frame.instance, frame.index + 1 if several else None))
        return tuple(found)

    @cached_property
    def orientation(self) -> tuple[float, ...]:
        """Direction cosines of rows and columns."""
        first = self.series.frames[0]
        made_up = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        return first.orientation if self.lies_in_patient and first and first.orientation else made_up

    @cached_property
    def directions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors along a row, along a column, and across both."""
        rows, columns = np.split(np.array(self.orientation), 2)
        return rows, columns, np.cross(rows, columns)

    @cached_property
    def origins(self) -> np.ndarray:
        """Where the first pixel of each plane lies (n, 3), in mm."""
        return np.array([plane.position for plane in self.planes])

    @cached_property
    def spacing(self) -> tuple[float, float]:
        """Distance of rows and of columns, in mm where the series tells it."""
        first = self.series.frames[0]
        if first is not None and first.spacing is not None:
            return first.spacing[0], first.spacing[1]
        rows, columns = self.series.geometry.spacing[-2:]
        return rows, columns

    @cached_property
    def slice_distance(self) -> float:
        """Distance of neighbouring slices across their planes, in mm; 1 for a single one."""
        places = self.origins @ self.directions[2]
        return float(np.abs(np.diff(places)).mean()) if len(places) > 1 else 1.0

    @cached_property
    def instances(self) -> tuple[str, ...]:
        """The identifiers of its files, each once."""
        return tuple(dict.fromkeys(plane.instance for plane in self.planes if plane.instance))

    def reference(self, instance: str, frame_number: int | None = None) -> Dataset:
        """An item that refers to an image of the series, or to one of its frames, from 1 on."""
        from pydicom import Dataset

        item = Dataset()
        item.ReferencedSOPClassUID = self.header.ReferencedSOPClassUID
        item.ReferencedSOPInstanceUID = instance
        if frame_number is not None:
            item.ReferencedFrameNumber = frame_number
        return item
