"""The network around the gates: sizes, traces, training, saving."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet, pad_to_multiple

MakeNetwork = Callable[..., ProSMAUNet]
DIMS = pytest.mark.parametrize("dims", [2, 3])
EVERY_GATE = pytest.mark.parametrize("name", list(GATES))
NARROW = (4, 6, 8)


def count(spec: ModelSpec) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(spec).parameters())


@pytest.mark.parametrize(
    ("dims", "widths", "gate", "norm", "parameters"),
    [
        (2, "large", "prosma", "batch", 36_589_537),
        (2, "large", "prosma", "none", 36_588_097),
        (2, "large", "none", "batch", 35_918_913),
        (2, "large", "attention", "batch", 35_918_913 + 351_532),
        (2, "base", "prosma", "batch", 9_157_365),
        (2, "base", "none", "batch", 8_985_121),
        (2, "tiny", "prosma", "batch", 2_294_465),
        (2, "tiny", "none", "batch", 2_248_977),
        (3, "tiny", "prosma", "batch", 6_614_018),
        (3, "tiny", "none", "batch", 6_562_050),
        (3, "base", "prosma", "batch", 26_422_646),
        (3, "base", "none", "batch", 26_237_442),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    dims: int, widths: str, gate: str, norm: str, parameters: int
) -> None:
    """Invariant 17; the attention gate adds what the four gates of AttU_Net add."""
    channels = (3, 1) if dims == 2 else (1, 2)
    spec = ModelSpec(dims, *channels, WIDTHS[widths], gate, GateOptions(norm=norm))
    assert count(spec) == parameters


@DIMS
def test_gates_differ_by_the_parts_they_lack(dims: int) -> None:
    """Invariant 17: prosma = spatial + channel - none; dense lacks theta; exact has no bias b."""
    sizes = {name: count(ModelSpec(dims, 1, 2, NARROW, name)) for name in GATES}
    latent, levels = 8, len(NARROW) - 1
    assert sizes["prosma"] - sizes["spatial"] == sizes["channel"] - sizes["none"] > 0
    assert sizes["prosma"] - sizes["dense"] == latent * levels
    assert sizes["prosma"] - sizes["prosma-exact"] == levels


# --- the printed network --------------------------------------------------------------------------------


def printed_network(network: ProSMAUNet, image: Tensor, dims: int) -> Tensor:
    """Section 2 of the paper with torch's functions and the weights of ``network``; its gates as they are."""
    w = network.state_dict()
    conv, pool = (F.conv2d, F.max_pool2d) if dims == 2 else (F.conv3d, F.max_pool3d)
    levels = len(network.spec.widths)

    def conv_norm(x: Tensor, at: str, first: int) -> Tensor:
        kernel = w[f"{at}.{first}.weight"]
        y = conv(x, kernel, padding=kernel.shape[-1] // 2)
        n = f"{at}.{first + 1}"
        return F.batch_norm(
            y, w[f"{n}.running_mean"], w[f"{n}.running_var"], w[f"{n}.weight"], w[f"{n}.bias"]
        )

    def residual(x: Tensor, at: str) -> Tensor:
        y = conv_norm(F.relu(conv_norm(x, f"{at}.body", 0)), f"{at}.body", 3)
        return F.relu(y + (conv_norm(x, f"{at}.shortcut", 0) if f"{at}.shortcut.0.weight" in w else x))

    skips = [residual(image, "encoder.0")]
    for k in range(1, levels):
        skips.append(residual(pool(skips[-1], 2), f"encoder.{k}"))
    g = skips.pop()
    for s in reversed(range(levels - 1)):
        linear = "bilinear" if dims == 2 else "trilinear"
        larger = F.interpolate(g, size=skips[s].shape[2:], mode=linear, align_corners=False)
        t = F.relu(conv_norm(larger, f"up.{s}.body", 0))
        g = residual(torch.cat([network.gate(s + 1)(skips[s], t), t], dim=1), f"decoder.{s}")
    return conv(g, w["head.weight"], w["head.bias"])


@DIMS
@pytest.mark.parametrize("name", ["prosma", "none"])
def test_the_network_is_wired_as_printed(settled_network: MakeNetwork, dims: int, name: str) -> None:
    """Section 2 of the paper: what feeds what, against the same equations in torch's functions."""
    network = settled_network(dims, 2, 3, gate=name, widths=(6, 6, 8, 9)).double()
    image = torch.rand(2, 2, *((24, 32) if dims == 2 else (8, 16, 24)), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), printed_network(network, image, dims), rtol=0, atol=1e-10)


# --- sizes and padding ----------------------------------------------------------------------------------


