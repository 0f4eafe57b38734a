"""Names and colours of classes as 3D Slicer and ITK-SNAP keep them."""

from __future__ import annotations

from pathlib import Path

import nrrd
import numpy as np

from napari_prosma.data.class_colours import colour_of
from napari_prosma.data.formats import nrrd as nrrd_format
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.writers import write_descriptions, write_labels
from napari_prosma.geometry import Geometry


def test_segments_keep_names_and_colours_and_layers_of_slicer_show_them(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    geometry = Geometry((3.0, 2.0, 1.0), (0.0,) * 3, "mm")
    write_labels(path, np.arange(24).reshape(2, 3, 4) % 3, geometry, ("background", "liver", "vein"))
    assert nrrd_format.label_names(path) == {1: "liver", 2: "vein"}
    assert nrrd_format.label_colours(path) == {1: colour_of(1), 2: colour_of(2)}
    fields = nrrd.read_header(str(path))
    assert fields["Segment0_Extent"] == "0 3 0 2 0 1"


def test_descriptions_for_itk_snap_name_the_classes_when_read(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    geometry = Geometry((3.0, 2.0, 1.0), (0.0,) * 3, "mm")
    labels = np.arange(24).reshape(2, 3, 4) % 3
    write_labels(tmp_path / "images" / "a.nii.gz", labels + 5, geometry)
    write_labels(tmp_path / "masks" / "a.nii.gz", labels, geometry)
    write_descriptions(tmp_path / "masks" / "a_labels.txt", ("background", 'left "lobe"', "vein"))
    assert find_cases(tmp_path).class_names == ("background", "left 'lobe'", "vein")
