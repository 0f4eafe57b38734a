"""Which prediction is measured against which truth."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.labels import LabelRule
from napari_prosma.data.marks import keep_marks
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import DataError
from napari_prosma.events import Finished
from napari_prosma.geometry import Geometry
from napari_prosma.segmentation.evaluate import evaluate
from napari_prosma.segmentation.pairs import Pairs, find_pairs

MASK = np.array([[0, 1, 1], [0, 1, 0]], np.uint8)


def save(folder: Path, **files: np.ndarray) -> Path:
    """PNG files by stem."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in files.items():
        PIL.Image.fromarray(array).save(folder / f"{stem}.png")
    return folder


def names(found: Pairs) -> dict[str, str]:
    """Prediction file by case."""
    return {pair.name: pair.predicted.files[0].name for pair in found.pairs}


def labels(found: Pairs) -> list[tuple[list, list]]:
    """Class indices of the prediction and the truth of every pair."""
    read = [(pair.predicted.read_label, pair.truth.read_label) for pair in found.pairs]
    return [(one().tolist(), other().tolist()) for one, other in read if one and other]


@pytest.mark.parametrize("truth", ["scan", "scan_mask", "scan-gt", "scan_label_1", "scan_image"])
@pytest.mark.parametrize("predicted", ["scan_labels", "scan", "scan_seg"])
def test_names_may_end_in_what_a_file_is(tmp_path: Path, truth: str, predicted: str) -> None:
    found = find_pairs(
        save(tmp_path / "p", **{predicted: MASK}, other_labels=MASK),
        save(tmp_path / "t", **{truth: MASK}, **{name + truth[4:]: MASK for name in ("more", "most")}),
    )
    assert names(found) == {"scan": f"{predicted}.png"}
    assert found.notices == (
        "1 prediction has no reference and will be left out, the first is 'other_labels.png'",
        "2 cases have no prediction and will be left out, the first is 'more'",
    )
    assert found.unpaired == {
        "more": "no prediction",
        "most": "no prediction",
        "other_labels.png": "no reference",
    }


def test_255_in_the_truth_is_1_in_the_prediction(tmp_path: Path) -> None:
    found = find_pairs(save(tmp_path / "p", a=MASK, b=MASK), save(tmp_path / "t", a=MASK * 255, b=MASK))
    assert labels(found) == [(MASK.tolist(), MASK.tolist())] * 2
    assert found.class_names == ("background", "foreground")
    assert found.notices == ()


def test_a_truth_in_jpeg_is_cut_at_half_and_its_prediction_is_not(tmp_path: Path) -> None:
    mask = np.kron(MASK, np.ones((16, 16), np.uint8))
    (tmp_path / "t").mkdir()
    PIL.Image.fromarray(mask * 255).save(tmp_path / "t" / "a.jpg")
    assert labels(find_pairs(save(tmp_path / "p", a=mask), tmp_path / "t")) == [(mask.tolist(),) * 2]


def test_several_true_masks_of_one_case_are_united(tmp_path: Path) -> None:
    one, other = MASK * [[0, 1, 0]], MASK * [[0, 0, 1]]
    truth = save(tmp_path / "t", a_mask=one.astype(np.uint8), a_mask_1=other.astype(np.uint8))
    found = find_pairs(save(tmp_path / "p", a_labels=MASK), truth)
    assert labels(found) == [(MASK.tolist(), MASK.tolist())]


def test_a_data_set_gives_its_classes_and_its_images(tmp_path: Path) -> None:
    """The Decathlon's table names the classes; a case's name is its image's."""
    data = tmp_path / "Task"
    for kind in ("imagesTr", "labelsTr"):
        (data / kind).mkdir(parents=True)
        for name in ("hip_001", "hip_002"):
            volume = nibabel.Nifti1Image(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3, np.eye(4))
            nibabel.save(volume, data / kind / f"{name}.nii.gz")
    listed = ", ".join(
        f'{{"image": "imagesTr/{n}.nii.gz", "label": "labelsTr/{n}.nii.gz"}}' for n in ("hip_001", "hip_002")
    )
    (data / "dataset.json").write_text(
        f'{{"labels": {{"0": "background", "1": "Anterior", "2": "Posterior"}}, "training": [{listed}]}}'
    )
    geometry = Geometry((1.0,) * 3, (0.0,) * 3, "mm")
    write_labels(tmp_path / "p" / "hip_002_labels.nii.gz", np.zeros((4, 3, 2), np.uint8), geometry)
    found = find_pairs(tmp_path / "p", data)
    assert names(found) == {"hip_002": "hip_002_labels.nii.gz"}
    assert found.class_names == ("background", "Anterior", "Posterior")
    assert found.pairs[0].truth.files[0] == data / "imagesTr" / "hip_002.nii.gz"
    assert any("hip_001" in notice for notice in found.notices)


