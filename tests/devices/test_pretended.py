"""The pretended device refuses what a true one refuses, or the other tests would prove nothing."""

import numpy as np
import pytest
import torch
from pretended import Elsewhere
from torch import nn
from torch.nn import functional as F


def test_a_tensor_of_the_cpu_does_not_mix(device: torch.device) -> None:
    there = torch.ones(3, device=device)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2]  # a number may


def test_an_array_needs_a_copy_to_the_cpu(device: torch.device) -> None:
    there = torch.ones(3).to(device)
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)
    assert np.asarray(there.cpu()).tolist() == [1, 1, 1]


def test_a_tensor_of_the_cpu_is_not_indexed_by_one_of_the_device(device: torch.device) -> None:
    index = torch.tensor([1, 0], device=device)
    with pytest.raises(RuntimeError, match="indices"):
        torch.arange(2)[index]
    assert torch.arange(2, device=device)[torch.tensor([1, 0])].tolist() == [1, 0]


def test_a_network_and_its_gradients_lie_there(device: torch.device) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    before = network[0].weight.detach().cpu()
    network(torch.randn(2, 1, 8, 8, device=device)).square().mean().backward()
    optimizer.step()
    assert isinstance(network[0].weight.grad, Elsewhere)
    assert not torch.equal(network[0].weight.detach().cpu(), before)
    with pytest.raises(RuntimeError, match="same device"):
        network(torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize("device", ["mps"], indirect=True)
def test_metal_does_not_sample_volumes(device: torch.device) -> None:
    volume, grid = torch.zeros(1, 1, 4, 4, 4).to(device), torch.zeros(1, 4, 4, 4, 3).to(device)
    with pytest.raises(NotImplementedError, match="grid_sampler_3d"):
        F.grid_sample(volume, grid, align_corners=False)


def test_metal_has_no_double_precision(device: torch.device) -> None:
    if device.type == "mps":
        with pytest.raises(TypeError, match="float64"):
            torch.ones(2, device=device).double()
    else:
        assert torch.ones(2, device=device).double().dtype == torch.float64
