"""Every kind of file that the manifest claims opens in the viewer at its place, and is written so."""

from __future__ import annotations

import shutil
from pathlib import Path

import imageio.v3 as imageio
import napari
import numpy as np
import pytest
from napari.layers import Image as ImageLayer
from pydicom.data import get_testdata_file

from napari_prosma.data.case import Image
from napari_prosma.data.formats import metaimage, nifti, nrrd, ome_zarr
from napari_prosma.data.readers import read_image
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame
from napari_prosma.plugin.contributions.writer import write_image_layer, write_labels_layer
from napari_prosma.plugin.shared.layers import geometry_of

PLUGIN = "napari-prosma"
SHAPE = (6, 7, 8)
OBLIQUE = np.array([[-2.0, 0.1, 0, 11], [0.05, 1.5, 0.2, -7], [0, -0.1, 4, 3], [0, 0, 0, 1]])
VOLUMES = [".nii.gz", ".nii", ".nrrd", ".mha", ".ome.zarr"]


@pytest.fixture
def volume() -> Image:
    geometry = Geometry.patient(SourceFrame.canonical(OBLIQUE), SHAPE)
    voxels = np.random.default_rng(0).integers(-1000, 1000, (1, *SHAPE)).astype(np.int16)
    return Image(voxels, geometry)


def write(path: Path, image: Image) -> Path:
    """The volume as a file of the format that the name says."""
    if path.name.endswith(nifti.SUFFIXES):
        nifti.write_image(path, image)
    else:
        kinds = {".nrrd": nrrd, ".mha": metaimage, ".zarr": ome_zarr}
        kinds[path.suffix].write(path, image.array[0], image.geometry)
    return path


@pytest.mark.parametrize("suffix", VOLUMES)
def test_a_volume_opens_at_its_place(viewer: napari.Viewer, tmp_path: Path, volume: Image, suffix: str):
    path = write(tmp_path / f"scan{suffix}", volume)
    (layer,) = viewer.open(str(path), plugin=PLUGIN)
    assert layer.name == "scan"
    np.testing.assert_array_equal(np.asarray(layer.data), volume.array[0])
    np.testing.assert_allclose(layer.scale, volume.geometry.spacing)
    np.testing.assert_allclose(layer.translate, volume.geometry.origin)
    assert {str(unit) for unit in layer.units} == {"millimeter"}
    source = geometry_of(layer).source
    assert source is not None
    np.testing.assert_allclose(
        source.array_affine(SHAPE), volume.geometry.source.array_affine(SHAPE), atol=1e-5
    )
    place = layer.metadata["place"]
    assert place["directions"] == {"z": "feet to head", "y": "front to back", "x": "right to left"}
    assert place["axes"] == ("z", "y", "x")


@pytest.mark.parametrize("suffix", VOLUMES)
def test_layers_are_saved_through_the_manifest_over_their_file(
    viewer: napari.Viewer, tmp_path: Path, volume: Image, suffix: str
):
    (layer,) = viewer.open(str(write(tmp_path / "scan.nrrd", volume)), plugin=PLUGIN)
    labels = viewer.add_labels((layer.data > 0).astype(np.uint8), scale=layer.scale, metadata=layer.metadata)
    labels.translate, labels.units = layer.translate, layer.units
    for saved, expected in ((layer, volume.array[0]), (labels, volume.array[0] > 0)):
        viewer.layers.selection = {saved}
        path = tmp_path / f"{type(saved).__name__}{suffix}"
        viewer.layers.save(str(path), selected=True)
        found = read_image(path)
        np.testing.assert_array_equal(found.array[0], expected)
        assert found.geometry.source is not None
        np.testing.assert_allclose(
            found.geometry.source.array_affine(SHAPE), volume.geometry.source.array_affine(SHAPE), atol=1e-5
        )


def test_dicom_opens_as_a_file_and_as_a_folder_of_series(viewer: napari.Viewer, tmp_path: Path):
    slices = tmp_path / "exam"
    slices.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(get_testdata_file(name), slices / name)
    (one,) = viewer.open(str(slices / "CT_small.dcm"), plugin=PLUGIN)
    assert str(one.units[-1]) == "millimeter"
    np.testing.assert_allclose(one.scale[-2:], 0.661468)
    both = viewer.open(str(slices), plugin=PLUGIN)
    assert sorted(layer.data.shape[-2:] for layer in both) == [(64, 64), (128, 128)]


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_a_clip_opens_with_a_slider_over_time(viewer: napari.Viewer, tmp_path: Path, suffix: str):
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), dtype=np.uint8)
    path = tmp_path / f"clip{suffix}"
    imageio.imwrite(path, frames, plugin="pyav", codec="mpeg4", fps=10)
    (layer,) = viewer.open(str(path), plugin=PLUGIN)
    assert layer.rgb
    assert layer.data.shape == (5, 32, 48, 3)