def test_masks_beside_their_images_are_a_data_set(tmp_path: Path) -> None:
    """BUSI: spaces and brackets in the names, several masks, and a prediction called after the image."""
    files = {"benign (1)": MASK * 90, "benign (1)_mask": MASK * 255, "benign (1)_mask_1": MASK[::-1] * 255}
    truth = save(tmp_path / "busi" / "benign", **files).parent
    found = find_pairs(save(tmp_path / "p", **{"benign (1)_labels": MASK}), truth)
    assert names(found) == {"benign (1)": "benign (1)_labels.png"}
    assert found.class_names == ("background", "lesion")
    assert labels(found)[0][1] == np.maximum(MASK, MASK[::-1]).tolist()


def test_predictions_may_hold_class_numbers_or_the_values_of_the_truth(tmp_path: Path) -> None:
    truth = save(tmp_path / "t", a=np.array([[0, 2, 5]], np.uint8), b=np.array([[0, 2, 2]], np.uint8))
    for stored in ([[0, 1, 2]], [[0, 2, 5]]):
        folder = save(tmp_path / f"p{stored[0][1]}", a=np.array(stored, np.uint8))
        found = find_pairs(folder, truth)
        assert found.class_names == ("background", "label 2", "label 5")
        assert labels(found) == [([[0, 1, 2]], [[0, 1, 2]])]
    named = find_pairs(folder, truth, {0: "background", 2: "spleen", 5: "liver"})
    assert named.class_names == ("background", "spleen", "liver")


def test_it_is_said_that_a_reference_of_several_classes_may_number_objects(tmp_path: Path) -> None:
    truth = save(tmp_path / "t", a=np.array([[0, 1, 2, 3]], np.uint8))
    predicted = save(tmp_path / "p", a=np.array([[0, 1, 1, 1]], np.uint8))
    *_, said = find_pairs(predicted, truth).notices
    assert "the reference is read as 3; if its values number objects" in said
    assert "any=NAME" in said
    for named in ({0: "background", 1: "a", 2: "b", 3: "c"}, LabelRule.instances("gland")):
        assert not any("number objects" in said for said in find_pairs(predicted, truth, named).notices)
    several = save(tmp_path / "q", a=np.array([[0, 1, 1, 2]], np.uint8))
    assert not any("number objects" in said for said in find_pairs(several, truth).notices)


def test_what_nobody_decided_may_stand_in_predictions_too(tmp_path: Path) -> None:
    folders = [save(tmp_path / kind, a=np.array([[0, 1, 2, 255]], np.uint8)) for kind in "pt"]
    assert labels(find_pairs(*folders)) == [([[0, 1, 2, 255]], [[0, 1, 2, 255]])]


def test_255_of_a_prediction_is_the_class_where_the_reference_has_it_for_a_border(tmp_path: Path) -> None:
    truth = save(tmp_path / "t", a=np.array([[0, 1, 255]], np.uint8))
    predicted = save(tmp_path / "p", a=np.array([[0, 255, 0]], np.uint8))
    assert labels(find_pairs(predicted, truth)) == [([[0, 1, 0]], [[0, 1, 255]])]


def test_predictions_in_jpeg_are_cut_at_half(tmp_path: Path) -> None:
    mask = np.kron(MASK, np.ones((16, 16), np.uint8)) * np.uint8(255)
    truth = save(tmp_path / "t", a=mask)
    PIL.Image.fromarray(mask).save(tmp_path / "a.jpg", quality=60)
    ((ours, theirs),) = labels(find_pairs(tmp_path / "a.jpg", truth))
    assert ours == theirs


def test_it_is_said_how_predictions_of_a_reference_with_gaps_are_read(tmp_path: Path) -> None:
    truth = save(tmp_path / "t", a=np.array([[0, 2, 3]], np.uint8))
    numbers = find_pairs(save(tmp_path / "p", a=np.array([[0, 1, 2]], np.uint8)), truth)
    assert numbers.notices[-1].startswith(
        "predictions are read as class numbers (1 is label 2, 2 is label 3); if they hold the values of the "
        "reference, name every value"
    )
    few = save(tmp_path / "q", a=np.array([[0, 2, 2]], np.uint8))  # index 2, or the value 2
    assert "read by the values of the reference (2 is label 2, 3 is label 3); if they hold class" in " ".join(
        find_pairs(few, truth).notices
    )
    clear = save(tmp_path / "r", a=np.array([[0, 2, 3]], np.uint8))
    named = find_pairs(tmp_path / "p", truth, {0: "background", 1: "a", 2: "b", 3: "c"})
    assert labels(named) == [([[0, 1, 2]], [[0, 2, 3]])]
    for found in (named, find_pairs(clear, truth)):
        assert not any("are read" in told for told in found.notices)


