"""The gate computed fast gives what the gate as written gives: outputs, gradients, zeros, traces."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_prosma.nn.build import LAYOUTS, Layout, build_model, lay_out
from napari_prosma.nn.fast import forward as fast
from napari_prosma.nn.fast import learning as fast_learning
from napari_prosma.nn.fast.forward import reference
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.gates import Change, Gate, GateTrace, SkipTrace, make_gate
from napari_prosma.nn.spec import ModelSpec

MakeGate = Callable[..., tuple[Gate, Tensor, Tensor]]
DIMS = pytest.mark.parametrize("dims", [2, 3])
PROXIMAL = ("prosma", "spatial", "dense", "prosma-exact")
CLOSE = 1e-5
"""Relative, in float32."""


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images are computed fast, too; users' are not."""
    monkeypatch.setattr(fast, "FEWEST", {4: 0, 5: 0})


def run(gate: Gate, skip: Tensor, gating: Tensor) -> tuple[Tensor, dict[str, Tensor], SkipTrace]:
    """``[x~, t]``, the gradient of everything that went in while it learns, and what a trace shows."""
    gate, trace = copy.deepcopy(gate), GateTrace()
    skip, gating = skip.detach().clone().requires_grad_(), gating.detach().clone().requires_grad_()
    if not gate.training:
        with torch.no_grad():
            return gate.joined(skip, gating, trace), {}, trace.skips[1]
    both = gate.joined(skip, gating, trace)
    both.backward(torch.linspace(-1, 1, both.numel(), dtype=both.dtype).view_as(both))
    inputs = {"skip": skip, "gating": gating, **dict(gate.named_parameters())}
    gradients = {name: p.grad for name, p in inputs.items() if p.grad is not None}
    return both.detach(), gradients, trace.skips[1]


def apart(a: Tensor, b: Tensor) -> float:
    """Relative distance of two tensors."""
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(PROXIMAL),
    size=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    dilations=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    batch=st.integers(1, 3),
    training=st.booleans(),
    norm=st.sampled_from(["batch", "none"]),
    last=st.booleans(),
    together=st.sampled_from([1, 2**20]),
    seed=st.integers(0, 2**16),
)
@example("prosma", [6, 7], (5, 4), [1, 2], 3, True, "batch", True, 1, 0)
@example("prosma-exact", [6, 7], (5, 4), [1, 2], 3, True, "batch", True, 1, 0)
@example("prosma", [4, 5, 6], (5, 4), [1, 2], 3, True, "batch", False, 1, 0)
def test_fast_and_written_agree_on_any_shape(
    name: str,
    size: list[int],
    channels: tuple[int, int],
    dilations: list[int],
    batch: int,
    training: bool,
    norm: str,
    last: bool,
    together: int,
    seed: int,
) -> None:
    """float64, so that nothing but a mistake can tell them apart."""
    torch.manual_seed(seed)
    options = GateOptions(dilations=tuple(dilations), norm=norm, threshold=0.2, latent_min=3)
    gate = make_gate(name, *channels, len(size), options).double()
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    gate.train(training and batch * size[0] * size[1] > 1)
    skip, gating = (torch.randn(batch, c, *size, dtype=torch.float64).relu() for c in channels)
    if last:
        layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
        skip, gating = skip.to(memory_format=layout), gating.to(memory_format=layout)
    with mock.patch.object(fast, "_TOGETHER", together):
        found, gradients, seen = run(gate, skip, gating)
    with reference():
        wanted, wanted_gradients, wanted_seen = run(gate, skip, gating)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    assert gradients.keys() == wanted_gradients.keys()
    for key in gradients:
        torch.testing.assert_close(gradients[key], wanted_gradients[key], rtol=1e-6, atol=1e-9)
    assert seen.z is not None
    assert wanted_seen.z is not None
    assert torch.equal(seen.z == 0, wanted_seen.z == 0)


