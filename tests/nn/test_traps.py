"""What surprises people about this gate, each as a fact that the code and its labels rest on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GateOptions
from napari_prosma.nn.gates import Gate, GateTrace, SkipTrace, make_gate
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet

MakeGate = Callable[..., tuple[Gate, Tensor, Tensor]]
MakeNetwork = Callable[..., ProSMAUNet]
DIMS = pytest.mark.parametrize("dims", [2, 3])


def trace_of(network: ProSMAUNet, image: Tensor) -> dict[int, SkipTrace]:
    trace = GateTrace()
    with torch.no_grad():
        network(image, trace)
    return trace.skips


def zero_fraction(seen: SkipTrace) -> float:
    return (seen.z == 0).double().mean().item()


def trap_network(norm: str = "batch", **options: object) -> ProSMAUNet:
    torch.manual_seed(0)
    return build_model(ModelSpec(2, 1, 1, WIDTHS["quick"], "prosma", GateOptions(norm=norm, **options)))  # type: ignore[arg-type]


@DIMS
def test_compatibility_has_both_signs_and_the_band_of_zeros_is_symmetric(
    settled_gate: MakeGate, dims: int
) -> None:
    """Sign: v >= 0, but u and z are signed; z needs a diverging colour map with symmetric limits."""
    gate, skip, gating = settled_gate("prosma", dims)
    trace = GateTrace()
    gate(skip, gating, trace)
    seen = trace.skips[1]
    for values in (seen.field, seen.z):
        assert (values < 0).double().mean() > 0.1
        assert (values > 0).double().mean() > 0.1
    bound = seen.threshold.view(1, -1, *[1] * dims)
    assert torch.equal(seen.z == 0, (seen.field >= -bound) & (seen.field <= bound))


def test_a_channel_below_its_threshold_learns_nothing_more(settled_gate: MakeGate) -> None:
    """Dead channels: max|u_c| <= lambda_c makes the gradients of theta_c, Psi_c and phi_c exactly 0."""
    gate, skip, gating = settled_gate("prosma", norm="none", threshold=0.1)
    mask = gate.spatial
    mask.theta.data[2] = 50.0
    (gate(skip, gating) ** 2).sum().backward()
    alive = [c for c in range(len(mask.theta)) if c != 2]
    for gradient in (mask.theta.grad, mask.project.weight.grad[0], mask.mix.weight.grad, mask.mix.bias.grad):
        assert not gradient[2].any()
        assert all(gradient[c].any() for c in alive)


@pytest.mark.parametrize("gain", [0.1, 1.0, 100.0])
def test_batch_norm_keeps_channels_alive_whatever_the_scale_of_the_weights(gain: float) -> None:
    """Dead channels: with unit variance over 10^4 positions a lambda below 3 cannot empty a channel.

    It holds while std(phi D v) is well above 0.003, the root of batch norm's epsilon.
    """
    torch.manual_seed(0)
    gate = make_gate("prosma", 32, 32, 2, GateOptions(threshold=2.9)).train()
    with torch.no_grad():
        gate.spatial.mix.weight.mul_(gain)
    trace = GateTrace()
    gate(torch.randn(1, 32, 128, 128).relu(), torch.randn(1, 32, 128, 128).relu(), trace)
    seen = trace.skips[1]
    assert (seen.z != 0).flatten(2).any(dim=2).all()
    assert zero_fraction(seen) > 0.95


def test_the_literal_gate_is_dead_at_its_natural_start() -> None:
    """Finding 3: lambda = ln 2 is several times the field of the printed form, so z is empty at step 0."""
    skips = trace_of(trap_network("none").train(), torch.rand(2, 1, 64, 64))
    assert all(zero_fraction(seen) > 0.97 for seen in skips.values())
    assert all(seen.psi.std() < 0.01 for seen in skips.values())


def test_with_batch_norm_about_half_of_z_is_zero_at_the_start() -> None:
    """Items 11 and 12 of the defaults: a statement about the initialisation, not about learning."""
    skips = trace_of(trap_network().train(), torch.rand(2, 1, 64, 64))
    assert all(0.45 < zero_fraction(seen) < 0.6 for seen in skips.values())


def test_an_untrained_network_in_evaluation_looks_perfectly_sparse() -> None:
    """BN at init: running statistics are (0, 1), so z is empty; needs a visible warning.

    They also lag: after 30 steps z still looks emptier than training sees it, after 120 no more.
    """
    network = trap_network()
    image = torch.rand(2, 1, 64, 64)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.num_batches_tracked == 0 for m in norms), "what a warning can look at"
    evaluated = {}
    for steps in range(121):
        if steps in (0, 30, 120):
            evaluated[steps] = [zero_fraction(seen) for seen in trace_of(network.eval(), image).values()]
        with torch.no_grad():
            network.train()(image)
    as_trained = [zero_fraction(seen) for seen in trace_of(network, image).values()]
    assert min(evaluated[0]) > 0.99
    assert all(late > now + 0.05 for late, now in zip(evaluated[30], as_trained, strict=True))
    assert evaluated[120] == pytest.approx(as_trained, abs=0.03)


def test_supports_are_nested_at_the_deepest_gate_and_not_promised_above(settled_network: MakeNetwork) -> None:
    """Nested supports hold at fixed u only: raising every lambda moves the field of the finer gates."""
    network, image = settled_network(widths=(4, 6, 8, 10)), torch.rand(1, 1, 40, 40)
    before = trace_of(network, image)
    for level in (1, 2, 3):
        network.gate(level).spatial.theta.data.add_(1.0)
    after = trace_of(network, image)
    assert torch.equal(after[3].field, before[3].field)
    assert not ((after[3].z != 0) & (before[3].z == 0)).any()
    assert (after[3].z != 0).sum() < (before[3].z != 0).sum()
    assert all(not torch.equal(after[s].field, before[s].field) for s in (2, 1))


def test_a_gate_depends_on_the_window_through_its_channel_part_alone(settled_gate: MakeGate) -> None:
    """GAP: c of a crop is another c; psi in the crop's interior is the same. Show c as mean +- std."""
    gate, _, _ = settled_gate("prosma")
    torch.manual_seed(1)
    skip, gating = torch.rand(2, 1, 7, 40, 40, dtype=torch.float64)
    skip, gating = skip[:, :6], gating + torch.linspace(0, 1, 40, dtype=torch.float64)
    whole, crop = GateTrace(), GateTrace()
    gate(skip, gating, whole)
    gate(skip[..., :24], gating[..., :24], crop)
    whole_seen, crop_seen = whole.skips[1], crop.skips[1]
    reach = 4  # the largest dilation
    torch.testing.assert_close(
        whole_seen.psi[..., : 24 - reach], crop_seen.psi[..., : 24 - reach], rtol=0, atol=1e-12
    )
    assert (whole_seen.channel - crop_seen.channel).abs().max() > 1e-3


