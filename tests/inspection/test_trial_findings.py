"""What is said of the tests' rows: for each kind of rows the sentence that is right, word for word."""

from __future__ import annotations

import re

import numpy as np
import pytest

from napari_prosma.inspection.faithfulness import ALL_SKIPS, CONTROLS, Row
from napari_prosma.inspection.statistics import noting, simultaneous
from napari_prosma.inspection.trial_findings import CONSTANT, NOTHING, TESTED

NAN = float("nan")


def spread(mean: float, cases: int, by: float = 0.01) -> list[float]:
    """So many values around a mean, the same each time."""
    return (mean + by * np.random.default_rng(1).standard_normal(cases)).tolist()


def worths(part: str, means: dict[int, float], cases: int, **further: str | float) -> list[Row]:
    return [
        {"image": f"{n}", "skip": skip, "part": part, "worth": value, "dice": 0.8 - value, **further}
        for skip, mean in means.items()
        for n, value in enumerate(spread(mean, cases))
    ]


def deleted(psi: float, cases: int, skip: int = 1, **controls: float) -> list[Row]:
    found: list[Row] = []
    for order, mean in {"psi": psi, **dict.fromkeys(CONTROLS, 0.5), **controls}.items():
        for n, value in enumerate(spread(mean, cases)):
            known: Row = {"image": f"{n}", "skip": skip, "order": order, "draw": 0}
            found += [{**known, "q": q, "dice": value} for q in (0.0, 0.5)]
    return found


def swept(change: float, cases: int, by: float = 0.0) -> list[Row]:
    noise = spread(change, cases, by)
    own = spread(0.7, cases)
    return [
        {"image": f"{n}", "skip": 1, "scale": scale, "dice": own[n] + moved[n], "z_zero_fraction": zeros}
        for scale, moved, zeros in ((0.0, noise, 0.0), (1.0, [0.0] * cases, 0.5), (4.0, noise, 0.9))
        for n in range(cases)
    ]


def correlated(random: float, other: float | None, cases: int) -> list[Row]:
    found: list[Row] = []
    for what, mean in {"decoder": random, "another training": other}.items():
        if mean is not None:
            found += [
                {"image": f"{n}", "randomised": what, "seed": 0, "skip": 1, "correlation": value}
                for n, value in enumerate(spread(mean, cases))
            ]
    return found


def noisy(
    losses: dict[str, float], cases: int, clean: dict[str, float] | None = None, score: str = "dice"
) -> list[Row]:
    """Dice from ``clean`` (default .8) without noise to that less a loss at strength 1."""
    return [
        {
            "image": f"{n}",
            "model": m,
            "skip": 1,
            "kind": "speckle",
            "strength": s,
            score: (clean or {}).get(m, 0.8) - s * v,
        }
        for m, loss in losses.items()
        for n, v in enumerate(spread(loss, cases))
        for s in (0.0, 1.0)
    ]


