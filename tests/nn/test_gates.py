"""One gate at a time: the printed equations, the invariants, the seven names."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.gates import ExactMask, Gate, GateTrace, ProximalMask, SkipTrace, make_gate
from napari_prosma.nn.prox import soft_threshold, threshold_logit

MakeGate = Callable[..., tuple[Gate, Tensor, Tensor]]
SPARSE = ("prosma", "spatial", "prosma-exact")
DIMS = pytest.mark.parametrize("dims", [2, 3])


def traced(gate: Gate, skip: Tensor, gating: Tensor) -> SkipTrace:
    trace = GateTrace()
    with torch.no_grad():
        gate(skip, gating, trace)
    return trace.skips[1]


# --- the printed form -----------------------------------------------------------------------------------


def printed_gate(
    w: dict[str, np.ndarray], x: np.ndarray, g: np.ndarray, dilations: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Equations 1 to 5 for one image, position by position; x (C_x, *spatial), g (C_g, *spatial)."""
    size = x.shape[1:]
    positions = list(np.ndindex(*size))
    offsets = list(np.ndindex(*(3,) * len(size)))
    latent = len(w["theta"])

    def sigmoid(number: float) -> float:
        return 1 / (1 + math.exp(-number))

    # (1) compatibility of skip and gating: v = relu(W_x x + W_g g)
    v = np.zeros((latent, *size))
    for p in positions:
        for a in range(latent):
            q = sum(w["W_x"][a, i] * x[(i, *p)] for i in range(len(x))) + w["b_x"][a]
            k = sum(w["W_g"][a, i] * g[(i, *p)] for i in range(len(g))) + w["b_g"][a]
            v[(a, *p)] = max(q + k, 0.0)

    # (2) multi-scale depthwise context, mixed: u = phi [D_1 v, D_2 v, ...]; outside the image there is 0
    context = np.zeros((len(dilations) * latent, *size))
    for r, dilation in enumerate(dilations):
        for a in range(latent):
            for p in positions:
                total = 0.0
                for offset in offsets:
                    seen = tuple(at + dilation * (step - 1) for at, step in zip(p, offset, strict=True))
                    if all(0 <= at < n for at, n in zip(seen, size, strict=True)):
                        total += w["D"][(r, a, *offset)] * v[(a, *seen)]
                context[(r * latent + a, *p)] = total
    u = np.zeros((latent, *size))
    for p in positions:
        for a in range(latent):
            u[(a, *p)] = sum(w["phi"][a, j] * context[(j, *p)] for j in range(len(context))) + w["b_phi"][a]

    # (3) lambda = softplus(theta), (4) z = sign(u) max(|u| - lambda, 0), psi = sigmoid(Psi z)
    z, psi = np.zeros_like(u), np.zeros(size)
    for p in positions:
        for a in range(latent):
            shrunk = abs(u[(a, *p)]) - math.log(1 + math.exp(w["theta"][a]))
            z[(a, *p)] = math.copysign(max(shrunk, 0.0), u[(a, *p)])
        psi[p] = sigmoid(sum(w["Psi"][a] * z[(a, *p)] for a in range(latent)) + w["b_Psi"])

    # (5) c = sigmoid(MLP(GAP(g))), x~ = x * c * psi
    mean = [sum(g[(i, *p)] for p in positions) / len(positions) for i in range(len(g))]
    hidden = [
        max(sum(w["M_1"][h, i] * mean[i] for i in range(len(g))) + w["n_1"][h], 0.0)
        for h in range(len(w["n_1"]))
    ]
    c = np.array(
        [
            sigmoid(sum(w["M_2"][i, h] * hidden[h] for h in range(len(hidden))) + w["n_2"][i])
            for i in range(len(x))
        ]
    )
    gated = np.zeros_like(x)
    for p in positions:
        for i in range(len(x)):
            gated[(i, *p)] = x[(i, *p)] * c[i] * psi[p]
    return {"field": u, "z": z, "psi": psi[None], "channel": c, "gated": gated}


