"""ProSMA-UNet: a residual U-Net whose skips pass through gates, in 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.blocks import CONV, POOL, TRANSPOSED, Entry, ResidualBlock, UpBlock
from napari_prosma.nn.gates import Change, Gate, GateTrace, make_gate
from napari_prosma.nn.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the encoder makes of an image; the decoder needs nothing else.

    Attributes
    ----------
    skips : tuple of (B, C_x, *spatial)
        ``x_1 .. x_{L-1}``, finest first, before any gate.
    bottleneck : (B, C_L, *spatial)
        ``x_L``, from which the decoder begins.
    size : tuple of int
        Of the image, before it was padded.
    """

    skips: tuple[Tensor, ...]
    bottleneck: Tensor
    size: tuple[int, ...]


def _begin_alike(way_out: nn.Module) -> None:
    """Let the image elements of one coarse element begin with the same weights (Aitken et al. 2017).

    With weights of their own their logits differ at random, which shows as a chequered pattern until
    training has evened them out.
    """
    weight = way_out.weight
    assert isinstance(weight, nn.Parameter)
    with torch.no_grad():
        weight.copy_(weight.flatten(2)[..., :1].reshape(*weight.shape[:2], *[1] * (weight.ndim - 2)))


class ProSMAUNet(nn.Module):
    """The network of section 2 of the paper, for any channels, classes and size.

    Encoder ``x_1 .. x_L`` by residual blocks and 2x max-pooling, the last level being the bottleneck;
    decoder ``g_s = Res([Gate_s(x_s, t_s), t_s])`` with ``t_s = ConvBNReLU(up(g_{s+1}))``; a 1x1 head. With
    ``spec.entry`` 2, which is ours, all of that lies on half of the image's grid, between a strided
    convolution and a transposed one.

    Sizes that are no multiple of ``divisor`` are padded on the right and bottom and cropped again.

    Attributes
    ----------
    spec : ModelSpec
    divisor : int
        ``spec.divisor``.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        widths, dims = spec.widths, spec.dims
        self.divisor = spec.divisor
        self.pool = POOL[dims](2)
        seen = spec.in_channels
        if spec.entry > 1:
            self.entry = Entry(seen, widths[0], dims, spec.entry, spec.norm)
            seen = widths[0]
        self.encoder = nn.ModuleList(
            ResidualBlock(i, o, dims, spec.norm) for i, o in zip((seen, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(
            UpBlock(widths[s + 1], widths[s], dims, spec.norm) for s in range(len(widths) - 1)
        )
        self.gates = nn.ModuleList(
            make_gate(spec.gate if s + 1 in spec.gated_levels else "none", w, w, dims, spec.gate_options)
            for s, w in enumerate(widths[:-1])
        )
        self.decoder = nn.ModuleList(ResidualBlock(2 * w, w, dims, spec.norm) for w in widths[:-1])
        self.head: nn.Module
        if spec.entry > 1:
            self.head = TRANSPOSED[dims](widths[0], spec.out_channels, spec.entry, stride=spec.entry)
            _begin_alike(self.head)
        else:
            self.head = CONV[dims](widths[0], spec.out_channels, 1)

    def deepest_block(self) -> nn.Module:
        """The part whose output (B, C, *spatial) is the last on the coarsest grid of the encoder."""
        return self.encoder[-1]

    def last_block(self) -> nn.Module:
        """The part that is given the last map of the decoder and makes logits of it."""
        return self.head

    def forward(self, image: Tensor, trace: GateTrace | None = None) -> Tensor:
        """Logits (B, out_channels, *spatial) of ``image`` (B, in_channels, *spatial).

        With ``trace`` the same numbers come out and every gate leaves a ``SkipTrace`` in it.
        """
        return self.decode(self.encode(image), trace)

    def encode(self, image: Tensor) -> Encoded:
        """Skips and bottleneck of ``image`` (B, in_channels, *spatial)."""
        self._check(image)
        x = pad_to_multiple(image, self.divisor)
        if self.spec.norm == "instance" and x.shape[2:].numel() == self.divisor**self.spec.dims:
            # A single element at the deepest level has no spread to be normalised by.
            x = pad_to_multiple(x, 2 * self.divisor)
        if self.spec.entry > 1:
            x = self.entry(x)
        levels = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
            levels.append(x)
        return Encoded(tuple(levels[:-1]), levels[-1], tuple(image.shape[2:]))

    def decode(
        self,
        encoded: Encoded,
        trace: GateTrace | None = None,
        changes: Mapping[int, Change] | None = None,
        start: int | None = None,
        features: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Logits (B, out_channels, *spatial) of what was encoded; ``forward`` is ``decode(encode(image))``.

        Parameters
        ----------
        encoded : Encoded
        trace : GateTrace, optional
            Every gate that is passed leaves a ``SkipTrace`` in it.
        changes : by level, optional
            What is done to the gates of these levels.
        start : int, optional
            Only the levels below (finer than) this one are computed, from ``features[start]``.
        features : by level, optional
            The decoder's ``g_s`` of every level computed are put into it, for a later ``start``.
        """
        changes = changes or {}
        skips = encoded.skips
        g = encoded.bottleneck if start is None else (features or {})[start]
        for s in reversed(range(len(skips) if start is None else start - 1)):
            t = self.up[s](g, skips[s].shape[2:])
            g = self.decoder[s](self.gate(s + 1).joined(skips[s], t, trace, s + 1, changes.get(s + 1)))
            if features is not None:
                features[s + 1] = g
        logits = self.head(g)
        if trace is not None:
            for level, kept in trace.skips.items():
                trace.skips[level] = kept.cropped(
                    tuple(-(-n // self.spec.factor(level)) for n in encoded.size)
                )
        return logits[(slice(None), slice(None), *(slice(0, n) for n in encoded.size))]

    def gate(self, level: int) -> Gate:
        """The gate of encoder level ``level`` (1 = finest)."""
        module = self.gates[level - 1]
        assert isinstance(module, Gate)
        return module

    def _check(self, image: Tensor) -> None:
        dims, channels = self.spec.dims, self.spec.in_channels
        if image.ndim != dims + 2 or image.shape[1] != channels:
            raise ValueError(
                f"the network takes (batch, {channels}, {', '.join('zyx'[-dims:])}), got {tuple(image.shape)}"
            )
        deepest = math.prod(-(-n // self.divisor) for n in image.shape[2:])
        if self.training and self.spec.norm == "instance" and deepest < 2:
            raise ValueError(
                f"instance norm needs more than one element per image at the deepest level: an input of "
                f"{tuple(image.shape)} leaves one; use a patch larger than {self.divisor} along some axis"
            )
        if self.training and deepest * image.shape[0] < 2:
            raise ValueError(
                f"batch norm needs more than one value per channel at the deepest level: an input of "
                f"{tuple(image.shape)} leaves one; use a batch of at least 2 or a patch larger than "
                f"{self.divisor} along some axis"
            )


def pad_to_multiple(image: Tensor, divisor: int) -> Tensor:
    """Pad (B, C, *spatial) right and bottom to multiples of ``divisor``: mirrored, or the edge repeated.

    The edge is repeated along an axis where there is too little image to mirror.
    """
    for axis in range(2, image.ndim):
        length = image.shape[axis]
        missing = -length % divisor
        if missing:
            pads = [0, 0] * (image.ndim - 1 - axis) + [0, missing]
            image = F.pad(
                image, pads + [0, 0] * (axis - 2), mode="reflect" if missing < length else "replicate"
            )
    return image
