"""From a specification to a network, and from a name to a device."""

from __future__ import annotations

import pytest
import torch

from napari_prosma.nn.build import build_model, choose_device
from napari_prosma.nn.gate_kinds import GATES
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
