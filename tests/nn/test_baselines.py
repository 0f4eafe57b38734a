"""The networks of other papers: as large as published, made of what their papers say, and used like ours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import nn

from napari_prosma.nn.baselines.attention_unet import AttentionBlock
from napari_prosma.nn.baselines.rolling_unet import OrthogonalMLP, rolled
from napari_prosma.nn.baselines.ukan import INTERVALS, ORDER, KANLinear
from napari_prosma.nn.baselines.ukan2 import MultKANLinear, SecondOrderBlock, second_order_step
from napari_prosma.nn.baselines.unext import SHIFTS, shifted
from napari_prosma.nn.build import Network, build_model
from napari_prosma.nn.gate_kinds import GateOptions
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.network_kinds import NETWORKS, OURS, WIDTHS
from napari_prosma.nn.spec import ModelSpec

KAN_WIDTHS = (16, 32, 128, 160, 256)
BASELINES = [(name, dims) for name, known in NETWORKS.items() if name != OURS for dims in known.dims]
EVERY_BASELINE = pytest.mark.parametrize(("name", "dims"), BASELINES)


def small(name: str, dims: int = 2, classes: int = 1) -> Network:
    """A network of three levels in evaluation mode; its norms know noise."""
    torch.manual_seed(5)
    network = build_model(ModelSpec(dims, 2, classes, (6, 8, 10), network=name))
    with torch.no_grad():
        network(torch.randn(2, 2, *(32, 24, 16)[:dims]))
    return network.eval()


# ---- size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "widths", "published"),
    [
        (OURS, WIDTHS["large"], 36_589_537),
        ("unet", WIDTHS["large"], 34_527_041),
        ("attention-unet", WIDTHS["large"], 34_878_573),
        ("unet++", WIDTHS["base"], 9_163_329),
        ("unet++", WIDTHS["large"], 36_629_633),
        ("unext", KAN_WIDTHS, 1_471_921),
        ("rolling-unet", WIDTHS["tiny"], 1_783_185),
        ("rolling-unet", WIDTHS["base"], 7_098_401),
        ("rolling-unet", WIDTHS["large"], 28_324_929),
        ("ukan", KAN_WIDTHS, 6_356_689),
        ("ukan", (32, 64, 256, 320, 512), 25_359_265),
    ],
)
def test_a_network_has_as_many_parameters_as_published(
    name: str, widths: tuple[int, ...], published: int
) -> None:
    """Three channels in, one out."""
    with torch.device("meta"):
        network = build_model(ModelSpec(2, 3, 1, widths, network=name))
    assert sum(p.numel() for p in network.parameters()) == published


@pytest.mark.parametrize(
    ("name", "dims", "ours"), [("ukan2", 2, 7_422_241), ("ukan2", 3, 12_175_122), ("ukan", 3, 11_054_274)]
)
def test_reconstructions_stay_as_large_as_they_are(name: str, dims: int, ours: int) -> None:
    """Nothing is published to compare with."""
    with torch.device("meta"):
        network = build_model(ModelSpec(dims, 3, 1 if dims == 2 else 2, KAN_WIDTHS, network=name))
    assert sum(p.numel() for p in network.parameters()) == ours


def test_the_3d_unet_is_that_of_monai_weight_for_weight() -> None:
    from monai.networks.nets import UNet as MonaiUNet

    with torch.device("meta"):
        large = build_model(ModelSpec(3, 1, 2, WIDTHS["tiny"], network="unet"))
    assert sum(p.numel() for p in large.parameters()) == 4_808_917
    ours = small("unet", 3, classes=3)
    theirs = MonaiUNet(3, 2, 3, ours.spec.widths, (2, 2), num_res_units=2, norm="batch").eval()
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(a.shape == b.shape for a, b in pairs)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    image = torch.randn(1, 2, 8, 12, 4)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-6)


# ---- what their papers are about ------------------------------------------------------------------------


def test_a_kan_layer_is_the_sum_of_b_splines_and_a_silu() -> None:
    torch.manual_seed(0)
    layer = KANLinear(3, 4).double()
    x = torch.linspace(-2, 2, 51, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.7, 0.4])
    knots = -1 + 2 / INTERVALS * np.arange(-ORDER, INTERVALS + ORDER + 1)
    elements = [
        BSpline.basis_element(knots[k : k + ORDER + 2], extrapolate=False) for k in range(INTERVALS + ORDER)
    ]
    basis = np.nan_to_num(np.stack([element(x.numpy()) for element in elements], axis=-1))
    torch.testing.assert_close(layer.basis(x), torch.from_numpy(basis), rtol=0, atol=1e-6)
    within = layer.basis(x[x.abs().amax(dim=1) < 1])
    torch.testing.assert_close(within.sum(dim=-1), torch.ones(within.shape[:-1], dtype=torch.float64))
    weights = (layer.coefficients * layer.scale[..., None]).detach().numpy()
    wanted = (
        np.einsum("nik,oik->no", basis, weights)
        + nn.functional.silu(x).numpy() @ layer.base.detach().numpy().T
    )
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=0, atol=1e-6)


def test_a_multiplying_kan_layer_gives_sums_and_products_of_sums() -> None:
    torch.manual_seed(0)
    layer = MultKANLinear(8)
    x = torch.randn(5, 8)
    sums, found = layer.sums(x), layer(x)
    assert found.shape == (5, 8)
    torch.testing.assert_close(found[:, :6], sums[:, :6])
    torch.testing.assert_close(found[:, 6], sums[:, 6] * sums[:, 8])
    torch.testing.assert_close(found[:, 7], sums[:, 7] * sums[:, 9])


@pytest.mark.parametrize("axis", [2, 3])
def test_the_shifted_mlp_moves_fifths_of_the_channels(axis: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 12, 7, 6))
    wanted = np.zeros_like(x)
    for channel in range(12):
        shift = SHIFTS[channel // math.ceil(12 / 5)]
        for at in range(x.shape[axis]):
            if 0 <= at - shift < x.shape[axis]:
                place = [slice(None), channel, slice(None), slice(None)]
                source = list(place)
                place[axis], source[axis] = at, at - shift
                wanted[tuple(place)] = x[tuple(source)]
    np.testing.assert_array_equal(shifted(torch.from_numpy(x), axis).numpy(), wanted)


@pytest.mark.parametrize("axis", [2, 3])
def test_the_rolling_mlp_rolls_each_channel_by_its_number(axis: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 9, 5, 4))
    wanted = np.stack([np.roll(x[:, c], c, axis - 1) for c in range(9)], axis=1)
    np.testing.assert_array_equal(rolled(torch.from_numpy(x), axis).numpy(), wanted)


def test_an_orthogonal_mlp_sees_along_rows_and_columns() -> None:
    torch.manual_seed(0)
    mlp = OrthogonalMLP(8, (3, 2)).double()
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    (seen,) = torch.autograd.grad(mlp(x)[0, :, 0, 0].sum(), x)
    assert (seen.abs().amax(dim=(0, 1)) > 0).all()  # with as many channels as positions: everything


def test_an_ode_step_follows_the_analytic_solution_to_fourth_order() -> None:
    """A damped oscillator, ``x'' = -2 k x' - w^2 x``."""
    damping, frequency = 0.3, 1.7
    ringing = math.sqrt(frequency**2 - damping**2)
    x0, v0 = torch.tensor([1.0, -0.4], dtype=torch.float64), torch.tensor([0.2, 0.9], dtype=torch.float64)

    def exact(t: float) -> torch.Tensor:
        swing = x0 * math.cos(ringing * t) + (v0 + damping * x0) / ringing * math.sin(ringing * t)
        return math.exp(-damping * t) * swing

    def error(steps: int) -> float:
        x, v = x0, v0
        for _ in range(steps):
            x, v = second_order_step(lambda x, v: -2 * damping * v - frequency**2 * x, x, v, 1 / steps)
        return float((x - exact(1)).abs().max())

    assert error(16) < 1e-5
    assert error(8) / error(16) == pytest.approx(2**4, rel=0.15)