SAID: list[tuple[str, str, list[Row], str]] = [
    (
        "three cases claim nothing, though one skip leads by far",
        "leave_one_out",
        worths("psi", {1: 0.01, 2: 0.4}, 3),
        r"Dice lost with psi at its mean: 0\.01\d at skip 1, 0\.40\d at skip 2\. "
        r"No claim from 3 independent cases; 8 are needed\.",
    ),
    (
        "one case",
        "leave_one_out",
        worths("psi", {1: 0.3}, 1),
        r".*No claim from 1 independent case; 8 are needed\.",
    ),
    (
        "a loss, a gain, none and what is not shown",
        "leave_one_out",
        worths("psi", {1: 0.2, 2: -0.2, 3: 0.0}, 12)
        + [{**r, "worth": float(r["worth"]) * 30} for r in worths("c", {1: 0.0}, 12)],
        r"Dice lost with psi at its mean: 0\.20\d at skip 1 \(\+0\.\d+ to \+0\.\d+\); gain: "
        r"-0\.19\d at skip 2 \(-0\.\d+ to -0\.\d+\); less than 0\.01: -?0\.00\d at skip 3 \(-0\.00\d to "
        r"\+0\.0\d\d\)\. Dice lost with c at its mean: not shown: 0\.0\d\d at skip 1 "
        r"\(-0\.\d+ to \+0\.\d+\)\.",
    ),
    (
        "what one case alone loses is not shown",
        "leave_one_out",
        [
            {"image": f"{n}", "skip": 1, "part": "psi", "worth": 0.6 * (n == 3), "dice": 0.8}
            for n in range(12)
        ],
        r"Dice lost with psi at its mean: not shown: 0\.050 at skip 1\.",
    ),
    (
        "all skips come last",
        "leave_one_out",
        worths("both", {ALL_SKIPS: 0.3, 1: 0.2}, 9),
        r"Dice lost with psi and c at their means: 0\.20\d at skip 1 \(.*\), 0\.30\d at all skips \(.*\)\.",
    ),
    (
        "one window of one image",
        "leave_one_out",
        worths("psi", {1: 0.3}, 1, window="32 x 48 x 32 of 33 x 53 x 37"),
        r"In one window \(32 x 48 x 32 of 33 x 53 x 37\): Dice lost with .*",
    ),
    (
        "one window of many images",
        "leave_one_out",
        worths("psi", {1: 0.3}, 9, window="32 x 32 of 64 x 64"),
        r"In one window of each image: Dice lost with .*",
    ),
    (
        "no label",
        "leave_one_out",
        [
            {"image": f"{n}", "skip": 1, "part": "psi", "agreement": v, "effect": 0.1}
            for n, v in enumerate(spread(0.6, 9))
        ],
        r"Dice against the unchanged prediction with psi at its mean: 0\.60\d at skip 1 \(.*\)\. "
        r"Without a label, it is unknown whether this is a loss\.",
    ),
    (
        "faithful beyond the best control",
        "deletion_curve",
        deleted(0.9, 10, energy=0.8),
        r".*psi is better at skip 1 \(0\.90\d against 0\.80\d with energy of the encoder; \+0\.100 "
        r"in each of 10 independent cases\)\. So psi is faithful at skip 1\.",
    ),
    (
        "better than chance is not enough",
        "deletion_curve",
        deleted(0.7, 10, centre=0.8, random=0.1),
        r".*psi is worse at skip 1 \(0\.70\d against 0\.80\d with distance to the centre; .*\)\. "
        r"So psi is not shown to be faithful at any skip\.",
    ),
    (
        "three cases",
        "deletion_curve",
        deleted(0.9, 3, random=0.1),
        r".*skip 1 \(0\.90\d against 0\.50\d with .*\)\. No claim from 3 independent cases; 8 are needed\.",
    ),
    (
        "no difference, shown",
        "threshold_sweep",
        swept(0.0, 12, 0.001),
        r"Dice is 0\.70\d with lambda as trained \(50 % zeros in z\), 0\.70\d with lambda x 0 and 0\.70\d "
        r"with lambda x 4 \(90 % zeros in z\)\. In this range Dice changes by less than 0\.01 \(largest "
        r"change: [+-]0\.00\d, 95 % interval .*\)\.",
    ),
    (
        "no difference in any case, which says nothing of others",
        "threshold_sweep",
        swept(0.0, 12),
        r".*These cases show no difference, but do not rule one out \(largest: \+0\.000 in each of 12 "
        r"independent cases\)\.",
    ),
    (
        "a loss of one case alone is larger than a small gain of all",
        "threshold_sweep",
        [
            {k: v for k, v in row.items() if k != "z_zero_fraction"}
            | {"dice": 0.5 + (0.003 * int(str(row["image"])) / 5.5 if row["scale"] == 0 else 0.0)}
            | ({"dice": 0.5 - 0.6 * (row["image"] == "3")} if row["scale"] == 4 else {})
            for row in swept(0.0, 12)
        ],
        r"Dice is 0\.500 with lambda as trained, 0\.503 with lambda x 0 and 0\.450 with lambda x 4\. Dice is "
        r"higher with lambda x 0 than as trained \(\+0\.003, .*",
    ),
    (
        "a loss of one case alone is larger than a small change of all",
        "threshold_sweep",
        [
            row
            | {"dice": 0.5 + (0.003 + 0.01 * (-1) ** int(str(row["image"])) if row["scale"] == 0 else 0.0)}
            | ({"dice": 0.5 - 0.6 * (row["image"] == "3")} if row["scale"] == 4 else {})
            for row in swept(0.0, 12)
        ],
        r".*These cases show no difference, but do not rule one out \(largest: -0\.050, no interval, as "
        r"nearly all of 12 independent cases are equal\)\.",
    ),
    (
        "no difference, not shown",
        "threshold_sweep",
        swept(0.0, 12, 0.1),
        r".*These cases show no difference, but do not rule one out \(largest: .*\)\.",
    ),
    (
        "worse",
        "threshold_sweep",
        swept(-0.2, 12),
        r".*Dice is lower with lambda x 0, 4; no factor is shown to be better than 1\.",
    ),
    (
        "better",
        "threshold_sweep",
        swept(0.2, 12),
        r".*Dice is higher with lambda x [04] than as trained \(.*\)\.",
    ),
    (
        "no difference in three cases",
        "threshold_sweep",
        swept(0.0, 3),
        r".*No claim from 3 independent cases; 8 are needed\.",
    ),
    (
        "no other training",
        "sanity_check",
        correlated(0.3, None, 12),
        r"The correlation of psi with psi of a random decoder is 0\.30 \(skip 1\)\. Compare it with the "
        r"correlation between two trainings, which is below 1, too: add a model of the same gate and data "
        r"with another seed\.",
    ),
    (
        "learned",
        "sanity_check",
        correlated(0.3, 0.7, 12),
        r".*Between two trainings it is 0\.70 \(skip 1\)\. It is higher between these two trainings at "
        r"skip 1, so psi depends on what was learned there\.",
    ),
    (
        "another training on other cases",
        "sanity_check",
        [
            {
                **r,
                **(
                    {"apart": "training cases (1 in common, of 8 and 8)"}
                    if r["randomised"] != "decoder"
                    else {}
                ),
            }
            for r in correlated(0.3, 0.7, 12)
        ],
        r".*Between two trainings it is 0\.70 \(skip 1\)\. The two differ in more than the seed: training "
        r"cases \(1 in common, of 8 and 8\)\. Two that differ in the seed alone may be more alike\. It is "
        r"higher .*",
    ),
    (
        "not learned",
        "sanity_check",
        correlated(0.7, 0.7, 12),
        r".*It is not shown to be higher between two trainings at any skip\.",
    ),
    (
        "constant",
        "sanity_check",
        [{"image": "0", "randomised": "decoder", "seed": 0, "skip": 1}],
        r"psi is constant, as trained or with a random decoder, so nothing can be compared\.",
    ),
    (
        "constant at one skip",
        "sanity_check",
        [*correlated(0.3, 0.7, 12), {"image": "0", "randomised": "decoder", "seed": 0, "skip": 2}],
        r".*is 0\.30 \(skip 1\)\. At skip 2 psi is constant, as trained or with a random decoder\. Between "
        r"two trainings it is 0\.70 \(skip 1\)\. .*",
    ),
    (
        "another training whose masks are constant at one skip",
        "sanity_check",
        correlated(0.3, 0.7, 12)
        + [{**r, "skip": 2} for r in correlated(0.3, None, 12)]
        + [{"image": "0", "randomised": "another training", "seed": 0, "skip": 2}],
        r".*Between two trainings it is 0\.70 \(skip 1\)\. It is higher between these two trainings at skip "
        r"1, .*",
    ),
    (
        "another training whose masks are constant",
        "sanity_check",
        [*correlated(0.3, None, 12), {"image": "0", "randomised": "another training", "seed": 0, "skip": 1}],
        r".*\(skip 1\)\. psi of the other training is constant, so there is nothing to compare it with\.",
    ),
    (
        "nothing is not less than nothing",
        "leave_one_out",
        [{"image": f"{n}", "skip": 1, "part": "psi", "worth": -1e-5, "dice": 0.8} for n in range(9)],
        r"Dice lost with psi at its mean: 0\.000 at skip 1 \(in each of 9 independent cases\)\.",
    ),
    (
        "NaN",
        "sanity_check",
        [
            {"image": f"{n}", "randomised": "decoder", "seed": 0, "skip": 1, "correlation": value}
            for n, value in enumerate((0.5, NAN))
        ],
        r".*is 0\.50 \(skip 1\)\..*",
    ),
    (
        "loses less",
        "noise_test",
        noisy({"a": 0.1, "b": 0.5}, 12),
        r"Mean Dice over speckle noise of strength 0 to 1, and in brackets without noise: "
        r"0\.749 \(0\.800, 94 % of it\) "
        r"with a, 0\.549 \(0\.800, 69 % of it\) with b\. a keeps a larger share of its own Dice than b "
        r"\(\+0\.250 in each of 12 independent cases\); under noise the Dice of a is higher \(.*\), for "
        r"these two trainings\.",
    ),
    (
        "a poor model loses less Dice, and a larger share of what it has",
        "noise_test",
        noisy({"a": 0.3, "poor": 0.15}, 12, {"poor": 0.2}),
        r".*0\.649 \(0\.800, 81 % of it\) with a, 0\.124 \(0\.200, 62 % of it\) with poor\. a keeps a "
        r"larger share of its own Dice than poor \(\+0\.1\d\d, .*; under noise the Dice of a is higher .*",
    ),
    (
        "a model that finds nothing",
        "noise_test",
        noisy({"a": 0.3}, 12) + [{**r, "model": "empty", "dice": 0.0} for r in noisy({"a": 0.3}, 12)],
        r".*0\.000 \(0\.000\) with empty\. Without noise a or empty finds something in fewer than 8 "
        r"independent cases, so their shares are not compared; under noise the Dice of a is higher \(.*",
    ),
    (
        "a share of what is found in one image alone",
        "noise_test",
        [
            {**row, "dice": float(row["dice"]) if row["image"] == "3" else 0.0}
            for row in noisy({"a": 0.2, "b": 0.4}, 9)
        ],
        r".* with b\. Without noise a or b finds something in fewer than 8 independent cases, so their "
        r"shares are not compared; under noise the Dice of a is not shown to differ \(\+0\.011, no interval, "
        r"as nearly all of 9 independent cases are equal\), for these two trainings\.",
    ),
    (
        "no share and too few without a label",
        "noise_test",
        [{**row, "agreement": 0.0} for row in noisy({"a": 0.2, "b": 0.4}, 3, score="agreement")],
        r".*No claim from 3 independent cases; 8 are needed\.",
    ),
    (
        "a model that marks everything keeps all of what little it has",
        "noise_test",
        noisy({"a": 0.3, "all": 0.0}, 12, {"all": 0.1}),
        r".* with all\. a keeps a smaller share of its own Dice than all \(.*\); under noise the Dice of "
        r"a is higher \(.*\), for these two trainings\.",
    ),
    (
        "no label under noise",
        "noise_test",
        noisy({"a": 0.1}, 12, score="agreement"),
        r"Mean Dice against the unchanged prediction .* with a\. Without a label, this shows how stable the "
        r"prediction is, not how good\.",
    ),
    (
        "images larger than a window beside some that are not",
        "leave_one_out",
        [
            {k: v for k, v in r.items() if k != "window" or r["image"] != "0"}
            for r in worths("psi", {1: 0.3}, 9, window="32 x 32 of 64 x 64")
        ],
        r"In one window of each larger image: Dice lost with .*",
    ),
    (
        "one slice of each volume, as a 2D network sees it",
        "leave_one_out",
        [
            {
                **r,
                "window": f"9 x 9 of 9 x 9 in slice x {r['image']} of 40",
                "slice": f"slice x {r['image']} of 40",
            }
            for r in worths("psi", {1: 0.3}, 2)
        ],
        r"In one window of one slice of each image: Dice lost with .*",
    ),
    (
        "not told apart",
        "noise_test",
        noisy({"a": 0.3, "b": 0.3}, 12),
        r".*No difference is shown between the shares of their own Dice that a and b keep \(.*\); under "
        r"noise the Dice of a is not shown to differ \(.*\), for these two trainings\.",
    ),
    (
        "too few",
        "noise_test",
        noisy({"a": 0.1, "b": 0.5}, 4),
        r".*No claim from 4 independent cases; 8 are needed\.",
    ),
    ("one model", "noise_test", noisy({"a": 0.1}, 4), r".* with a\."),
    (
        "the noise of CT",
        "noise_test",
        [{**r, "kind": "hu"} for r in noisy({"a": 0.1}, 4)],
        r"Mean Dice over additive \(HU\) noise of strength 0 to 1 \(100 HU\), and .* with a\.",
    ),
]


