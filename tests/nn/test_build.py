"""From a specification to a network, and from a name to a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from napari_prosma.nn.build import build_model, choose_device
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.network_kinds import NETWORKS, OURS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("gate", list(GATES))
def test_the_memory_layout_changes_no_weight_and_results_only_by_rounding(dims: int, gate: str) -> None:
    """2D networks are held channels-last, because that is faster."""
    spec = ModelSpec(dims, 2, 3, (4, 6, 8), gate)
    torch.manual_seed(0)
    built = build_model(spec).eval()
    torch.manual_seed(0)
    plain = ProSMAUNet(spec).eval()
    image = torch.rand(2, 2, *(20,) * dims)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in built.state_dict().items())
    assert built.encoder[1].body[0].weight.is_contiguous(memory_format=torch.channels_last) == (dims == 2)
    with torch.no_grad():
        torch.testing.assert_close(built(image), plain(image), rtol=0, atol=1e-5)


def test_a_device_is_chosen_by_name_or_refused_with_those_there_are() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cuda", "mps", "cpu")
    with pytest.raises(ValueError, match=r"device 'tpu' is not available here; choose auto or one of .*cpu"):
        choose_device("tpu")


HALF = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far an untrained network's logits may be from those in single precision, as a share of their size."""


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    ("network", "gate", "dims"),
    [
        *((OURS, gate, dims) for gate in GATES for dims in (2, 3)),
        *((network, "", dims) for network, made in NETWORKS.items() if network != OURS for dims in made.dims),
    ],
)
def test_every_network_computes_and_learns_in_half_precision(
    network: str, gate: str, dims: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    chosen = {"gate": gate} if gate else {}  # those of other papers bring their own
    spec = ModelSpec(dims, 1, 2, (4, 8, 12), network=network, **chosen)
    model, image = build_model(spec), torch.randn(2, 1, *(16,) * dims)
    with torch.no_grad():
        full = model(image)
    with torch.autocast("cpu", dtype=dtype):
        half = model(image)
    assert half.dtype == dtype
    assert (half.float() - full).norm() < HALF[dtype] * full.norm()
    if dtype == torch.bfloat16:
        # Gradients of its convolutions come out NaN on some processors, which runs refuse; no others do.
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                module.forward = partial(_in_single, module.forward)
        with torch.autocast("cpu", dtype=dtype):
            half = model(image)
    half.float().square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def _in_single(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())
