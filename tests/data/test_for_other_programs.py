"""Names and colours of classes as 3D Slicer and ITK-SNAP keep them."""

from __future__ import annotations

from pathlib import Path

import nrrd
import numpy as np
import pytest
import tifffile

from napari_prosma.data.class_colours import colour_of
from napari_prosma.data.formats import nrrd as nrrd_format
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.readers import label_names, read_label
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


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.mha", "a.nii.gz", "a.tif", "a.ome.tif", "a.ome.zarr"])
def test_names_of_classes_may_have_any_letters(tmp_path: Path, name: str) -> None:
    names = ("background", "Läsion", "a; b: c, d", "\u809d\u81d3")
    geometry = Geometry((3.0, 2.0, 1.0), (0.0,) * 3, "mm")
    labels = (np.arange(24).reshape(2, 3, 4) % 4).astype(np.uint8)
    path = write_labels(tmp_path / name, labels, geometry, names)
    told = label_names(path)
    assert [told[number] for number in (1, 2, 3)] == list(names[1:])
    np.testing.assert_array_equal(read_label(path)[0], labels)


def test_names_as_other_programs_and_older_files_have_them(tmp_path: Path) -> None:
    slicer, older, latin = (tmp_path / name for name in ("a.seg.nrrd", "a.mha", "b.mha"))
    fields = {"Segment0_ID": "S1", "Segment0_Name": "XX", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    voxels = np.ones((2, 3, 4), np.uint8)
    nrrd.write(str(slicer), voxels, fields)
    slicer.write_bytes(slicer.read_bytes().replace(b"XX", "Läsion".encode()))
    assert label_names(slicer) == {1: "Läsion"}
    np.testing.assert_array_equal(nrrd_format.read(slicer).array, voxels.T[None])
    write_labels(older, voxels, Geometry((3.0, 2.0, 1.0), (0.0,) * 3, "mm"))
    written, told = older.read_bytes(), "NDims = 3\nComment = 0: background; 1: Läsion\n"
    for path, encoding in ((older, "utf-8"), (latin, "latin-1")):
        path.write_bytes(written.replace(b"NDims = 3\n", told.encode(encoding)))
        assert label_names(path) == {0: "background", 1: "Läsion"}
    pages = tmp_path / "a.ome.tif"
    described = {"axes": "ZYX", "Description": "class_names: none,vein"}
    tifffile.imwrite(pages, voxels, ome=True, photometric="minisblack", metadata=described)
    assert label_names(pages) == {0: "none", 1: "vein"}