def test_names_of_class_numbers_say_what_a_prediction_of_few_classes_holds(tmp_path: Path) -> None:
    names = ("background", "liver", "tumour")
    stored = {"t": np.array([[0, 2, 5]]), "p": np.array([[0, 2, 2]])}
    for kind, array in stored.items():
        (tmp_path / kind).mkdir()
        named = names if kind == "p" else ()
        write_labels(tmp_path / kind / "a.nii.gz", array.astype(np.uint8), Geometry.pixels(2), named)
    found = find_pairs(tmp_path / "p", tmp_path / "t")
    ((ours, theirs),) = labels(found)
    assert (np.ravel(ours).tolist(), np.ravel(theirs).tolist()) == ([0, 2, 2], [0, 1, 2])
    assert not any("are read" in told for told in found.notices)


def test_numbers_of_cases_are_not_those_of_their_masks(tmp_path: Path) -> None:
    masks = {f"scan_mask_{n}": MASK * np.uint8(n == 1) for n in (1, 2)}
    truth = save(tmp_path / "t", **masks)
    same = find_pairs(save(tmp_path / "p", **masks), truth)
    assert names(same) == {f"scan_mask_{n}": f"scan_mask_{n}.png" for n in (1, 2)}
    cases = {f"scan_{n}": MASK for n in (1, 2)}
    by_number = find_pairs(save(tmp_path / "q", **cases), truth)
    assert names(by_number) == {f"scan_{n}": f"scan_{n}.png" for n in (1, 2)}
    united = find_pairs(save(tmp_path / "r", scan_labels=MASK), truth)
    assert names(united) == {"scan": "scan_labels.png"}
    assert united.notices == (
        "1 reference is united from several files, the first from 'scan_mask_1.png' and 'scan_mask_2.png'",
    )


def test_a_prediction_of_another_class_names_its_file(tmp_path: Path) -> None:
    found = find_pairs(save(tmp_path / "p", a=MASK * 2, b=MASK), save(tmp_path / "t", a=MASK, b=MASK))
    last = list(evaluate(found))[-1]
    assert isinstance(last, Finished)
    assert "a.png' hold the value 2" in last.result.failed["a"]
    assert [case.pair.name for case in last.result.cases] == ["b"]


def test_a_damaged_file_fails_alone(tmp_path: Path) -> None:
    folders = [save(tmp_path / kind, a=MASK, b=MASK, c=MASK) for kind in ("p", "t")]
    for folder, name in zip(folders, "ab", strict=True):
        (folder / f"{name}.png").write_bytes(b"\x89PNG no more")
    last = list(evaluate(find_pairs(*folders)))[-1]
    assert isinstance(last, Finished)
    assert sorted(last.result.failed) == ["a", "b"]
    assert [case.pair.name for case in last.result.cases] == ["c"]


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    found = find_pairs(
        save(tmp_path / "p", mine=MASK) / "mine.png", save(tmp_path / "t", gold=MASK) / "gold.png"
    )
    assert names(found) == {"gold": "mine.png"}


def test_a_copy_of_the_image_beside_its_labels_is_no_second_prediction(tmp_path: Path) -> None:
    predicted = save(tmp_path / "p", scan=MASK * 90, scan_labels=MASK)
    assert names(find_pairs(predicted, save(tmp_path / "t", scan=MASK))) == {"scan": "scan_labels.png"}


def test_maps_that_were_written_beside_labels_are_no_predictions(tmp_path: Path) -> None:
    maps = {f"scan_{kind}": MASK for kind in ("labels", "uncertainty", "probabilities")}
    found = find_pairs(save(tmp_path / "p", **maps), save(tmp_path / "t", scan=MASK))
    assert names(found) == {"scan": "scan_labels.png"}
    assert found.notices == ()
    # Without labels beside it, it may well be one.
    found = find_pairs(save(tmp_path / "q", a_uncertainty=MASK), save(tmp_path / "u", a_uncertainty=MASK))
    assert names(found) == {"a_uncertainty": "a_uncertainty.png"}