@pytest.mark.parametrize(("test", "rows", "right"), [s[1:] for s in SAID], ids=[s[0] for s in SAID])
def test_the_sentence_is_right(test: str, rows: list[Row], right: str) -> None:
    said = TESTED[test](rows, None)
    assert re.fullmatch(right, said, re.DOTALL), said
    assert "nan" not in said


@pytest.mark.parametrize("seed", [14, 26, 29, 38, 39])
def test_the_luckiest_of_five_equal_controls_does_not_make_psi_worse(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    rows: list[Row] = [
        {"image": f"{n}", "skip": skip, "order": order, "draw": 0, "q": 0.5, "dice": drawn.normal(0.8, 0.02)}
        for n in range(12)
        for skip in (1, 2, 3, 4)
        for order in ("psi", *CONTROLS)
    ]
    said = TESTED["deletion_curve"](rows, None)
    assert "is worse at" not in said
    # An interval wholly below 0 beside "not shown" would contradict itself.
    assert not re.search(r"interval -\S+ to -", said)


def test_no_interval_reaches_beyond_what_can_be() -> None:
    nearly = [*np.linspace(0.97, 1, 9).tolist(), 0.5, 0.6, 0.01]  # -3.7 to 1.03 if it is not cut
    same: list[Row] = [
        {"image": f"{n}", "skip": 1, "part": "psi", "agreement": value} for n, value in enumerate(nearly)
    ]
    low, high = map(float, re.findall(r"\((\S+) to (\S+)\)", TESTED["leave_one_out"](same, None))[0])
    assert 0 <= low < high <= 1
    lost: list[Row] = [{**row, "worth": float(row["agreement"]), "dice": 0.5} for row in same]
    low, high = map(float, re.findall(r"\((\S+) to (\S+)\)", TESTED["leave_one_out"](lost, None))[0])
    assert -1 <= low < high <= 1
    rows = [
        {**row, "dice": 0.0 if row["model"] == "b" else nearly[int(str(row["image"]))]}
        for row in noisy({"a": 0.0, "b": 0.0}, 12)
    ]
    under = TESTED["noise_test"](rows, None).split("under noise")[-1]
    low, high = map(float, re.findall(r"interval (\S+) to ([^\s),]+)", under)[-1])
    assert -1 <= low < high <= 1


def test_a_skip_whose_masks_are_constant_in_most_images_takes_no_claim_from_the_others() -> None:
    rows = correlated(0.3, 0.7, 12)
    second = [{**row, "skip": 2} for row in rows]
    rows += [row for row in second if row["randomised"] == "decoder" or row["image"] == "0"]
    said = TESTED["sanity_check"](rows, None)
    assert "It is higher between these two trainings at skip 1, so" in said
    assert said.endswith("At skip 2: No claim from 1 independent case; 8 are needed.")


ROWS = {
    "leave_one_out": worths("psi", {1: 0.4}, 12),
    "deletion_curve": deleted(0.9, 12),
    "threshold_sweep": swept(-0.2, 12),
    "sanity_check": correlated(0.3, 0.9, 12),
    "noise_test": noisy({"a": 0.1, "b": 0.5}, 12),
}
VALUE = {
    "leave_one_out": "worth",
    "deletion_curve": "dice",
    "threshold_sweep": "dice",
    "sanity_check": "correlation",
    "noise_test": "dice",
}


def test_the_share_kept_is_the_ratio_of_means_with_the_interval_of_the_delta_method() -> None:
    drawn = np.random.default_rng(3)
    clean = drawn.uniform(0, 1, 40)  # some hardly found at all
    left = clean * drawn.uniform(0.4, 0.8, 40)
    rows: list[Row] = [
        {"image": f"{n}", "model": m, "skip": 1, "kind": "speckle", "strength": s, "dice": dice}
        for n in range(40)
        for m, end in (("a", 2 * left[n] - clean[n]), ("b", clean[n]))
        for s, dice in ((0.0, clean[n]), (1.0, end))
    ]
    with noting() as kept:
        TESTED["noise_test"](rows, None)
    found = kept[0]
    ratio = left.mean() / clean.mean()
    linear = (left - ratio * clean) / clean.mean()
    right = simultaneous({"share": linear, "dice": left - clean})["share"]
    assert found["mean"] == pytest.approx(ratio - 1)
    assert (found["low"], found["high"]) == pytest.approx(  # units come in another order
        (ratio - 1 + right.low, ratio - 1 + right.high), abs=0.004
    )
    resampled = drawn.integers(0, 40, (4000, 40))
    ratios = left[resampled].mean(axis=1) / clean[resampled].mean(axis=1)
    assert found["low"] + 1 < np.quantile(ratios, 0.025) < np.quantile(ratios, 0.975) < found["high"] + 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("test", list(TESTED))
@pytest.mark.parametrize("kind", ["no rows", "NaN", "no value"])
def test_what_was_not_measured_is_not_told(test: str, kind: str) -> None:
    rows: list[Row] = {
        "no rows": [],
        "NaN": [{**row, VALUE[test]: NAN} for row in ROWS[test]],
        "no value": [{k: v for k, v in row.items() if k != VALUE[test]} for row in ROWS[test]],
    }[kind]
    said = TESTED[test](rows, None)
    assert said in (NOTHING, CONSTANT)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("test", list(TESTED))
@pytest.mark.parametrize("place", [0, -1])
def test_an_image_that_was_measured_in_part_counts_nowhere(test: str, place: int) -> None:
    """Otherwise a mean of twelve images stands beside one of eleven."""
    rows = [*ROWS[test]]
    gone = rows[place]["image"]
    rows[place] = {**rows[place], VALUE[test]: NAN}
    left = [row for row in rows if row["image"] != gone]
    if test == "sanity_check":  # where a mask is constant there is no correlation, elsewhere there is
        assert "nan" not in TESTED[test](rows, None)
    else:
        assert TESTED[test](rows, None) == TESTED[test](left, None)


EMPTY = [test for test in TESTED if test != "sanity_check"]  # psi is correlated over the whole window


def emptied(test: str, kind: str, number: int) -> list[Row]:
    """So many images with nothing in them, where nothing is found whatever is changed."""
    return [
        {
            **row,
            "image": f"normal {row['image']}",
            "dice": 1.0,
            "empty": kind,
            **{k: 0.0 for k in row if k == "worth"},
        }
        for row in ROWS[test]
        if int(str(row["image"])) < number
    ]


@pytest.mark.parametrize("test", EMPTY)
def test_images_in_which_nothing_can_be_lost_are_no_evidence_that_nothing_is(test: str) -> None:
    normals = emptied(test, "label", 9)
    assert TESTED[test](normals, None) == (
        "9 images with an empty label: nothing can be lost there, so nothing can be said."
    )
    assert TESTED[test]([{**row, "window": "3 x 3 of 9 x 9"} for row in normals[:1]], None) == (
        "In one window (3 x 3 of 9 x 9): 1 image with an empty label: nothing can be lost there, so nothing "
        "can be said."
    )
    alone = TESTED[test](ROWS[test], None)
    told = "Not counted: 9 images with an empty label, where nothing can be lost."
    assert TESTED[test]([*normals, *ROWS[test]], None) == f"{alone} {told}"
    several = {f"{n}": f"patient {n % 3}" for n in range(12)}
    assert "No claim from 3 independent cases" in TESTED[test]([*normals, *ROWS[test]], several)


@pytest.mark.parametrize("test", EMPTY)
def test_nor_are_those_without_a_label_in_which_nothing_is_found(test: str) -> None:
    def unlabelled(rows: list[Row]) -> list[Row]:
        kept = [{k: v for k, v in row.items() if k not in ("dice", "worth")} for row in rows]
        return [{**row, "agreement": old["dice"]} for row, old in zip(kept, rows, strict=True)]

    normals = unlabelled(emptied(test, "prediction", 1))
    assert TESTED[test]([*normals, *unlabelled(ROWS[test])], None) == (
        f"{TESTED[test](unlabelled(ROWS[test]), None)} Not counted: 1 image in which nothing is "
        "predicted, where nothing can be lost."
    )
    assert TESTED[test]([*normals, *ROWS[test]], None) == TESTED[test](ROWS[test], None)


@pytest.mark.parametrize("blind", ["a", "b"])
@pytest.mark.parametrize(("nothing", "compared"), [(12, False), (8, False), (3, True)])
def test_a_model_that_finds_nothing_silences_no_other(blind: str, nothing: int, compared: bool) -> None:
    rows = [
        row | ({"agreement": 1.0, "empty": "prediction"} if row["model"] == blind and own < nothing else {})
        for row in noisy({"a": 0.1, "b": 0.5, "c": 0.3}, 12, score="agreement")
        for own in [int(str(row["image"]))]
    ]
    said = TESTED["noise_test"](rows, None)
    assert f"{blind} finds nothing in {nothing} of 12 images without noise." in said
    assert "Not counted" not in said
    assert "No claim" not in said
    assert (f" with {blind}" in said) == (nothing < 12)
    assert ("a keeps a larger share of its own prediction than b" in said) == compared
    seen, other = ("b", "smaller") if blind == "a" and not compared else ("a", "larger")
    assert f"{seen} keeps a {other} share of its own prediction than c" in said


@pytest.mark.parametrize("test", list(TESTED))
def test_near_duplicates_are_too_few(test: str) -> None:
    """Twelve images of three patients claim as little as three."""
    said = TESTED[test](ROWS[test], {f"{n}": f"patient {n % 3}" for n in range(12)})
    assert said.endswith("No claim from 3 independent cases; 8 are needed.")


def test_means_of_a_sweep_are_of_the_units_that_its_differences_are_of() -> None:
    """Ten near-duplicates, which lose all, and ten other cases, which lose nothing."""
    rows = [
        {
            "image": str(n),
            "skip": 1,
            "scale": scale,
            "agreement": 1.0,
            "dice": 0.9 * (scale == 1) if n < 10 else 0.5,
        }
        for n in range(20)
        for scale in (0.0, 1.0)
    ]
    said = TESTED["threshold_sweep"](rows, dict.fromkeys(map(str, range(10)), "0"))
    assert said.startswith("Dice is 0.536 with lambda as trained, 0.455 with lambda x 0")