def test_zeros_in_z_are_not_a_cut_skip(settled_gate: MakeGate) -> None:
    """Finding 4: where z is empty psi is the floor, and the skip passes with it. Never "x % removed"."""
    gate, skip, gating = settled_gate("spatial", threshold=1.5)
    trace = GateTrace()
    gate(skip, gating, trace)
    seen = trace.skips[1]
    empty = (seen.z == 0).all(dim=1, keepdim=True)
    assert empty.any()
    torch.testing.assert_close(seen.psi[empty], torch.full_like(seen.psi[empty], seen.floor))
    assert 0.2 < seen.floor < 0.8
    torch.testing.assert_close(seen.gated, skip * seen.psi, rtol=0, atol=0)
    assert (seen.gated[empty.expand_as(skip)] > 0).any()


@DIMS
def test_gates_can_be_left_out_at_full_resolution(dims: int) -> None:
    """3D cost: ungated levels pass their skip as it is, and the gates there cost nothing."""
    torch.manual_seed(0)
    network = build_model(ModelSpec(dims, 1, 1, (4, 6, 8, 10), "prosma", gated_levels=(2, 3)))
    assert not list(network.gate(1).parameters())
    assert all(list(network.gate(level).parameters()) for level in (2, 3))
    skips = trace_of(network.eval(), torch.rand(1, 1, *(16,) * dims))
    assert torch.equal(skips[1].gated, skips[1].skip)
    assert skips[1].psi is None
    assert all(not torch.equal(skips[level].gated, skips[level].skip) for level in (2, 3))


def test_an_anisotropic_patch_is_padded_inside_and_shown_without_the_padding() -> None:
    """Anisotropic CT: 56 is not a multiple of 16; the network pads to 64 and the maps show 56, 28, 14, 7."""
    torch.manual_seed(0)
    network = build_model(ModelSpec(3, 1, 1, (1, 2, 3, 4, 5))).eval()
    skips = trace_of(network, torch.rand(1, 1, 56, 32, 16))
    assert [skips[s].psi.shape[2:] for s in (1, 2, 3, 4)] == [(56 >> s, 32 >> s, 16 >> s) for s in range(4)]


def test_the_channel_part_of_a_narrow_gate_may_start_constant() -> None:
    """With 4 hidden units and inputs that are all positive, every unit of some gates starts below its ReLU.

    Such a c is the same for every image, and its first layer gets no gradient; the spread of c over images
    shows it. More hidden units (``squeeze_min``) make it rare.
    """

    def constant(squeeze_min: int) -> float:
        found = 0
        for seed in range(200):
            torch.manual_seed(seed)
            gate = make_gate("channel", 16, 16, 2, GateOptions(squeeze_min=squeeze_min))
            c = gate.channel(torch.randn(8, 16, 8, 8).relu())
            found += bool((c == c[:1]).all())
        return found / 200

    assert 0.01 < constant(4) < 0.15
    assert constant(16) == 0