def weights_by_symbol(gate: Gate) -> dict[str, np.ndarray]:
    """The weights of a literal gate under the paper's letters."""
    s = {name: value.detach().double().numpy() for name, value in gate.state_dict().items()}
    scales = sorted(name for name in s if name.startswith("spatial.scales."))
    flat = {
        "W_x": "spatial.from_skip.weight",
        "W_g": "spatial.from_gating.weight",
        "phi": "spatial.mix.weight",
    }
    return {
        **{symbol: s[name].reshape(s[name].shape[:2]) for symbol, name in flat.items()},
        "D": np.stack([s[name][:, 0] for name in scales]),
        "b_x": s["spatial.from_skip.bias"],
        "b_g": s["spatial.from_gating.bias"],
        "b_phi": s["spatial.mix.bias"],
        "theta": s["spatial.theta"],
        "Psi": s["spatial.project.weight"].reshape(-1),
        "b_Psi": s["spatial.project.bias"].item(),
        "M_1": s["channel.squeeze.weight"],
        "n_1": s["channel.squeeze.bias"],
        "M_2": s["channel.excite.weight"],
        "n_2": s["channel.excite.bias"],
    }


@pytest.mark.parametrize(("size", "dilations"), [((7, 6), (1, 2, 4)), ((7, 6), (1, 3)), ((5, 4, 3), (1, 2))])
def test_the_literal_gate_is_the_five_printed_equations(
    size: tuple[int, ...], dilations: tuple[int, ...]
) -> None:
    """The gate without norms, against loops written from the equations alone."""
    torch.manual_seed(1)
    options = GateOptions(
        norm="none", dilations=dilations, latent_min=3, squeeze_min=6, threshold=0.1, latent_ratio=2
    )
    gate = make_gate("prosma", 4, 5, len(size), options).double()
    for parameter in gate.parameters():
        nn.init.normal_(parameter, std=0.7)
    skip = torch.randn(2, 4, *size, dtype=torch.float64)
    gating = torch.randn(2, 5, *size, dtype=torch.float64)
    seen = traced(gate, skip, gating)
    for b in range(2):
        expected = printed_gate(weights_by_symbol(gate), skip[b].numpy(), gating[b].numpy(), dilations)
        assert 0.05 < (expected["z"] == 0).mean() < 0.95
        assert np.array_equal(seen.z[b].numpy() == 0, expected["z"] == 0)
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(seen, name)[b].numpy(), values, rtol=1e-10, atol=1e-12)


# --- what a gate may and may not do ---------------------------------------------------------------------


@DIMS
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_threshold_above_the_field_leaves_only_the_floor(
    settled_gate: MakeGate, dims: int, norm: str
) -> None:
    """Invariant 10: psi is sigmoid(b) everywhere; every gradient behind z is exactly 0, b's is not."""
    gate, skip, gating = settled_gate("spatial", dims, norm)
    mask = gate.spatial
    nn.init.constant_(mask.theta, 60.0)
    seen = traced(gate, skip, gating)
    assert not seen.z.any()
    assert seen.floor == pytest.approx(1 / (1 + math.exp(-mask.project.bias.item())), abs=1e-12)
    torch.testing.assert_close(seen.psi, torch.full_like(seen.psi, seen.floor), rtol=0, atol=1e-12)

    (gate(skip, gating) ** 2).sum().backward()
    gradients = {name: p.grad for name, p in mask.named_parameters()}
    assert gradients.pop("project.bias").abs() > 0
    assert all(g is not None and not g.any() for g in gradients.values())
    expected = {"from_skip.weight", "from_gating.weight", "scales.0.weight", "mix.weight", "theta"}
    assert expected | {"project.weight"} <= set(gradients)


@DIMS
@pytest.mark.parametrize("name", ["prosma", "spatial", "channel", "dense", "attention"])
def test_a_gate_scales_the_skip_and_adds_no_zeros(settled_gate: MakeGate, dims: int, name: str) -> None:
    """Invariant 11: {x~ = 0} = {x = 0} and 0 <= x~ <= x, also where z is empty."""
    gate, skip, gating = settled_gate(name, dims)
    gated = traced(gate, skip, gating).gated
    assert (skip == 0).any()
    assert torch.equal(gated == 0, skip == 0)
    assert (gated >= 0).all()
    assert (gated <= skip).all()
    assert (gated < skip)[skip > 0].all()


