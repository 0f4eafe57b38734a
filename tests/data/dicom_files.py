"""CT slices as DICOM files, made on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def save_slice(
    path: Path,
    place: Iterable[float],
    pixels: np.ndarray,
    uid: str = "1.2.3",
    orientation: tuple[float, ...] = AXIAL,
    **fields: object,
) -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.SeriesInstanceUID, data.SeriesDescription, data.Modality = uid, "thorax", "CT"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.PixelSpacing, data.SliceThickness = [0.5, 0.25], 2.0
    data.ImagePositionPatient, data.ImageOrientationPatient = list(place), list(orientation)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