def test_marks_beside_labels_are_no_labels(tmp_path: Path) -> None:
    predictions, truth = save(tmp_path / "p", a_labels=MASK), save(tmp_path / "t", a=MASK)
    for path in (predictions / "a_labels.png", truth / "a.png"):
        keep_marks(path, MASK, {"accepted": MASK > 0})
    found = find_pairs(predictions, truth)
    assert names(found) == {"a": "a_labels.png"}
    assert found.notices == ()


def test_names_that_fit_twice_are_refused(tmp_path: Path) -> None:
    truth = save(tmp_path / "t", scan=MASK)
    twice = save(tmp_path / "p", scan_labels=MASK, scan_seg=MASK)
    with pytest.raises(DataError, match=r"scan_labels.png' and 'scan_seg.png' both predict 'scan'; keep one"):
        find_pairs(twice, truth)
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            save(tmp_path / "data" / split / kind, scan=MASK)
    with pytest.raises(DataError, match=r"could predict .*test.* or .*train"):
        find_pairs(save(tmp_path / "one", scan_labels=MASK), tmp_path / "data")


def test_what_cannot_be_paired_is_said(tmp_path: Path) -> None:
    truth, other = save(tmp_path / "t", a=MASK, b=MASK), save(tmp_path / "p", x=MASK, y=MASK)
    with pytest.raises(
        DataError, match=r"named after a case in .*'x.png' and 'a.png'; give them the same names"
    ):
        find_pairs(other, truth)
    with pytest.raises(DataError, match="does not exist"):
        find_pairs(tmp_path / "nowhere", truth)
    with pytest.raises(DataError, match="holds no label file"):
        find_pairs(save(tmp_path / "empty"), truth)
    save(tmp_path / "bare" / "images", a=MASK)
    (tmp_path / "bare" / "masks").mkdir()
    with pytest.raises(DataError, match="holds images but no labels"):
        find_pairs(other, tmp_path / "bare")


def test_predictions_for_several_channel_files_are_named_after_the_case_or_the_first_file(
    tmp_path: Path,
) -> None:
    """nnU-Net calls its result ``hip``, we call ours after the file that was opened: ``hip_0000``."""
    for kind, name in (("imagesTr", "hip_0000"), ("imagesTr", "hip_0001"), ("labelsTr", "hip")):
        write_labels(
            tmp_path / "data" / kind / f"{name}.nii.gz", MASK[None], Geometry((1.0,) * 3, (0.0,) * 3)
        )
    for number, name in enumerate(("hip", "hip_0000_labels")):
        place = tmp_path / str(number) / f"{name}.nii.gz"
        write_labels(place, MASK[None], Geometry.pixels(3))
        assert names(find_pairs(place.parent, tmp_path / "data")) == {"hip": place.name}


def test_what_a_broken_run_left_behind_is_no_prediction(tmp_path: Path) -> None:
    predicted = save(tmp_path / "p", **{"a": MASK, ".writing-7-b_labels": MASK})
    truth = save(tmp_path / "t", **{"a": MASK, "b": MASK, "._a": MASK})
    assert names(find_pairs(predicted, truth)) == {"a": "a.png"}
    assert find_pairs(predicted, truth).notices == (
        "1 case has no prediction and will be left out, the first is 'b'",
    )


def test_predictions_go_by_the_names_in_their_files(tmp_path: Path) -> None:
    truth, predicted = tmp_path / "t", tmp_path / "p"
    label = np.zeros((2, 3, 4), np.uint8)
    label[0, 0], label[0, 1] = 1, 2
    swapped = np.where(label > 0, 3 - label, 0).astype(np.uint8)
    geometry = Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "mm")
    write_labels(truth / "a.nii.gz", label, geometry, ("background", "liver", "tumour"))
    write_labels(predicted / "a.nii.gz", swapped, geometry, ("background", "tumour", "liver"))
    found = find_pairs(predicted, truth)
    assert found.class_names == ("background", "liver", "tumour")
    assert labels(found) == [(label.tolist(), label.tolist())]
    write_labels(predicted / "a.nii.gz", label, geometry, ("background", "liver", "cyst"))
    assert any("'cyst' is taken for 'tumour'" in notice for notice in find_pairs(predicted, truth).notices)
    write_labels(predicted / "a.nii.gz", label, geometry, ("background", "tumour", "cyst"))
    with pytest.raises(DataError, match="which is 2 in the reference"):
        find_pairs(predicted, truth)