@DIMS
def test_only_the_exact_gate_cuts_the_skip_and_exactly_where_z_is_empty(
    settled_gate: MakeGate, dims: int
) -> None:
    """Decision 1 of the method: psi = 1 - exp(-sum w|z|) is 0 where z is, and nowhere else."""
    gate, skip, gating = settled_gate("prosma-exact", dims, threshold=1.2)
    seen = traced(gate, skip, gating)
    empty = (seen.z == 0).all(dim=1, keepdim=True)
    assert 0.02 < empty.double().mean() < 0.98
    assert torch.equal(seen.psi == 0, empty)
    assert torch.equal(seen.gated == 0, (skip == 0) | empty)
    assert ((seen.psi >= 0) & (seen.psi < 1)).all()
    assert seen.floor == 0
    weight = torch.log1p(gate.spatial.omega.exp()).view(1, -1, *[1] * dims)
    torch.testing.assert_close(seen.psi, 1 - torch.exp(-(weight * seen.z.abs()).sum(1, keepdim=True)))


@DIMS
@pytest.mark.parametrize("name", SPARSE)
def test_batch_norm_folds_into_the_literal_gate(dims: int, name: str) -> None:
    """Invariant 12: in evaluation the norms disappear into W_x, W_g and phi (float32, 1e-6)."""
    torch.manual_seed(3)
    normed = make_gate(name, 12, 10, dims, GateOptions(threshold=0.4))
    literal = make_gate(name, 12, 10, dims, GateOptions(threshold=0.4, norm="none"))
    for module in normed.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.2, 2)
    normed.eval()
    state = copy.deepcopy(normed.state_dict())
    for convolution, norm in (
        ("from_skip", "norm_skip"),
        ("from_gating", "norm_gating"),
        ("mix", "norm_field"),
    ):
        folded = {part: state.pop(f"spatial.{norm}.{part}") for part in ("weight", "bias", "running_mean")}
        gain = folded["weight"] / (state.pop(f"spatial.{norm}.running_var") + 1e-5).sqrt()
        state.pop(f"spatial.{norm}.num_batches_tracked")
        state[f"spatial.{convolution}.weight"] *= gain.view(-1, *[1] * (dims + 1))
        state[f"spatial.{convolution}.bias"] = folded["bias"] - gain * folded["running_mean"]
    literal.load_state_dict(state)

    size = (12, 13) if dims == 2 else (6, 7, 8)
    skip, gating = torch.randn(2, 12, *size).relu(), torch.randn(2, 10, *size).relu()
    one, other = traced(normed, skip, gating), traced(literal, skip, gating)
    assert 0.05 < (one.z == 0).float().mean() < 0.95
    for part in ("field", "z", "psi", "gated"):
        torch.testing.assert_close(getattr(one, part), getattr(other, part), rtol=0, atol=2e-6)
    torch.testing.assert_close(one.psi, other.psi, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 20))
def test_the_scale_of_threshold_and_field_is_a_free_choice(scale: float) -> None:
    """Invariant 13: (u, lambda, Psi) -> (a u, a lambda, Psi / a) leaves psi as it was.

    So a raw lambda says nothing across channels, skips or checkpoints; lambda / std(u) does.
    """
    torch.manual_seed(5)
    gate = make_gate("spatial", 6, 6, 2, GateOptions(norm="none", threshold=0.1)).double()
    skip, gating = torch.randn(2, 1, 6, 9, 9, dtype=torch.float64)
    before = traced(gate, skip, gating)
    mask = gate.spatial
    with torch.no_grad():
        mask.mix.weight.mul_(scale)
        mask.mix.bias.mul_(scale)
        wanted = [threshold_logit(scale * float(t)) for t in mask.threshold()]
        mask.theta.copy_(torch.tensor(wanted, dtype=torch.float64))
        mask.project.weight.div_(scale)
    after = traced(gate, skip, gating)
    torch.testing.assert_close(after.psi, before.psi, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.threshold, scale * before.threshold, rtol=1e-6, atol=0)
    assert torch.equal(after.z == 0, before.z == 0)
    torch.testing.assert_close(
        after.threshold / after.field.std(dim=(0, 2, 3)),
        before.threshold / before.field.std(dim=(0, 2, 3)),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("name", ["prosma", "dense"])
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**20), st.floats(1e-3, 10))
def test_psi_moves_at_most_a_quarter_of_its_weights_norm_times_the_field(
    name: str, seed: int, distance: float
) -> None:
    """Invariant 14: |psi(u) - psi(v)| <= ||w|| ||u - v|| / 4 per position, with the prox and without."""
    torch.manual_seed(seed)
    mask = make_gate(name, 10, 10, 2).double().spatial
    with torch.no_grad():
        mask.project.weight.mul_(3)
        u = 2 * torch.randn(1, 8, 5, 5, dtype=torch.float64)
        v = u + distance * torch.randn_like(u)
        threshold = mask.threshold()
        moved = [mask.readout(f if threshold is None else soft_threshold(f, threshold)) for f in (u, v)]
        bound = 0.25 * mask.project.weight.norm() * (u - v).norm(dim=1, keepdim=True)
    assert ((moved[0] - moved[1]).abs() <= bound + 1e-12).all()