@DIMS
@pytest.mark.parametrize("training", [False, True])
def test_they_agree_to_rounding_in_float32(settled_gate: MakeGate, dims: int, training: bool) -> None:
    gate, skip, gating = settled_gate("prosma", dims)
    gate, skip, gating = gate.float().train(training), skip.float(), gating.float()
    found, gradients, seen = run(gate, skip, gating)
    with reference():
        wanted, wanted_gradients, wanted_seen = run(gate, skip, gating)
    assert apart(found, wanted) < CLOSE
    for key, gradient in gradients.items():
        # Before a batch norm that learns, the gradient along the weight is zero: rounding is all there is.
        assert apart(gradient, wanted_gradients[key]) < CLOSE or gradient.norm() < 1e-6
    assert seen.z is not None
    assert wanted_seen.z is not None
    assert 0.1 < (seen.z == 0).float().mean() < 0.9
    assert torch.equal(seen.z == 0, wanted_seen.z == 0)


@torch.no_grad()
@DIMS
@pytest.mark.parametrize("change", [Change(1.7), Change(c=1.0), Change(psi=1.0, threshold=0.0)])
def test_a_changed_gate_is_the_written_one_changed(settled_gate: MakeGate, dims: int, change: Change) -> None:
    gate, skip, gating = settled_gate("prosma", dims)
    found = gate(skip, gating, change=change)
    with reference():
        torch.testing.assert_close(found, gate(skip, gating, change=change), rtol=1e-9, atol=1e-12)


def test_what_is_traced_is_what_was_computed(settled_gate: MakeGate) -> None:
    """Zeros at the threshold depend on rounding, so both passes take the same path, norms folded or not."""
    gate, skip, gating = settled_gate("prosma")
    gate, skip, gating = gate.float(), skip.float(), gating.float()
    with torch.no_grad():
        # lambda at the very values of u, where the last digit decides.
        u = gate.spatial.field(skip, gating)
        at = u[0, :, 4, 4].abs()
        gate.spatial.theta.copy_(at.expm1().log())
        trace = GateTrace()
        traced, plain = gate(skip, gating, trace), gate(skip, gating)
    kept = trace.skips[1]
    assert torch.equal(traced, plain)
    assert torch.equal(kept.field, u)
    bound = kept.threshold.view(1, -1, 1, 1)
    assert torch.equal(kept.z == 0, u.abs() <= bound)


@torch.no_grad()
@DIMS
def test_the_fold_follows_the_weights(settled_gate: MakeGate, dims: int) -> None:
    """Nothing folded is kept: weights and statistics that change afterwards count at once."""
    gate, skip, gating = settled_gate("prosma", dims)
    before = gate(skip, gating)
    gate.spatial.from_skip.weight.mul_(1.5)
    gate.spatial.norm_field.running_var.mul_(2.0)
    after = gate(skip, gating)
    assert not torch.equal(before, after)
    with reference():
        torch.testing.assert_close(after, gate(skip, gating), rtol=1e-9, atol=1e-12)


@DIMS
def test_a_training_step_learns_the_same_running_statistics(dims: int) -> None:
    torch.manual_seed(0)
    size = (2, 12, *(8,) * dims)
    skip, gating = torch.randn(size).relu(), torch.randn(size).relu()
    one = make_gate("prosma", 12, 12, dims)
    other = copy.deepcopy(one)
    one(skip, gating)
    with reference():
        other(skip, gating)
    for (name, a), b in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_less_is_kept_for_the_backward_pass() -> None:
    """Beside x and t, which the network keeps anyway, less than a quarter."""

    def saved() -> int:
        kept: dict[int, int] = {}
        there = skip.untyped_storage().data_ptr()

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = gate.joined(skip, gating)
        assert output.requires_grad
        return sum(nbytes for at, nbytes in kept.items() if at != there)

    gate = make_gate("prosma", 16, 16, 2)
    skip, gating = torch.randn(2, 4, 16, 32, 32).unbind()
    few = saved()
    with reference():
        many = saved()
    assert few < 0.25 * many


def test_frozen_gates_let_gradients_through(settled_gate: MakeGate) -> None:
    gate, skip, gating = settled_gate("prosma")
    gate.train().requires_grad_(False)
    found, gradients, _ = run(gate, skip, gating)
    with reference():
        wanted, wanted_gradients, _ = run(gate, skip, gating)
    torch.testing.assert_close(found, wanted)
    assert gradients.keys() == wanted_gradients.keys() == {"skip", "gating"}
    for key in gradients:
        torch.testing.assert_close(gradients[key], wanted_gradients[key])