def five_levels(dims: int, channels: tuple[int, int] = (1, 2)) -> ProSMAUNet:
    torch.manual_seed(0)
    return build_model(ModelSpec(dims, *channels, (2, 3, 4, 5, 6))).eval()


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 75), st.integers(1, 75)), st.integers(1, 4), st.integers(1, 3))
def test_any_2d_size_and_any_channels_come_back_at_the_images_size(
    size: tuple[int, int], channels: int, classes: int
) -> None:
    """Invariant 18, odd and tiny sizes included."""
    with torch.no_grad():
        logits = five_levels(2, (channels, classes))(torch.rand(1, channels, *size))
    assert logits.shape == (1, classes, *size)
    assert logits.isfinite().all()


@settings(deadline=None, max_examples=10)
@given(st.tuples(*[st.integers(1, 37)] * 3))
def test_any_3d_size_comes_back_at_the_images_size(size: tuple[int, int, int]) -> None:
    """Invariant 18 in 3D."""
    with torch.no_grad():
        logits = five_levels(3)(torch.rand(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    assert logits.isfinite().all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 21), min_size=2, max_size=3), st.sampled_from([1, 3, 4, 16]))
@example([2, 5], 3)  # exactly as much to mirror as is missing
def test_padding_keeps_the_image_mirrors_it_and_repeats_the_edge_where_it_is_too_small(
    size: list[int], divisor: int
) -> None:
    """Item 19 of the defaults, against index arithmetic; axis by axis."""
    image = torch.arange(math.prod(size), dtype=torch.float32).reshape(1, 1, *size)
    expected = image
    for axis, length in enumerate(size, start=2):
        missing = -length % divisor
        mirrored = [length - 2 - i for i in range(missing)]
        repeated = [length - 1] * missing
        beyond = mirrored if missing < length else repeated
        expected = expected.index_select(axis, torch.tensor([*range(length), *beyond]))
    assert torch.equal(pad_to_multiple(image, divisor), expected)


def test_padding_does_not_touch_a_size_that_fits() -> None:
    image = torch.rand(1, 1, 16, 32)
    assert pad_to_multiple(image, 16) is image


@pytest.mark.parametrize(("dims", "batch", "size"), [(2, 1, (16, 16)), (2, 1, (9, 16)), (3, 1, (16, 3, 8))])
def test_training_on_one_value_per_channel_is_refused_with_the_remedy(
    dims: int, batch: int, size: tuple[int, ...]
) -> None:
    """Invariant 18: batch norm at the deepest level needs two values."""
    network = five_levels(dims).train()
    with pytest.raises(ValueError, match=r"batch of at least 2 or a patch larger than 16"):
        network(torch.rand(batch, 1, *size))
    assert network(torch.rand(2, 1, *size)).shape == (2, 2, *size)
    larger = (size[0] + 16, *size[1:])
    assert network(torch.rand(1, 1, *larger)).shape == (1, 2, *larger)
    assert network.eval()(torch.rand(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize(("dims", "size"), [(2, (7, 8)), (3, (8, 3, 5))])
def test_instance_norm_needs_two_elements_per_image_in_training_and_none_afterwards(
    dims: int, size: tuple[int, ...]
) -> None:
    network = build_model(ModelSpec(dims, 1, 2, (4, 6, 8, 8), norm="instance")).train()
    with pytest.raises(ValueError, match=r"instance norm.* use a patch larger than 8 along some axis"):
        network(torch.rand(4, 1, *size))
    larger = (size[0] + 8, *size[1:])
    assert network(torch.rand(1, 1, *larger)).shape == (1, 2, *larger)
    trace = GateTrace()
    assert network.eval()(torch.rand(1, 1, *size), trace).shape == (1, 2, *size)
    assert trace.skips[1].gated.shape[2:] == size
    assert trace.skips[3].gated.shape[2:] == tuple(math.ceil(n / 4) for n in size)


def test_with_instance_norm_images_of_a_batch_do_not_see_each_other_in_training_either() -> None:
    spec = ModelSpec(2, 1, 1, NARROW, gate_options=GateOptions(norm="none"), norm="instance")
    network, images = build_model(spec).train(), torch.rand(3, 1, 16, 16)
    alone = torch.cat([network(image[None]) for image in images])
    assert torch.allclose(network(images), alone, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 3, 32, 32), (1, 1, 8, 8, 8)])