def test_a_second_order_block_without_acceleration_goes_straight_on() -> None:
    torch.manual_seed(0)
    block = SecondOrderBlock(3, 2)
    x = torch.randn(1, 3, 4, 4)
    block.acceleration = lambda x, v: torch.zeros_like(x)  # type: ignore[method-assign]
    torch.testing.assert_close(block(x), x + block.velocity(x))


def test_the_attention_block_is_its_formula() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(6, 2).double().eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    skip, gating = (torch.randn(1, 6, 2, 3, dtype=torch.float64) for _ in range(2))

    def line(layers: nn.Module, x: np.ndarray) -> np.ndarray:
        conv, norm = layers  # type: ignore[misc]
        mixed = conv.weight.detach().numpy()[:, :, 0, 0] @ x + conv.bias.detach().numpy()[:, None]
        spread = np.sqrt(norm.running_var.numpy() + norm.eps)
        return (mixed - norm.running_mean.numpy()[:, None]) / spread[:, None]

    x, t = (values[0].flatten(1).numpy() for values in (skip, gating))
    within = np.maximum(line(block.from_skip, x) + line(block.from_gating, t), 0)
    wanted = 1 / (1 + np.exp(-line(block.project, within)))
    np.testing.assert_allclose(block(skip, gating).detach().numpy().reshape(1, -1), wanted, atol=1e-12)


