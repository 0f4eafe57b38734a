"""An ensemble answers with the mean probability of its members, as one network would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from napari_prosma.nn.build import build_model
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.spec import ModelSpec


def ensemble(out_channels: int, dims: int = 2, members: int = 3, scale: float = 1.0) -> Ensemble:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = [build_model(ModelSpec(dims, 1, out_channels, (2, 4, 8))).eval() for _ in range(members)]
    with torch.no_grad():
        for network in networks:
            network.head.weight *= scale
    return Ensemble(networks)


def image(dims: int) -> Tensor:
    return torch.linspace(-3, 3, 2 * 10**dims).sin().view(2, 1, *(10,) * dims)


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_sigmoid_of_its_logit_is_the_mean_sigmoid_of_its_members(dims: int) -> None:
    several, x = ensemble(1, dims), image(dims)
    mean = torch.stack([member(x).sigmoid() for member in several.members]).mean(dim=0)
    assert torch.allclose(several(x).sigmoid(), mean, atol=1e-6)


@torch.no_grad()
def test_softmax_of_its_logits_is_the_mean_softmax_of_its_members() -> None:
    several, x = ensemble(4), image(2)
    mean = torch.stack([member(x).softmax(dim=1) for member in several.members]).mean(dim=0)
    assert torch.allclose(several(x).softmax(dim=1), mean, atol=1e-6)
    assert torch.allclose(several(x).exp().sum(dim=1), torch.ones(2, 10, 10), atol=1e-5)


@pytest.mark.parametrize("out_channels", [1, 3])
@torch.no_grad()
def test_members_that_are_quite_sure_give_finite_logits(out_channels: int) -> None:
    several = ensemble(out_channels, scale=1e6)
    assert several.members[0](image(2)).abs().max() > 500
    assert torch.isfinite(several(image(2))).all()


@torch.no_grad()
def test_an_ensemble_of_one_answers_as_its_member() -> None:
    several, x = ensemble(1, members=1), image(2)
    assert torch.allclose(several(x), several.members[0](x), atol=1e-6)


def test_an_ensemble_has_the_architecture_and_divisor_of_its_members() -> None:
    several = ensemble(1)
    assert (several.spec, several.divisor) == (ModelSpec(2, 1, 1, (2, 4, 8)), 4)
