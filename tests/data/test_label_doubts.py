"""What the values of masks are taken for, and what is said of doubtful ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import tifffile

from napari_prosma.data.label_doubts import guessed_rule, is_hollow, rule_of_arrays, slices_in_words
from napari_prosma.data.labels import IGNORE, LabelRule, rule_from_text, rule_to_text
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.readers import read_label, read_label_with_note
from napari_prosma.errors import DataError

Save = Callable[..., Path]


def disc(shape: tuple[int, int] = (40, 48), radius: float = 10, value: int = 1) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = (y - shape[0] / 2) ** 2 + (x - shape[1] / 2) ** 2 < radius**2
    return np.where(inside, value, 0).astype(np.uint8)


def outline(width: int = 48, height: int = 40) -> np.ndarray:
    picture = PIL.Image.new("L", (width, height))
    PIL.ImageDraw.Draw(picture).ellipse((8, 6, width - 8, height - 6), outline=255)
    return np.asarray(picture)


def cells(count: int, seed: int) -> np.ndarray:
    """Numbered squares of any size; a few numbers are missing, as where cells were taken out."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((80, 80), np.uint16)
    for n in range(count):
        side = int(rng.integers(2, 9))
        top, left = 10 * (n // 8), 10 * (n % 8)
        if n % 7 != 3:
            ids[top : top + side, left : left + side] = n + 1
    return ids


def data_of(save: Save, folder: Path, *masks: np.ndarray) -> Path:
    for n, mask in enumerate(masks):
        noise = np.random.default_rng(n).integers(0, 256, mask.shape).astype(np.uint8)
        save(f"images/{n}.png", noise)
        save(f"masks/{n}.png", mask)
    return folder


def test_255_beside_1_is_a_border_that_nobody_decided(save_picture: Save, tmp_path: Path) -> None:
    mask = disc(radius=12, value=255)
    mask[disc(radius=10) > 0] = 1
    data = find_cases(data_of(save_picture, tmp_path, mask, mask))
    assert data.labels == LabelRule("values", ("background", "foreground"), (0, 1), unlabelled=255)
    assert "255 beside 1 is read as an undecided border" in data.notices[0]
    label = data.cases[0].read_label()  # type: ignore[misc]
    assert int((label == 1).sum()) == int((mask == 1).sum())
    assert int((label == IGNORE).sum()) == int((mask == 255).sum())


def test_1_and_255_in_different_masks_are_one_class(save_picture: Save, tmp_path: Path) -> None:
    data = find_cases(data_of(save_picture, tmp_path, disc(), disc(value=255)))
    assert (data.labels.kind, data.notices) == ("on", ())


def test_a_late_mask_with_both_values_is_refused_with_what_to_do() -> None:
    mask = disc(value=255)
    mask[0, 0] = 1
    with pytest.raises(DataError, match=r"both 1 and 255.*unlabelled=255, else with any=lesion"):
        LabelRule("on", ("background", "lesion")).apply(mask, "m.png")


@pytest.mark.parametrize("void", [255, 65535])
def test_a_far_value_beside_class_numbers_is_unlabelled(void: int) -> None:
    rule = LabelRule.of_values({0, 1, 2, 3, void})
    assert (rule.values, rule.unlabelled) == ((0, 1, 2, 3), void)
    assert LabelRule.of_values({0, 85, 170, 255}).unlabelled is None
    assert LabelRule.of_values({0, 2, 255}).values == (0, 2)


@pytest.mark.parametrize("values", [{-1, 0, 1}, {-1, 0, 1, 2}, {-100, 0, 1}])
def test_a_value_below_0_is_unlabelled(values: set[int]) -> None:
    rule = LabelRule.of_values(values)
    assert rule.unlabelled == min(values)
    assert rule.apply(np.array([0, 1, min(values)]), "a").tolist() == [0, 1, IGNORE]


@pytest.mark.parametrize("values", [{-1, 1}, {-2, -1, 0, 1}])
def test_values_below_0_that_nothing_explains_are_refused(values: set[int]) -> None:
    with pytest.raises(DataError, match=r"nothing tells what those below 0 mean; name every value"):
        LabelRule.of_values(values)


def test_nearly_whole_numbers_are_rounded_and_told(tmp_path: Path) -> None:
    for n in range(2):
        for kind, array in (("images", np.random.default_rng(n).random((6, 7, 8))), ("labels", np.zeros(1))):
            if kind == "labels":
                array = np.zeros((6, 7, 8))
                array[1:3, 2:5, 2:5], array[4, 2:5, 2:5] = 1.00002, 2.00004
            (tmp_path / kind).mkdir(exist_ok=True)
            nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)).to_filename(tmp_path / kind / f"{n}.nii")
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "label 1", "label 2")
    assert "nearly whole" in data.notices[0]