def test_an_ome_zarr_is_read_where_it_is_looked_at(viewer: napari.Viewer, tmp_path: Path):
    plane = np.random.default_rng(0).integers(0, 999, (600, 700)).astype(np.uint16)
    ome_zarr.write(tmp_path / "slide.ome.zarr", plane, Geometry((0.5, 0.5), (0, 0), "um"))
    (layer,) = viewer.open(str(tmp_path / "slide.ome.zarr"), plugin=PLUGIN)
    assert layer.multiscale
    assert [level.shape for level in layer.data][:2] == [(600, 700), (300, 350)]
    assert not isinstance(layer.data[0], np.ndarray)
    assert str(layer.units[-1]) == "micrometer"
    data, attributes, _ = layer.as_layer_data_tuple()
    (written,) = write_image_layer(str(tmp_path / "copy.ome.zarr"), data, attributes)
    np.testing.assert_array_equal(read_image(written).array[0], plane)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".ome.zarr"])
@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int16", "uint16", "int32", "float16", "float64"])
def test_an_image_layer_keeps_its_values(tmp_path: Path, suffix: str, kind: str):
    values = np.random.default_rng(0).integers(0, 100, SHAPE).astype(kind)
    data, attributes, _ = ImageLayer(values, scale=(3, 2, 1), units=("mm",) * 3).as_layer_data_tuple()
    (written,) = write_image_layer(str(tmp_path / f"a{suffix}"), data, attributes)
    found = read_image(written)
    np.testing.assert_array_equal(found.array[0], values)
    np.testing.assert_allclose(found.geometry.spacing, (3, 2, 1))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".ome.zarr"])
def test_colour_keeps_its_channels(tmp_path: Path, suffix: str):
    colours = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    data, attributes, _ = ImageLayer(colours, rgb=True).as_layer_data_tuple()
    (written,) = write_image_layer(str(tmp_path / f"a{suffix}"), data, attributes)
    np.testing.assert_array_equal(read_image(written).array, np.moveaxis(colours, -1, 0))


def test_a_series_of_volumes_keeps_its_values_or_is_refused_in_words(tmp_path: Path):
    series = np.random.default_rng(0).normal(size=(3, *SHAPE))
    data, attributes, _ = ImageLayer(series, name="film").as_layer_data_tuple()
    (written,) = write_image_layer(str(tmp_path / "a.ome.zarr"), data, attributes)
    np.testing.assert_array_equal(read_image(written).array[0], series)
    (written,) = write_image_layer(str(tmp_path / "a.nii.gz"), data, attributes)
    back = read_image(written)
    np.testing.assert_array_equal(back.array[0], series)
    assert back.geometry.axes == ("t", "z", "y", "x")
    for suffix in (".mha", ".nrrd"):
        with pytest.raises(DataError, match=r"'film' has 4 axes, but .* holds 3 at most; save it as"):
            write_image_layer(str(tmp_path / f"a{suffix}"), data, attributes)
        assert not (tmp_path / f"a{suffix}").exists()
    data, attributes, _ = ImageLayer(series[None], name="film").as_layer_data_tuple()
    with pytest.raises(DataError, match="has 5 axes"):
        write_image_layer(str(tmp_path / "b.ome.zarr"), data, attributes)


def test_tiff_of_images_is_left_to_napari(viewer: napari.Viewer, tmp_path: Path):
    colours = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    viewer.add_image(colours, rgb=True)
    viewer.layers.save(str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(imageio.imread(tmp_path / "a.tif"), colours)


def test_multiscale_labels_are_written_at_their_finest(tmp_path: Path):
    labels = np.eye(8, dtype=np.uint8)
    levels, meta = [labels, labels[::2, ::2]], {"multiscale": True, "scale": (1.0, 1.0), "name": "a"}
    (written,) = write_labels_layer(str(tmp_path / "a.png"), levels, meta)
    np.testing.assert_array_equal(read_image(written).array[0], labels)