@pytest.mark.parametrize("name", list(GATES))
def test_state_and_parameters_are_those_of_the_written_gate(name: str) -> None:
    """Checkpoints know nothing of how a gate computes."""
    model = build_model(ModelSpec(2, 1, 1, (4, 6, 8), name))
    state = set(model.state_dict())
    with torch.no_grad():
        model.eval()(torch.randn(1, 1, 8, 8))
    assert set(model.state_dict()) == state


@pytest.mark.parametrize("learning", [False, True])
def test_elsewhere_gates_compute_as_written(learning: bool) -> None:
    def is_fast(x: Tensor) -> bool:
        return fast_learning.learning_norms(x, norms) is not None if learning else fast.applies(x)

    x, norms = torch.zeros(1, 1, 2, 2), (torch.nn.BatchNorm2d(1),)
    with torch.set_grad_enabled(learning):
        assert is_fast(x)
        assert not is_fast(x.to("meta"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not is_fast(x)
        with reference():
            assert not is_fast(x)
        assert is_fast(x)
    with torch.set_grad_enabled(not learning):
        assert not is_fast(x)


@pytest.mark.parametrize("learning", [False, True])
def test_few_positions_are_computed_as_written(monkeypatch: pytest.MonkeyPatch, learning: bool) -> None:
    """A batch counts whole: two images of 5 x 5 have 50."""
    monkeypatch.setattr(fast, "FEWEST", {4: 50, 5: 50})
    gate, small, large = make_gate("prosma", 4, 4, 2), torch.randn(1, 4, 5, 5), torch.randn(2, 4, 5, 5)
    with torch.set_grad_enabled(learning), mock.patch.object(fast, "depthwise") as used:
        gate(small, small)
        assert not used.called
        with pytest.raises(TypeError):
            gate(large, large)
        assert used.called


def test_norms_that_do_not_learn_as_usual_leave_the_gate_as_written() -> None:
    x = torch.zeros(1, 1, 2, 2)
    for norm in (
        torch.nn.Identity(),
        torch.nn.BatchNorm2d(1).eval(),
        torch.nn.BatchNorm2d(1, momentum=None),
        torch.nn.BatchNorm2d(1, track_running_stats=False),
    ):
        assert fast_learning.learning_norms(x, (torch.nn.BatchNorm2d(1), norm)) is None


@DIMS
def test_phases_and_back_are_the_same_image(dims: int) -> None:
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    image = torch.randn(2, 3, *(7, 9, 5)[:dims]).to(memory_format=layout)
    for step in (1, 2, 4, 11):
        cut = fast._phases(image, step)
        assert cut.shape[1] == 3 * step
        assert torch.equal(fast._unphased(cut, step, 2, image.shape[2:]), image)


@DIMS
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_whole_network_learns_the_same(dims: int, layout: Layout) -> None:
    torch.manual_seed(3)
    one = build_model(ModelSpec(dims, 1, 1, (8, 12, 16))).double()
    lay_out(one, dims, layout)
    other, image = copy.deepcopy(one), torch.randn(2, 1, *(16,) * dims, dtype=torch.float64)
    one(image).square().mean().backward()
    with reference():
        other(image).square().mean().backward()
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_under_autocast_a_network_computes_as_written() -> None:
    torch.manual_seed(3)
    network = build_model(ModelSpec(2, 1, 1, (8, 12, 16)))
    image = torch.randn(2, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(image)
        with reference():
            assert torch.equal(found, network(image))


def test_a_compiled_gate_is_the_written_one(settled_gate: MakeGate) -> None:
    """Traced by torch.compile, whose own fusion takes over; nothing of ours breaks its graph."""
    gate, skip, gating = settled_gate("prosma")
    compiled = torch.compile(gate, backend="eager", fullgraph=True)
    with reference():
        wanted = gate(skip, gating)
    torch.testing.assert_close(compiled(skip, gating), wanted, rtol=1e-12, atol=1e-12)