def test_soft_edges_of_resized_masks_are_no_classes(save_picture: Save, tmp_path: Path) -> None:
    masks = []
    for n in range(4):
        large = PIL.Image.fromarray(disc((80, 96), 20, 255)).rotate(4 * n)
        masks.append(np.asarray(large.resize((48, 40), PIL.Image.Resampling.BILINEAR)))
    data = find_cases(data_of(save_picture, tmp_path, *masks))
    assert data.labels.kind == "above"
    assert "soft edges" in data.notices[0]


def test_classes_with_areas_of_their_own_are_no_soft_edges() -> None:
    mask = disc(value=255)
    for n, value in enumerate((60, 120, 180)):
        mask[2:8, 4 + 9 * n : 11 + 9 * n] = value
    rule, _ = rule_of_arrays([mask])
    assert rule.values == (0, 60, 120, 180, 255)


def test_numbered_objects_with_gaps_are_one_structure(save_picture: Save, tmp_path: Path) -> None:
    data = find_cases(data_of(save_picture, tmp_path, *(cells(20 + 9 * n, n) for n in range(4))))
    assert data.labels.kind == "any"


def test_a_single_picture_of_many_numbered_objects_is_one_structure() -> None:
    ids = np.zeros((80, 80), np.uint16)
    for n in range(60):
        ids[10 * (n // 8) : 10 * (n // 8) + 6, 10 * (n % 8) : 10 * (n % 8) + 6] = n + 1
    assert rule_of_arrays([ids])[0].kind == "any"


def test_organs_of_their_own_sizes_stay_classes() -> None:
    """In one piece each and not in every volume, but every number has its size."""
    volumes = []
    for n in range(4):
        organs = np.zeros((30, 30, 40), np.uint8)
        for k in range(12 + n % 2):
            side = 1 + k // 2
            organs[2 : 2 + side, 3 : 3 + side, 3 * k : 3 * k + 2] = k + 1
        volumes.append(organs)
    rule, _ = rule_of_arrays(volumes)
    assert (rule.kind, len(rule.class_names)) == ("values", 14)


def test_many_values_are_told_with_how_to_join_them() -> None:
    organs = np.arange(1, 26, dtype=np.uint8).repeat(12).reshape(25, 4, 3)
    rule, doubts = rule_of_arrays([organs])
    assert len(rule.class_names) == 26
    assert "25 values are read as separate classes" in doubts[0]


def test_thin_outlines_are_told_and_can_be_filled(save_picture: Save, tmp_path: Path) -> None:
    folder = data_of(save_picture, tmp_path, outline(), outline(46, 42))
    data = find_cases(folder)
    assert "outlines one element thin" in data.notices[0]
    before = int(data.cases[0].read_label().sum())  # type: ignore[misc]
    filled = find_cases(folder, labels=rule_from_text("on=head,filled"))
    after = int(filled.cases[0].read_label().sum())  # type: ignore[misc]
    assert after > 5 * before
    assert "outlines are filled" in filled.labels.in_words()
    assert rule_to_text(filled.labels) == "0=background,on=head,filled"


def test_what_is_filled_or_thin_for_another_reason_is_no_outline() -> None:
    assert is_hollow(outline() > 0)
    assert not is_hollow(disc() > 0)
    line = np.zeros((40, 48), bool)
    line[20, 4:40] = True
    assert not is_hollow(line)
    volume = np.zeros((5, 40, 48), bool)
    volume[2] = outline() > 0
    assert is_hollow(volume)


def test_a_mask_that_cannot_be_read_leaves_the_others_to_tell(save_picture: Save, tmp_path: Path) -> None:
    good = save_picture("a.png", disc(value=2))
    bad = tmp_path / "b.png"
    bad.write_bytes(b"no picture")
    rule, _ = guessed_rule([good, bad], 2)
    assert rule.values == (0, 2)


def test_values_as_large_as_an_atlas_has_them_take_no_memory() -> None:
    """Counted up to, 600,000,000 would fill it."""
    atlas = np.zeros((8, 8, 8), np.uint32)
    atlas[2:4], atlas[5:7] = 600_000_000, 14_015
    rule, _ = rule_of_arrays([atlas, atlas])
    assert rule.values == (0, 14_015, 600_000_000)


def test_a_red_mask_in_jpeg_is_as_bright_as_a_white_one(tmp_path: Path) -> None:
    red = np.zeros((40, 48, 3), np.uint8)
    red[..., 0] = disc(value=255)
    PIL.Image.fromarray(red).save(tmp_path / "red.jpg", quality=95, subsampling=0)
    stored, _ = read_label(tmp_path / "red.jpg")
    assert np.count_nonzero((stored > 127) != (red[..., 0] > 0)) <= 8


def test_a_negative_value_alone_is_what_was_drawn() -> None:
    assert LabelRule.of_values({-1, 0}).in_words() == "0 is background, -1 is foreground"


@pytest.mark.parametrize("on", [1, 255])
@pytest.mark.parametrize("with_background", [True, False])
def test_channels_of_classes_become_their_numbers(with_background: bool, on: int, tmp_path: Path) -> None:
    first, second = disc(radius=10), np.roll(disc(radius=4), 20, axis=1)
    first[second > 0] = 0
    channels = [first, second]
    if with_background:
        channels.insert(0, 1 - first - second)
    for n in range(3):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        PIL.Image.fromarray(np.random.default_rng(n).integers(0, 255, first.shape, np.uint8)).save(
            tmp_path / "images" / f"{n}.png"
        )
        np.save(tmp_path / "masks" / f"{n}.npy", np.stack(channels) * np.uint8(on))
    read = find_cases(tmp_path).cases[0].read_label
    assert read is not None
    np.testing.assert_array_equal(read(), first + 2 * second)


@pytest.mark.parametrize("pages", [3, 4])
def test_pages_over_a_mask_of_one_plane_are_channels(pages: int, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for n in range(3):
        stack = np.random.default_rng(n).integers(0, 255, (pages, 40, 48), np.uint8)
        tifffile.imwrite(tmp_path / "images" / f"{n}.tif", stack, photometric="minisblack")
        PIL.Image.fromarray(disc(value=255)).save(tmp_path / "masks" / f"{n}.png")
    data = find_cases(tmp_path)
    assert (data.channels, data.dims) == (pages, 2)
    assert data.cases[0].read_image().array.shape == (pages, 40, 48)
    assert f"the {pages} pages of an image are read as channels, since the labels are planes" in data.notices


def test_nan_outside_the_patient_is_background(tmp_path: Path) -> None:
    label = np.ones((4, 5, 6), np.float32)
    label[0], label[1] = np.nan, 0
    nibabel.Nifti1Image(label.T, np.eye(4)).to_filename(tmp_path / "label.nii.gz")
    stored, _, note = read_label_with_note(tmp_path / "label.nii.gz")
    assert np.count_nonzero(stored) == 60
    assert note == "25.00 % of the labels is NaN; taken as background"


@pytest.mark.parametrize("across", [0, 1, 2])
def test_single_slices_with_nothing_drawn_between_are_doubted(across: int, tmp_path: Path) -> None:
    def doubted(*slices: int, thick: int = across) -> bool:
        label = np.zeros((20, 24, 24), np.uint8)
        label[list(slices), 5:15, 6:18] = 1
        label = np.moveaxis(label, 0, across)
        spacing = np.where(np.arange(3) == 2 - thick, 5.0, 1.0)
        affine = np.diag((*spacing, 1.0))
        nibabel.Nifti1Image(label.T, affine).to_filename(tmp_path / "labels.nii.gz")
        _, doubts = guessed_rule([tmp_path / "labels.nii.gz"], 3)
        return any("single slices" in doubt and "--labelled slices" in doubt for doubt in doubts)

    assert doubted(2, 9, 16)
    assert not doubted(2, 9, 16, thick=(across + 1) % 3)  # thin sheets, each drawn in every slice
    assert not doubted(2, 3, 9, 16)
    assert not doubted()


@pytest.mark.parametrize(
    ("slices", "size", "doubt"),
    [
        ((9,), 5, "labels are in a single slice in 1 of 1 volumes"),
        ((7, 8, 9, 10), 5, "labels end abruptly from one slice to the next"),
        ((7, 8), 8, "labels end abruptly from one slice to the next"),
        ((7, 8), 1, ""),  # a small structure has no more
        (range(20), 5, ""),  # a vessel through all of the volume
        (range(12), 5, "labels end abruptly"),
    ],
)
def test_volumes_drawn_in_part_are_doubted(
    slices: Sequence[int], size: int, doubt: str, tmp_path: Path
) -> None:
    label = np.zeros((20, 24, 24), np.uint8)
    label[list(slices), 4 : 4 + 2 * size, 5 : 5 + 2 * size] = 1
    nibabel.Nifti1Image(label.T, np.diag((1.0, 1.0, 2.0, 1.0))).to_filename(tmp_path / "labels.nii.gz")
    _, doubts = guessed_rule([tmp_path / "labels.nii.gz"], 3)
    assert [doubt in said for said in doubts] == [True] * bool(doubt)


def test_what_half_of_the_volumes_do_not_show_is_not_said_of_them() -> None:
    single, abrupt = "labels are in a single slice", "labels end abruptly"
    assert slices_in_words([single, abrupt, "", ""]) == ()
    (said,) = slices_in_words([single, single, abrupt])
    assert said.startswith(f"{single} in 2 of 3 volumes checked")


def test_a_structure_that_tapers_is_not_drawn_in_part(tmp_path: Path) -> None:
    z, y, x = np.ogrid[:20, :24, :24]
    ball = ((z - 10) / 5) ** 2 + ((y - 12) / 9) ** 2 + ((x - 12) / 9) ** 2 < 1
    nibabel.Nifti1Image(ball.astype(np.uint8).T, np.eye(4)).to_filename(tmp_path / "labels.nii.gz")
    assert guessed_rule([tmp_path / "labels.nii.gz"], 3)[1] == ()


def test_labels_in_part_are_doubted_although_their_values_are_told(tmp_path: Path) -> None:
    label = np.zeros((12, 16, 16), np.uint8)
    label[5, 4:12, 4:12] = 1
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    noise = np.random.default_rng(0).normal(size=label.shape).astype(np.float32)
    nibabel.Nifti1Image(noise.T, np.eye(4)).to_filename(tmp_path / "imagesTr" / "a.nii.gz")
    nibabel.Nifti1Image(label.T, np.eye(4)).to_filename(tmp_path / "labelsTr" / "a.nii.gz")
    listed = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
    table = {"labels": {"0": "background", "1": "liver"}, "training": listed}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    data = find_cases(tmp_path)
    assert any("in a single slice" in notice for notice in data.notices)
    told = find_cases(tmp_path, labels=data.labels.sparse("slices"))
    assert not any("in a single slice" in notice for notice in told.notices)


def _save_numbered(folder: Path, counts: Sequence[tuple[int, ...]], factor: int, first: int) -> list[Path]:
    """Masks in which the objects of classes 1 and 2 are numbered from ``first`` on, so many of each."""
    for n, objects in enumerate(counts):
        mask = np.zeros((40, 40), np.uint16)
        for number, several in enumerate(objects, 1):
            for k in range(several):
                mask[20 * number - 15 : 20 * number - 8, 6 * k + 1 : 6 * k + 5] = factor * number + first + k
        PIL.Image.fromarray(mask).save(folder / f"{n:02}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(("factor", "first"), [(1000, 0), (1000, 1), (256, 1)])
def test_objects_numbered_within_their_class_are_that_class(factor: int, first: int, tmp_path: Path) -> None:
    masks = _save_numbered(tmp_path, [(3, 1), (1, 2), (4, 3), (2, 0)], factor, first)
    rule, (doubt,) = guessed_rule(masks, 2)
    assert rule.class_names == ("background", "label 1", "label 2")
    assert set(np.unique(rule.apply(read_label(masks[2])[0], masks[2]))) == {0, 1, 2}
    assert f"4 values from {factor + first} to {factor + first + 3} are label 1" in rule.in_words()
    assert "are read as objects of one class (class 1 x" in doubt


@pytest.mark.parametrize(
    ("counts", "classes"),
    [
        ([(4, 3)] * 5 + [(4, 2)], 7),
        ([(3, 2)] * 5 + [(4, 2)], 6),
        ([(3, 2)] * 8 + [(4, 2)] + [(3, 2)] * 25, 6),
        ([(2,)] * 3 + [(1,)] * 3, 2),
    ],
    ids=["lacking", "further", "further, not among those looked at", "one more in half"],
)
def test_the_numbers_of_an_atlas_stay_classes(
    counts: list[tuple[int, ...]], classes: int, tmp_path: Path
) -> None:
    masks = _save_numbered(tmp_path, counts, 1000, 1)
    rule, (doubt,) = guessed_rule(masks, 2)
    assert len(rule.class_names) == 1 + classes
    assert "1001 and 1002 are read as separate classes; if they number objects" in doubt


def test_numbers_that_a_palette_shows_alike_are_told(tmp_path: Path) -> None:
    for n in range(3):
        drawn = np.zeros((16, 16), np.uint8)
        drawn[2:6, 2:6], drawn[8:12, 8 + n : 12], drawn[8:12, 2:5] = 1, 2, 3
        picture = PIL.Image.fromarray(drawn, "P")
        picture.putpalette([0, 0, 0, 255, 0, 0, 255, 0, 0, *(0,) * 759])
        picture.save(tmp_path / f"{n}.png")
    _, (background, both) = guessed_rule(sorted(tmp_path.iterdir()), 2)
    assert "shows 3 in the same colour as 0, the background" in background
    assert "3=background" in background
    assert "shows 2 in the same colour as 1, but" in both


def test_a_background_that_is_not_0_is_doubted(tmp_path: Path) -> None:
    for n in range(3):
        mask = np.full((16, 16), 255, np.uint8)
        mask[4 + n : 9, 3:8] = 0
        PIL.Image.fromarray(mask).save(tmp_path / f"{n}.png")
    masks = sorted(tmp_path.iterdir())
    _, doubts = guessed_rule(masks, 2)
    assert any("255 surrounds all else in every mask" in doubt for doubt in doubts)
    mask[5, 3:8] = mask[6, 3:8] = np.arange(1, 6)
    mask[6, 3:8] += 5
    PIL.Image.fromarray(mask).save(tmp_path / "2.png")
    _, doubts = guessed_rule(sorted(tmp_path.iterdir()), 2)
    assert any(
        doubt.endswith(",0=NAME,1=NAME,2=NAME,3=NAME,4=NAME,5=NAME,6=NAME,7=NAME,...)") for doubt in doubts
    )
    mask[5:7, 3:8] = 0
    PIL.Image.fromarray(mask).save(tmp_path / "2.png")
    assert rule_from_text("255=background,0=lesion").apply(mask, masks[0])[8, 4] == 1
    PIL.Image.fromarray(255 - mask).save(masks[0])
    assert not any("surrounds all" in doubt for doubt in guessed_rule(masks, 2)[1])


def test_masks_without_a_0_are_told_so_with_every_value_to_name(tmp_path: Path) -> None:
    for n in range(3):
        trimap = np.full((16, 16), 2, np.uint8)
        trimap[4 + n : 12, 3:8], trimap[12, 3:8] = 1, 3
        PIL.Image.fromarray(trimap).save(tmp_path / f"{n}.png")
    masks = sorted(tmp_path.iterdir())
    _, (around, nothing) = guessed_rule(masks, 2)
    assert "--classes 2=background,1=NAME,3=NAME" in around
    assert "0 occurs in no mask, so nothing is learned as background" in nothing
    PIL.Image.fromarray(trimap % 2).save(masks[0])
    assert guessed_rule(masks, 2)[1] == ()


def test_classes_in_colours_of_jpeg_are_told(tmp_path: Path) -> None:
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[8:30, 8:50] = 255, 0, 0
    for name, other in (("one", (255, 0, 0)), ("two", (0, 255, 0))):
        colours[34:56, 8:50] = other
        PIL.Image.fromarray(colours).save(tmp_path / f"{name}.jpg", quality=90)
    assert guessed_rule([tmp_path / "one.jpg"], 2)[1] == ()
    assert (
        "flat areas of a middle gray or of several colours" in guessed_rule([tmp_path / "two.jpg"], 2)[1][0]
    )


def test_classes_in_grays_with_smooth_edges_are_told(tmp_path: Path) -> None:
    for n in range(3):
        grays = np.zeros((32, 32), np.uint8)
        grays[4:14, 4 + n : 14], grays[20:28, 18:28] = 85, 255
        smooth = PIL.Image.fromarray(grays).resize((64, 64), PIL.Image.Resampling.BILINEAR)
        smooth.save(tmp_path / f"{n}.png")
    _, (edges,) = guessed_rule(sorted(tmp_path.iterdir()), 2)
    assert "values such as 5 lie only at edges, as after resizing or JPEG, and are read as classes" in edges


def test_a_few_numbers_that_may_be_objects_are_told(tmp_path: Path) -> None:
    def doubts(*masks: list[int], is_nested: bool = False) -> tuple[str, ...]:
        for n, sides in enumerate(masks):
            mask = np.zeros((48, 48), np.uint8)
            for k, side in enumerate(sides):
                place = slice(24 - side, 24 + side) if is_nested else slice(15 * k, 15 * k + side)
                mask[place, place] = k + 1
            PIL.Image.fromarray(mask).save(tmp_path / f"{n}.png")
        return guessed_rule([tmp_path / f"{n}.png" for n in range(len(masks))], 2)[1]

    lesions = [9, 4, 12], [3, 11], [10], [5, 8]
    assert (
        "each value is one connected region, and masks have different numbers of them; if"
        in doubts(*lesions)[0]
    )
    assert doubts([20, 6, 2], [19, 5], [22], [18, 7], is_nested=True) == ()  # each has its size
    assert doubts([9, 4], [3, 11], [12, 10], [5, 8]) == ()  # both in every mask


@pytest.mark.parametrize("first", [1, 8])
def test_the_numbers_of_vertebrae_are_no_numbers_of_objects(first: int) -> None:
    """Volumes that show a part of the spine; objects would be numbered from 1 on."""
    volumes = []
    for n in range(4):
        volume = np.zeros((60, 12, 12), np.uint8)
        for k in range(8 + n % 2):
            volume[6 * k : 6 * k + 4, 2 : 5 + (3 * k + 5 * n) % 7, 3:9] = (
                (first > 1) * (first + n - 1) + k + 1
            )
        volumes.append(volume)
    assert rule_of_arrays(volumes)[0].kind == ("any" if first == 1 else "values")


def test_a_1_of_jpeg_is_no_class_beside_255(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:40] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "a.jpg", quality=40)
    assert set(np.unique(read_label(tmp_path / "a.jpg")[0])) == {1, 255}
    assert guessed_rule([tmp_path / "a.jpg"], 2) == (LabelRule("above", ("background", "foreground")), ())


def test_a_middle_gray_of_jpeg_masks_is_told(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:40] = 255
    for name, array in (("two", mask), ("three", np.where(np.arange(64) < 24, mask // 2 + 1, mask))):
        PIL.Image.fromarray(array.astype(np.uint8)).save(tmp_path / f"{name}.jpg", quality=40)
        rule, doubts = guessed_rule([tmp_path / f"{name}.jpg"], 2)
        assert rule.kind == "above"
        assert any("middle gray" in doubt for doubt in doubts) == (name == "three")


def test_objects_numbered_in_the_red_of_a_mask_are_objects(tmp_path: Path) -> None:
    paths = []
    for number in (6, 9, 12):
        mask = np.zeros((32, 48, 4), np.uint8)
        mask[..., 3] = 255
        for k in range(number):
            mask[2 + 10 * (k // 6) :, 2 + 8 * (k % 6) :][:5, : 3 + k % 4, 0] = k + 1
        paths.append(tmp_path / f"{number}.png")
        PIL.Image.fromarray(mask).save(paths[-1])
    assert guessed_rule(paths, 2)[0].kind == "any"


def test_palettes_that_each_mask_sorts_in_its_own_way_are_refused(tmp_path: Path) -> None:
    red, green = (255, 0, 0), (0, 255, 0)
    drawn = np.zeros((8, 8), np.uint8)
    drawn[2:5, 1:4], drawn[2:5, 5:7] = 1, 2
    masks = []
    for n, colours in enumerate(((red, green), (red, green), (green, red))):
        picture = PIL.Image.fromarray(drawn, "P")
        picture.putpalette([0, 0, 0, *colours[0], *colours[1], *(0,) * 759])
        picture.save(tmp_path / f"{n}.png")
        masks.append(tmp_path / f"{n}.png")
    assert guessed_rule(masks[:2], 2)[0].class_names == ("background", "label 1", "label 2")
    with pytest.raises(
        DataError, match=r"2\.png' shows #00ff00 as 1, but '0\.png' as 2: each mask sorts its"
    ):
        guessed_rule(masks, 2)


def test_a_palette_with_a_colour_of_several_numbers_is_no_other_palette(tmp_path: Path) -> None:
    colours = [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 0, 0]  # 1 and 4 are red
    for name, numbers in (("a", (1, 2)), ("b", (4, 3))):
        drawn = np.zeros((8, 8), np.uint8)
        drawn[2:5, 1:4], drawn[2:5, 5:7] = numbers
        picture = PIL.Image.fromarray(drawn, "P")
        picture.putpalette(colours)
        picture.save(tmp_path / f"{name}.png")
    assert guessed_rule(sorted(tmp_path.iterdir()), 2)[0].values == (0, 1, 2, 3, 4)


def test_masks_of_one_value_may_show_1_and_255_in_one_colour(tmp_path: Path) -> None:
    white, black = (255, 255, 255), (0, 0, 0)
    palettes = {"a": (1, (black, white)), "b": (255, (*[black] * 2, *[(9, 9, n) for n in range(253)], white))}
    for name, (value, palette) in palettes.items():
        drawn = np.zeros((8, 8), np.uint8)
        drawn[2:5, 1:4] = value
        picture = PIL.Image.fromarray(drawn, "P")
        picture.putpalette([part for colour in palette for part in colour])
        picture.save(tmp_path / f"{name}.png")
    rule, _ = guessed_rule(sorted(tmp_path.iterdir()), 2)
    assert rule.class_names == ("background", "foreground")


@pytest.mark.parametrize(("first", "second"), [("RG", "RGB"), ("R", "")])
def test_masks_of_which_a_program_saved_few_colours_are_refused(
    first: str, second: str, tmp_path: Path
) -> None:
    for name, colours in (("a", first), ("b", second)):
        drawn = np.zeros((16, 16, 3), np.uint8)
        for n, colour in enumerate(colours):
            drawn[1 + 5 * n :, 1:6, "RGB".index(colour)][:4] = 255
        PIL.Image.fromarray(drawn).quantize(8).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="each mask sorts its palette in its own way"):
        guessed_rule(sorted(tmp_path.iterdir()), 2)


def test_masks_in_the_palette_of_pascal_voc_are_read(tmp_path: Path) -> None:
    palette = [
        sum((n >> (3 * bit + part) & 1) << (7 - bit) for bit in range(3))
        for n in range(256)
        for part in range(3)
    ]
    for name, numbers in (("a", (1, 15)), ("b", (15, 255))):
        drawn = np.zeros((8, 8), np.uint8)
        drawn[2:5, 1:4], drawn[2:5, 5:7] = numbers
        picture = PIL.Image.fromarray(drawn, "P")
        picture.putpalette(palette)
        picture.save(tmp_path / f"{name}.png")
    assert {1, 15} <= set(guessed_rule(sorted(tmp_path.iterdir()), 2)[0].values)
