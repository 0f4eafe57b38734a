"""What every network of another paper has in common: it takes images of any size and gives logits."""

from __future__ import annotations

from torch import Tensor, nn

from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import pad_to_multiple


class Baseline(nn.Module):
    """A network of another paper, used exactly as :class:`~napari_prosma.nn.unet.ProSMAUNet` is.

    A child gives :meth:`logits` for sizes that are multiples of ``divisor``.

    Attributes
    ----------
    spec : ModelSpec
    divisor : int
        Images are padded on the right and bottom to multiples of it, and logits cropped again.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.divisor = spec.divisor

    def forward(self, image: Tensor, trace: GateTrace | None = None) -> Tensor:
        """Logits (B, out_channels, *spatial) of ``image`` (B, in_channels, *spatial).

        Gates, where the network has any, leave a ``SkipTrace`` each in ``trace``.
        """
        dims, channels, size = self.spec.dims, self.spec.in_channels, image.shape[2:]
        if image.ndim != dims + 2 or image.shape[1] != channels:
            raise ValueError(
                f"the network takes (batch, {channels}, {', '.join('zyx'[-dims:])}), got {tuple(image.shape)}"
            )
        logits = self.logits(pad_to_multiple(image, self.divisor), trace)
        if trace is not None:
            for level, kept in trace.skips.items():
                trace.skips[level] = kept.cropped(tuple(-(-n // 2 ** (level - 1)) for n in size))
        return logits[(slice(None), slice(None), *(slice(0, n) for n in size))]

    def deepest_block(self) -> nn.Module:
        """The part whose output (B, C, *spatial) is the last on the coarsest grid of the encoder."""
        raise NotImplementedError

    def last_block(self) -> nn.Module:
        """The part that is given the last map of the decoder and makes logits of it."""
        return self.get_submodule("head")

    def logits(self, image: Tensor, trace: GateTrace | None) -> Tensor:
        """Logits of an image whose size is a multiple of ``divisor``."""
        raise NotImplementedError
