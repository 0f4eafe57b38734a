"""From a data set to a plan: spacing, patch, batch and intensity by rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import (
    CaseFacts,
    Plan,
    balance_in_words,
    case_facts,
    content_hash,
    make_plan,
    read_facts,
    thinnest,
)
from napari_prosma.data.labels import IGNORE, count_classes
from napari_prosma.data.phantoms import CT_CLASSES, ct_case
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

NAMES = ("background", "lesion")


def facts(
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | None = None,
    unit: str = "mm",
    name: str = "case",
    image: np.ndarray | None = None,
) -> CaseFacts:
    """Facts of a case of ``shape``; by default of noise with a quarter of foreground along each axis."""
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 2, n // 2 + max(1, n // 4)) for n in shape)] = 1
    array = np.random.default_rng(0).normal(size=(1, *shape)) if image is None else image
    geometry = Geometry(spacing or (1.0,) * len(shape), (0.0,) * len(shape), unit)
    case = Case.from_arrays(name, array, label, geometry)
    return case_facts(case, case.read_image(), label)


# ---- facts ----------------------------------------------------------------------------------------------


def test_facts_say_what_a_case_holds() -> None:
    label = np.zeros((10, 12), np.uint8)
    label[2:4], label[5] = 1, 2
    image = np.arange(120, dtype=np.int16).reshape(1, 10, 12) - 7
    case = Case.from_arrays("a", image, label, Geometry((0.5, 0.4), (0.0, 0.0), "mm"))
    (found,) = read_facts([case])
    assert (found.name, found.shape, found.spacing, found.unit) == ("a", (10, 12), (0.5, 0.4), "mm")
    assert (found.channels, found.lowest, found.whole_numbers) == (1, -7, True)
    assert found.class_counts.tolist() == [84, 24, 12]
    assert sorted(found.foreground) == sorted(image[0][label > 0])


def test_the_balance_of_the_classes_counts_what_is_labelled() -> None:
    full, sparse = np.zeros((10, 10), np.uint8), np.full((10, 10), 255, np.uint8)
    full[0] = 1
    sparse[:5], sparse[9] = 0, 2
    cases = [Case.from_arrays(n, np.zeros((1, 10, 10)), label) for n, label in (("a", full), ("b", sparse))]
    said = balance_in_words(list(read_facts(cases)), ("background", "lesion", "cyst"))
    assert said == "background 87.5 %, lesion 6.2 % (in 1 of 2 cases), cyst 6.2 % (in 1 of 2 cases)"


def test_a_small_share_is_told_with_the_digits_that_it_takes() -> None:
    label = np.zeros((200, 200), np.uint8)
    label[3, 4:8] = 1
    case = Case.from_arrays("a", np.zeros((1, 200, 200)), label)
    said = balance_in_words(list(read_facts([case])), ("background", "lesion"))
    assert said == "background 99.99 %, lesion 0.01 % (in 1 of 1 cases)"


def test_no_more_foreground_is_kept_than_is_needed() -> None:
    label = np.ones((400, 400), np.uint8)
    case = Case.from_arrays("a", np.zeros((1, 400, 400)), label)
    assert 10_000 <= case_facts(case, case.read_image(), label).foreground.size < 20_000


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.uint8, bool])
def test_the_hash_is_of_the_values_however_they_lie_in_memory(kind: type) -> None:
    array = (np.random.default_rng(0).normal(size=(2, 5, 7, 9)) * 50).astype(kind)
    backwards, swapped = array[:, ::-1], np.asfortranarray(array)
    big_endian = array.astype(array.dtype.newbyteorder(">"))
    wide = np.zeros((2, 5, 7, 18), kind)
    wide[..., ::2] = array
    assert len(content_hash(array)) == 40
    assert int(content_hash(array), 16) > 0
    for same in (np.ascontiguousarray(backwards)[:, ::-1], swapped, big_endian, wide[..., ::2]):
        assert content_hash(same) == content_hash(array)


def test_the_hash_is_another_for_another_value_shape_or_type() -> None:
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    changed = array.copy()
    changed[2, 3, 4] += 1
    others = [changed, array.reshape(4, 3, 5), array.view(np.int8), array[::-1], array[None]]
    assert len({content_hash(other) for other in [array, *others]}) == 6


def test_the_hash_is_the_same_in_every_process() -> None:
    """It is kept in run.json and compared another day."""
    label = np.array([[0, 1], [2, 255]], np.uint8)
    assert content_hash(label) == "c11de2a6b113bff26215b26e288f6b0e087e03d1"


def test_facts_hold_the_hashes_of_image_and_label() -> None:
    label = np.eye(6, dtype=np.uint8)
    image = np.random.default_rng(0).normal(size=(1, 6, 6))
    case = Case.from_arrays("a", image, label)
    found = case_facts(case, case.read_image(), label)
    assert (found.image_hash, found.label_hash) == (content_hash(image), content_hash(label))


def test_cases_are_read_one_at_a_time() -> None:
    read: list[str] = []

    def case(name: str) -> Case:
        held = Case.from_arrays(name, np.zeros((1, 4, 4)), np.eye(4, dtype=np.uint8))
        return Case(name, lambda: (read.append(name), held.read_image())[1], held.read_label)

    next(read_facts([case("a"), case("b")]))
    assert read == ["a"]


# ---- spacing --------------------------------------------------------------------------------------------


def test_equal_spacings_are_left_as_they_are() -> None:
    plan = make_plan([facts((40, 40), (0.5, 0.5)), facts((60, 40), (0.51, 0.495))], NAMES)
    assert plan.native == plan.spacing
    assert plan.spacing == pytest.approx((0.505, 0.4975))
    assert plan.patch == (48, 32)


def test_different_spacings_become_their_median() -> None:
    spacings = [(2.0, 1.0, 0.9), (3.0, 1.0, 1.0), (2.5, 1.0, 1.1)]
    plan = make_plan([facts((20, 30, 30), spacing) for spacing in spacings], NAMES)
    assert plan.spacing == (2.5, 1.0, 1.0)


def test_large_pixel_images_are_shrunk_until_their_median_short_side_fits() -> None:
    images = [
        facts((512, 700), unit="pixel"),
        facts((480, 500), unit="pixel"),
        facts((900, 530), unit="pixel"),
    ]
    assert make_plan(images, NAMES).spacing == (2.0, 2.0)
    assert make_plan(images, NAMES, side=128).spacing == (4.0, 4.0)
    assert make_plan(images, NAMES, side=128).patch == (128, 128)


def lines(width: int, label_of_others: int = 0) -> CaseFacts:
    """Facts of a picture of 600 x 640 pixels, crossed by lines of so many pixels."""
    label = np.full((600, 640), label_of_others, np.uint8)
    for at in range(20, 580, 40):
        label[at : at + width, 20:620] = 1
    geometry = Geometry((1.0, 1.0), (0.0, 0.0), "pixel")
    case = Case.from_arrays("lines", np.zeros((1, 600, 640), np.uint8), label, geometry)
    return case_facts(case, case.read_image(), label)


@pytest.mark.parametrize(("width", "side"), [(1, 600), (3, 400), (4, 300), (6, 256)])
def test_images_are_not_shrunk_so_far_that_lines_are_lost(width: int, side: int) -> None:
    plan = make_plan([lines(width)] * 3, NAMES)
    zoom = 1.0 if plan.spacing is None else plan.spacing[0]
    assert 600 / zoom == pytest.approx(side, rel=0.01)
    assert make_plan([lines(width)] * 3, NAMES, side=128).spacing == pytest.approx((600 / 128,) * 2)


def test_the_border_of_what_is_labelled_is_none_of_a_structure() -> None:
    assert lines(3, label_of_others=255).thickness[1] == np.inf
    assert make_plan([lines(3, label_of_others=255), lines(40)], NAMES).spacing == (600 / 256,) * 2


def test_the_thinnest_class_of_a_usual_case_counts() -> None:
    wide, thin = lines(20), lines(2)
    for cases, thickness, side in (([wide, wide, thin], 20, 62), ([thin, thin, wide], 2, 600)):
        found = thinnest(cases)
        assert found is not None
        assert (found.of_class, found.side) == (1, side)
        assert found.thickness == pytest.approx(thickness, rel=0.05)
    assert thinnest([]) is None


@pytest.mark.parametrize(("shape", "unit"), [((256, 300), "pixel"), ((200, 260), "mm")])
def test_small_images_are_not_shrunk(shape: tuple[int, int], unit: str) -> None:
    plan = make_plan([facts(shape, unit=unit)], NAMES)
    assert plan.spacing == plan.native == ((1.0, 1.0) if unit == "mm" else None)


def test_images_with_a_physical_size_are_shrunk_to_one_spacing() -> None:
    images = [facts((512, 700), (0.2, 0.2)), facts((512, 512), (0.2, 0.2)), facts((600, 900), (0.2, 0.2))]
    plan = make_plan(images, NAMES, side=128)
    assert (plan.spacing, plan.unit, plan.side) == (pytest.approx((0.8, 0.8)), "mm", None)
    assert plan.native == (0.2, 0.2)


@pytest.mark.parametrize("scale", [(0.3, 0.3), (2.0, 2.0), (1.0, 2.0)])
@pytest.mark.parametrize("same_scale", [True, False])
def test_a_scale_without_a_unit_is_no_size(scale: tuple[float, float], same_scale: bool) -> None:
    plain = make_plan([facts((512, 600), unit="pixel")], NAMES, same_scale=same_scale)
    assert make_plan([facts((512, 600), scale, "pixel")], NAMES, same_scale=same_scale) == plain


def test_volumes_are_shrunk_within_the_slices_that_a_2d_network_sees() -> None:
    volume = facts((10, 512, 640), (5.0, 0.5, 0.5))
    assert make_plan([volume], NAMES).spacing == (5.0, 1.0, 1.0)
    assert make_plan([volume], NAMES, dims=3).spacing == (5.0, 0.5, 0.5)
    assert make_plan([volume], NAMES).native == (5.0, 0.5, 0.5)
    assert make_plan([facts((40, 512, 640), (5.0, 0.5, 0.5))], NAMES).spacing == (5.0, 0.5, 0.5)


def test_images_without_a_physical_size_have_one_short_side_or_one_magnification() -> None:
    images = [
        facts((512, 700), unit="pixel"),
        facts((512, 512), unit="pixel"),
        facts((900, 1024), unit="pixel"),
    ]
    plan = make_plan(images, NAMES)
    assert (plan.side, plan.spacing) == (256, (2.0, 2.0))
    assert "short side 256 pixels" in plan.in_words()
    alike = make_plan(images, NAMES, same_scale=True)
    assert (alike.side, alike.spacing) == (None, (2.0, 2.0))
    assert make_plan(images, NAMES, spacing=(3.0, 3.0)).side is None


def test_images_of_which_some_know_no_size_are_planned_as_if_none_did() -> None:
    known, unknown = facts((900, 1200), (0.2, 0.2)), facts((512, 600), unit="pixel")
    plan = make_plan([known, unknown], NAMES)
    assert plan == make_plan([facts((900, 1200), unit="pixel"), unknown], NAMES)
    assert (plan.side, plan.unit, plan.native) == (256, "pixel", None)


def test_classes_are_counted_without_what_is_not_labelled() -> None:
    label = np.zeros((3, 4, 5), np.uint8)
    label[0, 0], label[1], label[2, 1:] = 2, IGNORE, IGNORE
    assert count_classes(label).tolist() == [20, 0, 5]
    assert count_classes(label[:1] > 0).tolist() == [15, 5]
    assert count_classes(label[1]).tolist() == []


# ---- patch, batch, dims ---------------------------------------------------------------------------------


@given(
    st.lists(st.integers(4, 700), min_size=2, max_size=2)
    | st.lists(st.integers(4, 60), min_size=3, max_size=3),
    st.sampled_from([4, 16, 32]),
)
@settings(deadline=None, max_examples=40)
def test_patches_fit_the_network_and_the_memory(size: list[int], divisor: int) -> None:
    plan = make_plan([facts(tuple(size), image=np.zeros((1, *size), np.uint8))], NAMES, divisor=divisor)
    assert len(plan.patch) == plan.dims
    assert all(n % divisor == 0 and n > 0 for n in plan.patch)
    if plan.dims == 2:
        assert max(plan.patch) <= 320
    assert np.prod(plan.patch) <= 2**18
    assert 2 <= plan.batch <= 16
    for n, original in zip(plan.patch, size[-plan.dims :], strict=True):
        assert n <= max(original + divisor / 2, divisor)


def test_a_patch_is_the_median_size_where_there_is_room() -> None:
    assert make_plan([facts((100, 60)), facts((96, 66)), facts((90, 50))], NAMES).patch == (96, 64)
    assert make_plan([facts((40, 100, 100))], NAMES).patch == (32, 80, 96)


@pytest.mark.parametrize(
    ("shape", "chosen", "dims"),
    [
        ((64, 64), None, 2),
        ((40, 32, 32), None, 3),
        ((7, 32, 32), None, 2),
        ((40, 32, 32), 2, 2),
        ((7, 32, 32), 3, 3),
    ],
)
def test_dims_follow_the_data_unless_chosen(shape: tuple[int, ...], chosen: int | None, dims: int) -> None:
    assert make_plan([facts(shape)], NAMES, chosen).dims == dims


def test_a_3d_network_needs_volumes() -> None:
    with pytest.raises(DataError, match="2D images cannot train a 3D network"):
        make_plan([facts((64, 64))], NAMES, 3)


# ---- intensity ------------------------------------------------------------------------------------------


def test_hounsfield_units_get_the_ct_rule_from_their_foreground() -> None:
    cases = [ct_case(seed, (16, 48, 48), (12.0, 8.0, 8.0)) for seed in range(3)]
    known = list(read_facts(cases))
    plan = make_plan(known, CT_CLASSES[:2])
    values = np.concatenate([fact.foreground for fact in known])
    low, high = np.percentile(values, (0.5, 99.5))
    assert plan.intensity == "ct"
    assert plan.clip == pytest.approx((low, high))
    assert plan.clip[0] < plan.mean < plan.clip[1]
    assert plan.mean == pytest.approx(values.clip(low, high).mean(), rel=1e-4)
    assert plan.std == pytest.approx(values.clip(low, high).std(), rel=1e-4)


@pytest.mark.parametrize("spoiled", ["one case starts at 0", "fractions", "two channels"])
def test_what_is_not_hounsfield_units_is_normalised_image_by_image(spoiled: str) -> None:
    rng = np.random.default_rng(0)
    hounsfield = rng.integers(-1000, 1000, (2, 20, 32, 32)).astype(np.int16)
    images = [hounsfield[:1], hounsfield[1:]]
    if spoiled == "one case starts at 0":
        images[1] = images[1].clip(0)
    elif spoiled == "fractions":
        images = [image + 0.25 for image in images]
    else:
        images = [hounsfield, hounsfield]
    plan = make_plan([facts((20, 32, 32), image=image) for image in images], NAMES)
    assert plan.intensity == "zscore"


# ---- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch": (32,)}, "patch"),
        ({"patch": (32, 0)}, "patch"),
        ({"spacing": (1.0, -1.0)}, "spacing"),
        ({"intensity": "ct"}, "clip limits"),
        ({"intensity": "ct", "clip": (0, 1), "std": 0}, "spread"),
        ({"class_names": ("background",)}, "class_names"),
        ({"dims": 4}, "dims"),
        ({"colour": 3}, "colour"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Plan(**{"dims": 2, "channels": 1, "class_names": NAMES, "patch": (32, 32), "batch": 2, **change})


def test_a_plan_comes_back_from_json_and_can_be_read_by_a_person() -> None:
    plan = make_plan(
        [facts((20, 30, 30), (3.0, 0.1 + 0.2, 1 / 3)), facts((20, 30, 30), (1.0, 1.0, 1.0))], NAMES
    )
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    words = plan.in_words()
    assert words.startswith("3D, 1 channel, classes background, lesion; spacing")
    assert f"{plan.batch} per step" in words
