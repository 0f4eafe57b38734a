"""Gates changed without training, and the decoder run again from where it differs."""

from __future__ import annotations

import pytest
import torch

from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.gates import Change, GateTrace
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet

SIZES = {2: (22, 17), 3: (9, 12, 8)}


def network(gate: str = "prosma", dims: int = 2) -> ProSMAUNet:
    torch.manual_seed(0)
    model = build_model(ModelSpec(dims, 1, 2, (4, 6, 8, 10), gate)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(2, 1, *(32,) * dims))
    return model.eval()


def image(dims: int = 2) -> torch.Tensor:
    return torch.randn(1, 1, *SIZES[dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("gate", list(GATES))
@torch.no_grad()
def test_forward_is_decode_of_encode(gate: str, dims: int) -> None:
    model, x = network(gate, dims), image(dims)
    trace, other, features = GateTrace(), GateTrace(), {}
    plain = model(x)
    assert torch.equal(plain, model.decode(model.encode(x)))
    assert torch.equal(
        plain, model.decode(model.encode(x), trace, dict.fromkeys((1, 2, 3), Change()), None, features)
    )
    assert torch.equal(plain, model(x, other))
    assert features.keys() == trace.skips.keys() == other.skips.keys() == {1, 2, 3}
    for level in (1, 2, 3):
        assert torch.equal(trace.skips[level].gated, other.skips[level].gated)


@pytest.mark.parametrize("gate", ["prosma", "attention", "none"])
@torch.no_grad()
def test_starting_below_a_level_gives_the_same_bits(gate: str) -> None:
    model, features = network(gate), {}
    encoded = model.encode(image())
    model.decode(encoded, None, {3: Change(0.5)}, None, features)
    both = {3: Change(0.5), 1: Change(skip=(0.0,)), 2: Change(2.0, c=1.0)}
    whole = model.decode(encoded, None, both)
    trace = GateTrace()
    part = model.decode(encoded, trace, both, 3, dict(features))
    assert torch.equal(part, whole)
    assert trace.skips.keys() == {1, 2}
    assert torch.equal(
        model.decode(encoded, None, None, 1, features), model.decode(encoded, None, {3: Change(0.5)})
    )


@torch.no_grad()
def test_a_scaled_threshold_is_that_of_a_gate_with_that_lambda() -> None:
    model, x = network(), image()
    trace = GateTrace()
    scaled = model.decode(model.encode(x), trace, {2: Change(2.5)})
    theta = model.gate(2).spatial.theta  # type: ignore[union-attr]
    assert isinstance(theta, torch.Tensor)
    larger = 2.5 * torch.nn.functional.softplus(theta)
    torch.testing.assert_close(trace.skips[2].threshold, larger)
    theta.copy_(torch.log(torch.expm1(larger)))
    torch.testing.assert_close(scaled, model(x))


@torch.no_grad()
def test_a_lambda_of_zero_is_the_dense_counterfactual_of_the_deepest_gate() -> None:
    model, x = network(), image()
    usual, off = GateTrace(), GateTrace()
    model(x, usual)
    model.decode(model.encode(x), off, {3: Change(0.0)})
    psi, dense = off.skips[3].psi, usual.skips[3].psi_dense
    assert psi is not None
    assert dense is not None
    assert torch.equal(psi, dense)


@torch.no_grad()
def test_parts_are_set_to_one_and_a_cut_skip_sends_zeros() -> None:
    model, x = network(), image()
    encoded, usual = model.encode(x), GateTrace()
    model(x, usual)
    kept = usual.skips[3]
    assert kept.channel is not None
    assert kept.psi is not None
    c = kept.channel[..., None, None]

    def changed(change: Change) -> torch.Tensor:
        trace = GateTrace()
        model.decode(encoded, trace, {3: change})
        assert torch.equal(trace.skips[3].skip, kept.skip)
        return trace.skips[3].gated

    assert torch.equal(changed(Change(psi=1.0)), kept.skip * c)
    assert torch.equal(changed(Change(c=1.0)), kept.skip * kept.psi)
    assert torch.equal(changed(Change(psi=1.0, c=1.0)), kept.skip)
    assert not changed(Change(skip=(0.0,))).any()


@torch.no_grad()
def test_parts_are_set_to_a_number_and_a_skip_to_one_per_channel() -> None:
    model, x = network(), image()
    encoded, usual = model.encode(x), GateTrace()
    model(x, usual)
    kept = usual.skips[3]
    assert kept.channel is not None
    assert kept.psi is not None
    trace = GateTrace()
    model.decode(encoded, trace, {3: Change(psi=0.3, c=0.7)})
    torch.testing.assert_close(trace.skips[3].gated, kept.skip * 0.7 * 0.3)
    assert trace.skips[3].psi is not None
    assert (trace.skips[3].psi == 0.3).all()
    values = tuple(range(kept.skip.shape[1]))
    model.decode(encoded, trace, {3: Change(skip=values)})
    expected = torch.tensor(values, dtype=torch.float)[:, None, None].expand_as(kept.skip[0])
    assert torch.equal(trace.skips[3].gated[0], expected)
    weights = tuple(value / 10 for value in values)
    model.decode(encoded, trace, {3: Change(c=weights)})
    c = torch.tensor(weights)
    torch.testing.assert_close(trace.skips[3].gated, kept.skip * kept.psi * c[:, None, None])
    assert trace.skips[3].channel is not None
    assert torch.equal(trace.skips[3].channel[0], c)
    for change in ({"psi": float("nan")}, {"c": (0.5, float("nan"))}):
        with pytest.raises(ValueError, match="set to a number"):
            Change(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
def test_a_threshold_is_scaled_by_zero_or_more(scale: float) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Change(scale)
