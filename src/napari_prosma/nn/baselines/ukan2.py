"""Implicit U-KAN 2.0 (Cheng et al. 2025), a reconstruction: its released code does not run.

From the paper: stages are second-order ODEs, solved by Runge-Kutta's fourth-order rule over [0, 1], and the
KAN layers of the tokens also multiply. Ours: how the velocity begins, how many nodes multiply, the frame of
U-KAN around it, and 3D. No count was published; ours is 7,422,241 in 2D at (16, 32, 128, 160, 256).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from napari_prosma.nn.baselines.ukan import UKAN, KANBlock, KANLinear
from napari_prosma.nn.baselines.unet import ConvNormReLU
from napari_prosma.nn.blocks import CONV, INSTANCE_NORM

STEPS = 1
"""Runge-Kutta steps over [0, 1], as solvers of fixed step take it unless told otherwise."""
MULTIPLIED = 4
"""One node in so many is a product of two."""


def second_order_step(
    acceleration: Callable[[Tensor, Tensor], Tensor], x: Tensor, v: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """One step of the classical fourth-order Runge-Kutta rule for ``x'' = acceleration(x, x')``.

    Returns
    -------
    (x, v) : tensors
        Position and velocity after ``step``.
    """
    half = step / 2
    v1, a1 = v, acceleration(x, v)
    v2 = v + half * a1
    a2 = acceleration(x + half * v1, v2)
    v3 = v + half * a2
    a3 = acceleration(x + half * v2, v3)
    v4 = v + step * a3
    a4 = acceleration(x + step * v3, v4)
    return x + step / 6 * (v1 + 2 * v2 + 2 * v3 + v4), v + step / 6 * (a1 + 2 * a2 + 2 * a3 + a4)


class SecondOrderBlock(nn.Module):
    """SONO: ``x(1)`` of ``x'' = f(x, x')`` with ``x(0)`` the input and ``x'(0)`` a 1 x 1 convolution of it.

    ``f = softplus(Conv1(IN(softplus(Conv3(IN([x, x']))))))``.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        conv, norm = CONV[dims], INSTANCE_NORM[dims]
        self.velocity = conv(channels, channels, 1)
        self.body = nn.Sequential(
            norm(2 * channels, affine=True),
            conv(2 * channels, channels, 3, padding=1),
            nn.Softplus(),
            norm(channels, affine=True),
            conv(channels, channels, 1),
            nn.Softplus(),
        )

    def acceleration(self, x: Tensor, v: Tensor) -> Tensor:
        return self.body(torch.cat([x, v], dim=1))

    def forward(self, x: Tensor) -> Tensor:
        v = self.velocity(x)
        for _ in range(STEPS):
            x, v = second_order_step(self.acceleration, x, v, 1 / STEPS)
        return x


class MultKANLinear(nn.Module):
    """A KAN layer some of whose outputs are products of two sums: ``[s_1 .. s_n, p_1 q_1 .. p_m q_m]``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.products = features // MULTIPLIED
        self.sums = KANLinear(features, features + self.products)

    def forward(self, x: Tensor) -> Tensor:
        sums = self.sums(x)
        plain = sums.shape[-1] - 2 * self.products
        single, left, right = sums.split([plain, self.products, self.products], dim=-1)
        return torch.cat([single, left * right], dim=-1)


class MultKANBlock(KANBlock):
    """A KAN block whose layers multiply too."""

    def layer(self, channels: int) -> nn.Module:
        return MultKANLinear(channels)


class UKAN2(UKAN):
    """U-KAN with second-order ODEs in its convolutional stages and multiplying KANs on its tokens."""

    def stage(self, channels_in: int, channels_out: int) -> nn.Module:
        dims = self.spec.dims
        return nn.Sequential(
            ConvNormReLU(channels_in, channels_out, dims), SecondOrderBlock(channels_out, dims)
        )

    def block(self, channels: int) -> nn.Module:
        return MultKANBlock(channels, self.spec.dims)

    def up_stage(self, channels_in: int, channels_out: int, after: int) -> nn.Module:
        if after < 2:
            # On the grids of tokens, where instance norm may find a single element.
            return super().up_stage(channels_in, channels_out, after)
        return self.stage(channels_in, channels_out)

    def make_last_stage(self, channels: int) -> nn.Module:
        return self.stage(channels, channels)
