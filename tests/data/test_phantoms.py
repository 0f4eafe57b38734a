"""Made-up patients are the same each time, differ from each other, and have something to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_prosma.data.case import Case
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ct_case, sample_folder, ultrasound_case, write_samples
from napari_prosma.data.readers import read_image, read_label

SMALL = (12, 48, 48)
SPACING = (15.0, 7.0, 7.0)


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray]:
    assert case.read_label is not None
    return case.read_image().array, case.read_label()


@pytest.mark.parametrize("make", [ultrasound_case, lambda seed: ct_case(seed, SMALL, SPACING)])
def test_a_seed_gives_the_same_patient_and_another_seed_another(make) -> None:  # type: ignore[no-untyped-def]
    (image, label), (again, label_again) = arrays(make(5)), arrays(make(5))
    assert np.array_equal(image, again)
    assert np.array_equal(label, label_again)
    assert not np.array_equal(image, arrays(make(6))[0])


def test_lesions_are_darker_than_what_is_around_them() -> None:
    for seed in range(12):
        image, label = arrays(ultrasound_case(seed))
        assert image.dtype == np.uint8
        assert image.shape == (1, *label.shape)
        assert 0.003 < label.mean() < 0.35
        assert image[0][label == 1].mean() < image[0][(label == 0)].mean()


def test_ultrasound_grows_darker_with_depth() -> None:
    image = np.mean([arrays(ultrasound_case(seed))[0][0] for seed in range(8)], axis=(0, 2))
    assert image[10:40].mean() > image[-30:].mean() + 20


def test_ct_is_in_hounsfield_units_and_the_spleen_lies_left_and_behind() -> None:
    for seed in range(3):
        image, label = arrays(ct_case(seed, SMALL, SPACING))
        assert image.dtype == np.int16
        assert np.median(image[0][:, 0, 0]) == pytest.approx(-1000, abs=30)
        assert image.max() > 300
        assert image[0][label == 1].mean() == pytest.approx(120, abs=25)
        _, back, left = np.argwhere(label == 1).mean(axis=0)
        assert left > SMALL[2] / 2
        assert back > SMALL[1] / 2


def test_ct_spacing_is_not_one_and_lies_in_a_patient_frame() -> None:
    case = ct_case(0, SMALL, SPACING, with_lesion=True)
    geometry = case.read_image().geometry
    assert geometry.spacing == SPACING
    assert geometry.source is not None
    assert set(np.unique(arrays(case)[1])) == {0, 1, 2}


def test_the_sample_data_are_what_the_seeds_make(tmp_path: Path) -> None:
    written = write_samples(tmp_path)
    for made in written:
        kept = sample_folder() / made.relative_to(tmp_path)
        assert np.array_equal(read_label(kept)[0], read_label(made)[0]), kept
        assert read_image(kept).geometry == read_image(made).geometry


def test_the_sample_data_are_small_and_found_as_data_sets() -> None:
    folder = sample_folder()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 3_000_000
    ultrasound, ct = find_cases(folder / "ultrasound"), find_cases(folder / "ct")
    assert (len(ultrasound.cases), ultrasound.dims, ultrasound.channels) == (24, 2, 1)
    assert (len(ct.cases), ct.dims) == (2, 3)