@DIMS
@pytest.mark.parametrize("name", ["spatial", "attention"])
def test_without_a_channel_part_all_channels_are_scaled_alike(
    settled_gate: MakeGate, dims: int, name: str
) -> None:
    """Invariant 15: x~ / x is constant over channels."""
    gate, skip, gating = settled_gate(name, dims)
    ratio = traced(gate, skip + 0.5, gating).gated / (skip + 0.5)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-10, atol=0)
    assert ratio.std() > 1e-3


@DIMS
def test_without_a_spatial_part_all_positions_are_scaled_alike(settled_gate: MakeGate, dims: int) -> None:
    """Invariant 15: x~ / x is constant over positions."""
    gate, skip, gating = settled_gate("channel", dims)
    ratio = (traced(gate, skip + 0.5, gating).gated / (skip + 0.5)).flatten(2)
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-10, atol=0)
    assert ratio[..., 0].std() > 1e-3


@DIMS
def test_a_vanishing_threshold_is_the_dense_gate(settled_gate: MakeGate, dims: int) -> None:
    """Invariant 16: theta = -60 equals lambda = 0 to 1e-6, and the counterfactual kept in the trace."""
    gate, skip, gating = settled_gate("prosma", dims)
    dense, _, _ = settled_gate("dense", dims)
    state = gate.state_dict()
    state.pop("spatial.theta")
    dense.load_state_dict(state)
    counterfactual = traced(gate, skip, gating).psi_dense
    nn.init.constant_(gate.spatial.theta, -60.0)
    seen, without = traced(gate, skip, gating), traced(dense, skip, gating)
    torch.testing.assert_close(seen.gated, without.gated, rtol=0, atol=1e-6)
    torch.testing.assert_close(counterfactual, without.psi, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SPARSE)
def test_the_counterfactual_in_the_trace_is_not_the_mask(settled_gate: MakeGate, name: str) -> None:
    """psi_dense reads u, psi reads z: they differ wherever the threshold does something."""
    seen = traced(*settled_gate(name))
    assert (seen.psi_dense - seen.psi).abs().max() > 1e-3


@DIMS
@pytest.mark.parametrize("name", [n for n in GATES if n != "none"])
def test_gradients_of_the_whole_gate_are_those_of_finite_differences(
    settled_gate: MakeGate, dims: int, name: str
) -> None:
    """Invariant 8 through the whole gate, in float64, with respect to both inputs and every parameter."""
    gate, skip, gating = settled_gate(name, dims)
    window = (slice(0, 1), slice(None), *(slice(0, 3),) * dims)
    skip, gating = skip[window] + 0.1, gating[window] + 0.1
    parameters = dict(gate.named_parameters())

    def run(x: Tensor, t: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(gate, dict(zip(parameters, values, strict=True)), (x, t))

    arguments = [a.detach().clone().requires_grad_() for a in (skip, gating, *parameters.values())]
    assert torch.autograd.gradcheck(run, arguments, fast_mode=True, atol=1e-6)


# --- names, sizes, options ------------------------------------------------------------------------------


def test_the_gates_have_their_eight_names() -> None:
    names = {"prosma", "spatial", "channel", "none", "scale", "attention", "dense", "prosma-exact"}
    assert set(GATES) == names
    with pytest.raises(ValueError, match="unknown gate 'prosmaa'; choose one of prosma,"):
        make_gate("prosmaa", 8, 8, 2)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("prosma", {"field", "z", "threshold", "psi", "psi_dense", "channel", "floor"}),
        ("prosma-exact", {"field", "z", "threshold", "psi", "psi_dense", "channel", "floor"}),
        ("spatial", {"field", "z", "threshold", "psi", "psi_dense", "floor"}),
        ("dense", {"field", "z", "psi", "channel", "floor"}),
        ("attention", {"psi"}),
        ("channel", {"channel"}),
        ("scale", {"channel"}),
        ("none", set()),
    ],
)
def test_each_gate_tells_of_the_parts_it_has(settled_gate: MakeGate, name: str, parts: set[str]) -> None:
    gate, skip, gating = settled_gate(name)
    seen = vars(traced(gate, skip, gating))
    present = {k for k, v in seen.items() if v is not None} - {"level", "skip", "gated"}
    assert present == parts
    factors = torch.ones_like(skip)
    if "channel" in parts:
        factors = factors * seen["channel"][..., None, None]
    if "psi" in parts:
        factors = factors * seen["psi"]
    torch.testing.assert_close(seen["gated"], skip * factors)
    assert torch.equal(seen["skip"], skip)