def test_a_nested_node_sees_its_row_and_the_node_below() -> None:
    network = small("unet++")
    seen: dict[str, torch.Tensor] = {}
    for name, node in network.nodes.items():  # type: ignore[union-attr, operator]
        node.register_forward_hook(lambda node, given, out, name=name: seen.update({name: out}))
    network(torch.randn(1, 2, 16, 16))
    sees = {
        name: {
            other
            for other, out in seen.items()
            if other != name
            and torch.autograd.grad(seen[name].sum(), out, retain_graph=True, allow_unused=True)[0]
            is not None
        }
        for name in seen
    }
    assert sees == {
        "0_0": set(),
        "1_0": {"0_0"},
        "2_0": {"0_0", "1_0"},
        "0_1": {"0_0", "1_0"},
        "1_1": {"0_0", "1_0", "2_0"},
        "0_2": {"0_0", "0_1", "1_1", "1_0", "2_0"},
    }
    width = {name: node[0][0].in_channels for name, node in network.nodes.items()}  # type: ignore[union-attr, operator]
    assert width == {"0_0": 2, "1_0": 6, "2_0": 8, "0_1": 6 + 8, "1_1": 8 + 10, "0_2": 6 + 6 + 8}


# ---- one protocol ---------------------------------------------------------------------------------------


@EVERY_BASELINE
def test_any_size_goes_in_and_comes_out_and_a_trace_changes_nothing(name: str, dims: int) -> None:
    network, trace = small(name, dims, classes=3), GateTrace()
    assert network.divisor == network.spec.divisor
    for size in ((17, 9, 11), (8, 16, 8), (5, 3, 2)):
        image = torch.randn(2, 2, *size[:dims])
        with torch.no_grad():
            logits, traced = network(image), network(image, trace)
        assert logits.shape == (2, 3, *size[:dims])
        assert torch.equal(logits, traced)
    with pytest.raises(ValueError, match=r"the network takes \(batch, 2, .*y, x\), got"):
        network(torch.randn(1, 3, *(8,) * dims))
    assert set(trace.skips) == set(network.spec.gated_levels)


@EVERY_BASELINE
def test_every_parameter_learns_and_images_of_a_batch_do_not_mix(name: str, dims: int) -> None:
    network = small(name, dims)
    images = torch.randn(2, 2, *(32, 16, 16)[:dims])
    network(images).square().mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()] == []
    with torch.no_grad():
        alone = torch.cat([network(images[:1]), network(images[1:])])
        torch.testing.assert_close(network(images), alone, rtol=0, atol=1e-5)


def test_the_traced_mask_is_what_attention_lets_through() -> None:
    network, trace = small("attention-unet"), GateTrace()
    network(torch.randn(1, 2, 30, 23), trace)
    assert {level: kept.psi.shape[2:] for level, kept in trace.skips.items()} == {1: (30, 23), 2: (15, 12)}
    for kept in trace.skips.values():
        torch.testing.assert_close(kept.gated, kept.skip * kept.psi)


def test_a_network_without_our_gates_refuses_their_settings() -> None:
    for wrong in (
        {"gate": "spatial"},
        {"gate_options": GateOptions(threshold=0.1)},
        {"gated_levels": (1,)},
        {"norm": "instance"},
    ):
        (setting,) = wrong
        with pytest.raises(
            ValueError, match=rf"network 'unet' has no gates .* leave out {setting}, or choose"
        ):
            ModelSpec(2, 1, 1, network="unet", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has the gate 'attention' on every skip"):
        ModelSpec(2, 1, 1, gate="prosma-exact", network="attention-unet")
    with pytest.raises(ValueError, match=r"unknown network 'u-net'; choose one of prosma-unet, unet"):
        ModelSpec(2, 1, 1, network="u-net")
    with pytest.raises(
        ValueError, match=r"'unext' is 2D; .* or choose one of prosma-unet, unet, ukan, ukan2"
    ):
        ModelSpec(3, 1, 1, network="unext")


def test_a_specification_says_which_gate_a_network_has() -> None:
    plain, gated = (ModelSpec(2, 1, 1, (4, 6, 8), network=n) for n in ("unet", "attention-unet"))
    assert (plain.gate, plain.gated_levels) == ("none", ())
    assert (gated.gate, gated.gated_levels) == ("attention", (1, 2))