def test_a_wrong_input_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(batch, 1, y, x\), got \(1, "):
        five_levels(2)(torch.rand(*shape))


# --- what the network keeps and what it does not --------------------------------------------------------


@DIMS
@EVERY_GATE
def test_images_of_a_batch_do_not_see_each_other(settled_network: MakeNetwork, dims: int, name: str) -> None:
    """Invariant 19: in evaluation, alone or in a batch, in any order."""
    network = settled_network(dims, gate=name).double()
    images = torch.rand(3, 1, *((24, 20) if dims == 2 else (8, 12, 8)), dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
        permuted = network(images[order])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-10)
    torch.testing.assert_close(permuted, together[order], rtol=0, atol=1e-10)
    assert (together[0] - together[1]).abs().max() > 1e-4


@EVERY_GATE
def test_content_moved_by_a_whole_period_moves_the_output(settled_network: MakeNetwork, name: str) -> None:
    """Invariant 20: 16 px on a constant background, in the interior; the channel part is no obstacle.

    Flips and rotations are not tested: the network has no such symmetry.
    """
    network = settled_network(gate=name, widths=(2, 3, 4, 5, 6)).double()
    lesion = torch.rand(24, 48, dtype=torch.float64)
    image = torch.full((1, 1, 912, 48), 0.4, dtype=torch.float64)
    moved, by_one = image.clone(), image.clone()
    image[..., 440:464, :] = lesion
    moved[..., 456:480, :] = lesion
    by_one[..., 441:465, :] = lesion
    with torch.no_grad():
        first, second, third = (network(x) for x in (image, moved, by_one))
    border = 200  # the reach of the convolutions from the image's edge, where the padding is seen
    interior = slice(border, -border)
    assert first[..., interior, :].std() > 1e-3
    by_a_period = second[..., 16:, :] - first[..., :-16, :]
    by_one_pixel = third[..., 1:, :] - first[..., :-1, :]
    assert by_a_period[..., interior, :].abs().max() < 1e-6
    assert by_one_pixel[..., interior, :].abs().max() > 1e-5


# --- plain and traced -----------------------------------------------------------------------------------


@DIMS
@EVERY_GATE
@pytest.mark.parametrize("training", [False, True])
def test_a_trace_changes_no_bit_of_the_output(dims: int, name: str, training: bool) -> None:
    """Invariant 21: same logits, same gradients, same running statistics, with a trace and without."""
    size = (21, 30) if dims == 2 else (9, 8, 13)
    images = torch.rand(2, 1, *size)

    def run(trace: GateTrace | None) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        torch.manual_seed(4)
        network = build_model(ModelSpec(dims, 1, 2, NARROW, name)).train(training)
        logits = network(images, trace)
        logits.square().mean().backward()
        gradients = [p.grad for p in network.parameters()]
        return logits, network.state_dict(), gradients

    trace = GateTrace()
    plain, traced = run(None), run(trace)
    assert sorted(trace.skips) == [1, 2]
    assert torch.equal(plain[0], traced[0])
    assert all(torch.equal(plain[1][key], traced[1][key]) for key in plain[1])
    assert all(torch.equal(a, b) for a, b in zip(plain[2], traced[2], strict=True))


@DIMS
@EVERY_GATE
def test_traced_maps_lie_on_the_grid_of_their_level(
    settled_network: MakeNetwork, dims: int, name: str
) -> None:
    """Invariant 21: ceil(n / 2^(s-1)) positions per axis, whatever the padding added; all detached."""
    network = settled_network(dims, gate=name)
    size = (21, 30) if dims == 2 else (9, 8, 13)
    trace = GateTrace()
    network(torch.rand(2, 1, *size), trace)
    assert sorted(trace.skips) == [1, 2]
    for level, seen in trace.skips.items():
        grid = tuple(math.ceil(n / 2 ** (level - 1)) for n in size)
        width = NARROW[level - 1]
        shapes = {
            "skip": (2, width, *grid),
            "gated": (2, width, *grid),
            "field": (2, 8, *grid),
            "z": (2, 8, *grid),
            "psi": (2, 1, *grid),
            "psi_dense": (2, 1, *grid),
            "channel": (2, width),
            "threshold": (8,),
        }
        assert seen.level == level
        for part, shape in shapes.items():
            values = getattr(seen, part)
            assert values is None or (values.shape == shape and not values.requires_grad)


def test_the_decoder_receives_what_the_trace_shows(settled_network: MakeNetwork) -> None:
    """Invariant 21: the traced x~ is what goes into the decoder block, gated skip first, then t."""
    network = settled_network()
    received = {}
    for s, block in enumerate(network.decoder):
        block.register_forward_pre_hook(lambda _, inputs, s=s: received.update({s + 1: inputs[0]}))
    trace = GateTrace()
    with torch.no_grad():
        network(torch.rand(1, 1, 32, 32), trace)
    for level, seen in trace.skips.items():
        assert torch.equal(received[level][:, : NARROW[level - 1]], seen.gated)
        assert received[level].shape[1] == 2 * NARROW[level - 1]


@DIMS
def test_a_vanishing_threshold_makes_the_network_dense(settled_network: MakeNetwork, dims: int) -> None:
    """Invariant 16 for the whole network: theta = -60 in every gate equals the dense gate to 1e-6."""
    sparse, dense = settled_network(dims), settled_network(dims, gate="dense")
    dense.load_state_dict({k: v for k, v in sparse.state_dict().items() if not k.endswith("theta")})
    image = torch.rand(1, 1, *(16,) * dims)
    with torch.no_grad():
        before = sparse(image)
        for level in (1, 2):
            sparse.gate(level).spatial.theta.fill_(-60)
        torch.testing.assert_close(sparse(image), dense(image), rtol=0, atol=1e-6)
        assert (before - dense(image)).abs().max() > 1e-4


# --- learning and saving --------------------------------------------------------------------------------


@DIMS
@EVERY_GATE
def test_every_gate_trains_one_step(dims: int, name: str) -> None:
    """A finite loss, a finite gradient for every parameter, and every parameter moved."""
    torch.manual_seed(0)
    # Of the usual 4 hidden units of a narrow channel part all may start below their ReLU; of 16 hardly.
    options = GateOptions(squeeze_min=16)
    network = build_model(ModelSpec(dims, 1, 1, NARROW, name, options)).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    images = torch.rand(2, 1, *(16,) * dims)
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    loss = F.binary_cross_entropy_with_logits(network(images), (images > 0.5).float())
    loss.backward()
    assert loss.isfinite()
    optimiser.step()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.isfinite().all(), key
        assert not torch.equal(parameter, before[key]), key


@DIMS
@EVERY_GATE
def test_a_saved_network_comes_back_bit_for_bit(
    settled_network: MakeNetwork, tmp_path: Path, dims: int, name: str
) -> None:
    """Invariant 23: weights and running statistics, through a file, into a network of another start."""
    network = settled_network(dims, gate=name)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(99)
    loaded = build_model(network.spec).eval()
    image = torch.rand(1, 1, *(16,) * dims)
    with torch.no_grad():
        assert not torch.equal(loaded(image), network(image))
        loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert torch.equal(loaded(image), network(image))


@EVERY_GATE
def test_one_image_is_learnt_by_heart(name: str) -> None:
    """Invariant 24: Dice above 0.95 in fewer than 200 steps on a 64 x 64 phantom with speckle."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    lesion = (((y - 28) / 14) ** 2 + ((x - 36) / 20) ** 2 < 1).float()[None, None]
    image = (0.7 - 0.3 * lesion) * (1 + 0.5 * torch.randn(1, 1, 64, 64))
    network = build_model(ModelSpec(2, 1, 1, WIDTHS["quick"], name)).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        logits = network(image)
        F.binary_cross_entropy_with_logits(logits, lesion).backward()
        optimiser.step()
    found = (logits > 0).float()
    dice = 2 * (found * lesion).sum() / (found.sum() + lesion.sum())
    assert dice > 0.95


# --- the specification ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"in_channels": 0}, "channels must be positive"),
        ({"out_channels": 0}, "channels must be positive"),
        ({"widths": (8, 16)}, "at least three"),
        ({"widths": (8, 0, 16)}, "positive integers"),
        ({"gate": "sparse"}, "unknown gate 'sparse'"),
        ({"gated_levels": (1, 3)}, "within 1 and 2"),
    ],
)
def test_impossible_specifications_are_refused(wrong: dict[str, object], message: str) -> None:
    fitting = {"dims": 2, "in_channels": 1, "out_channels": 1, "widths": NARROW}
    with pytest.raises(ValueError, match=message):
        ModelSpec(**{**fitting, **wrong})  # type: ignore[arg-type]


def test_the_global_seed_decides_the_start() -> None:
    spec = ModelSpec(2, 1, 1, NARROW)
    starts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        starts.append(build_model(spec).state_dict())
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
    assert not all(torch.equal(starts[0][key], starts[2][key]) for key in starts[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_new_network_on_half_of_the_grid_draws_no_chequered_pattern(dims: int) -> None:
    network = build_model(ModelSpec(dims, 1, 3, widths=(4, 8, 8), entry=2)).eval()
    with torch.no_grad():
        logits = network(torch.randn(1, 1, *[16] * dims))
    coarse = logits[(..., *[slice(None, None, 2)] * dims)]
    for axis in range(2, 2 + dims):
        coarse = coarse.repeat_interleave(2, axis)
    torch.testing.assert_close(logits, coarse)