@pytest.mark.parametrize(
    ("dims", "norm", "count"), [(2, "batch", 8_869), (3, "batch", 10_597), (2, "none", 8_773)]
)
def test_one_gate_of_64_channels_has_the_published_size(dims: int, norm: str, count: int) -> None:
    """Invariant 17, the gate alone."""
    with torch.device("meta"):
        gate = make_gate("prosma", 64, 64, dims, GateOptions(norm=norm))
    assert sum(p.numel() for p in gate.parameters()) == count


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([2, 3]),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_the_size_of_a_gate_follows_the_formula(x: int, g: int, dims: int, dilations: list[int]) -> None:
    """Invariant 17: the parameter formula of the normed gate, for any width and number of scales."""
    with torch.device("meta"):
        gate = make_gate("prosma", x, g, dims, GateOptions(dilations=tuple(dilations)))
    a, h, m = max(x // 2, 8), max(g // 16, 4), len(dilations)
    spatial = a * (x + g) + 4 * a + m * 3**dims * a + m * a * a + 2 * a + a + (a + 1)
    assert sum(p.numel() for p in gate.parameters()) == spatial + g * h + h + h * x + x


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.6931471805599453, 2.0])
def test_thresholds_start_where_the_options_say(threshold: float) -> None:
    """Invariant 9: lambda is what was asked for, positive; ln 2 is theta = 0."""
    mask = make_gate("prosma", 16, 16, 2, GateOptions(threshold=threshold)).spatial
    torch.testing.assert_close(mask.threshold(), torch.full((8,), threshold), rtol=1e-5, atol=0)
    if threshold == GateOptions().threshold:
        assert not mask.theta.any()


def test_the_exact_gate_starts_half_open() -> None:
    """The start of omega: on a unit normal field psi is about one half, as the paper's gate is."""
    torch.manual_seed(0)
    for channels in (16, 64, 256):
        mask = ExactMask(channels, channels, 2, GateOptions())
        with torch.no_grad():
            psi = mask.readout(soft_threshold(torch.randn(1, channels // 2, 32, 32), mask.threshold()))
        assert psi.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dilations": ()},
        {"dilations": (0,)},
        {"norm": "instance"},
        {"threshold": 0.0},
        {"latent_ratio": 0},
        {"latent_min": 0},
        {"squeeze_ratio": 0},
        {"squeeze_min": 0},
    ],
)
def test_impossible_options_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GateOptions(**wrong)  # type: ignore[arg-type]


def test_a_trace_is_cut_to_the_image_on_every_map_and_nothing_else(settled_gate: MakeGate) -> None:
    """Invariant 21: what lies in the padding is not shown."""
    seen = traced(*settled_gate("prosma"))
    cut = seen.cropped((4, 7))
    for name in ("skip", "gated", "field", "z", "psi", "psi_dense"):
        assert torch.equal(getattr(cut, name), getattr(seen, name)[..., :4, :7])
    assert cut.threshold is seen.threshold
    assert (cut.level, cut.floor) == (seen.level, seen.floor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["prosma", "prosma-exact"])
def test_under_autocast_zeros_are_decided_in_float32(
    name: str, dtype: torch.dtype, settled_gate: MakeGate
) -> None:
    """Invariant 22 in the gate: z has the zeros of float32 soft-thresholding of the very field traced."""
    gate, skip, gating = settled_gate(name)
    gate = gate.float()
    with torch.autocast("cpu", dtype=dtype):
        seen = traced(gate, skip.float(), gating.float())
    assert seen.z.dtype == torch.float32
    bound = seen.threshold.view(1, -1, 1, 1)
    assert torch.equal(seen.z == 0, seen.field.float().abs() <= bound)
    assert 0.05 < (seen.z == 0).float().mean() < 0.95


def test_a_proximal_mask_without_thresholds_has_no_theta() -> None:
    mask = ProximalMask(16, 16, 2, GateOptions(), sparse=False)
    assert mask.threshold() is None
    assert "theta" not in dict(mask.named_parameters())


def test_softplus_is_what_turns_theta_into_lambda() -> None:
    """Equation 3, for every value a training may reach (invariant 9)."""
    mask = ProximalMask(16, 16, 2, GateOptions())
    with torch.no_grad():
        mask.theta.copy_(torch.tensor([-60.0, -20.0, -1.0, 0.0, 1.0, 5.0, 20.0, 60.0]))
        threshold = mask.threshold()
    assert threshold.isfinite().all()
    assert (threshold > 0).all()
    expected = [max(t, 0.0) + math.log1p(math.exp(-abs(t))) for t in mask.theta.tolist()]
    torch.testing.assert_close(threshold, torch.tensor(expected), rtol=1e-6, atol=0)


@DIMS
def test_a_summary_counts_zeros_empty_positions_and_dead_channels(settled_gate: MakeGate, dims: int) -> None:
    """Three different statements: zeros in z, positions without evidence, channels without any."""
    gate, skip, gating = settled_gate("prosma", dims, threshold=1.0)
    gate.spatial.theta.data[1] = 50.0
    seen = traced(gate, skip, gating)
    positions = [seen.z[(b, slice(None), *p)] for b in range(2) for p in np.ndindex(*skip.shape[2:])]
    figures = seen.summary()
    zeros = sum(float((z == 0).double().mean()) for z in positions) / len(positions)
    empty = sum(not z.any() for z in positions) / len(positions)
    assert figures["z_zero_fraction"] == pytest.approx(zeros)
    assert figures["floor_pixel_fraction"] == pytest.approx(empty)
    assert 0 < empty < zeros < 1
    assert figures["dead_channel_fraction"] == pytest.approx(1 / 5)
    assert figures["gate_floor"] == seen.floor
    assert figures["lambda_max"] == pytest.approx(50)
    assert figures["lambda_min"] == pytest.approx(1)
    assert figures["lambda_mean"] == pytest.approx((50 + 4) / 5)
    assert figures["psi_mean"] == pytest.approx(seen.psi.mean().item(), rel=1e-5)
    assert figures["psi_std"] == pytest.approx(seen.psi.numpy().std(), rel=1e-4)


def test_a_summary_says_nothing_of_parts_that_are_missing(settled_gate: MakeGate) -> None:
    assert traced(*settled_gate("none")).summary() == {}
    assert traced(*settled_gate("channel")).summary() == {}
    assert set(traced(*settled_gate("attention")).summary()) == {"psi_mean", "psi_std"}
    assert "lambda_mean" not in traced(*settled_gate("dense")).summary()


@pytest.mark.parametrize("name", list(GATES))
def test_what_is_told_of_a_gate_is_what_it_does(settled_gate: MakeGate, name: str) -> None:
    kind, seen = GATES[name], traced(*settled_gate(name))
    assert kind.parts == (seen.psi is not None) + (seen.channel is not None)
    assert kind.thresholds == (seen.threshold is not None)
    assert kind.exact_zeros == (seen.floor == 0)
    assert kind.neutral_energy == pytest.approx(0.5 ** (2 * kind.parts))


def test_scale_is_a_constant_per_channel_that_sees_no_input(settled_gate: MakeGate) -> None:
    gate, skip, gating = settled_gate("scale")
    logit = gate.channel.logit  # type: ignore[union-attr]
    assert not logit.detach().any()
    assert torch.equal(gate(skip, gating), skip / 2)
    with torch.no_grad():
        logit.copy_(torch.linspace(-2, 2, len(logit)))
    expected = skip * torch.sigmoid(logit)[:, None, None]
    torch.testing.assert_close(gate(skip, gating), expected)
    assert torch.equal(gate(skip, gating), gate(skip, torch.zeros_like(gating)))
