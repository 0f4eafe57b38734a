"""Where the thresholds of a literal gate start: at the scale of its own field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_prosma.nn.gates import GateTrace, ProximalMask
from napari_prosma.nn.prox import threshold_logit
from napari_prosma.nn.unet import ProSMAUNet

SMALLEST_START = 1e-6
"""Start of a channel whose field is zero on half of the batch or more; a threshold must be positive."""


@torch.no_grad()
def start_thresholds(model: nn.Module, batch: Tensor) -> tuple[int, ...]:
    """Set every lambda_c of gates without norms to the median of ``|u_c|`` on ``batch``.

    Printed as it stands (``GateOptions(norm="none")``) the gate starts with a field far below its threshold:
    z is zero everywhere, and so is every gradient that could change it. With the median half of z is zero.
    The deepest gate comes first, because what it lets through changes the field of the finer ones. The field
    is the one that training sees (batch statistics); running statistics and the mode of ``model`` stay.
    Gates with batch norm keep their start: their field already has unit variance.

    Parameters
    ----------
    model : ProSMAUNet, or a network that has no thresholds
    batch : (B, in_channels, *spatial)
        Training images on the device of ``model``.

    Returns
    -------
    tuple of int
        Levels whose thresholds were set, deepest first; empty if no gate is literal.
    """
    if not isinstance(model, ProSMAUNet) or model.spec.gate_options.norm != "none":
        return ()
    literal = [s for s in sorted(model.spec.gated_levels, reverse=True) if _thresholds(model, s) is not None]
    if not literal:
        return ()
    was_training = model.training
    statistics = [buffer.clone() for buffer in model.buffers()]
    model.train()
    try:
        for level in literal:
            theta, trace = _thresholds(model, level), GateTrace()
            model(batch, trace)
            field = trace.skips[level].field
            assert theta is not None
            assert field is not None
            medians = field.abs().transpose(0, 1).flatten(1).median(dim=1).values
            starts = [threshold_logit(max(float(m), SMALLEST_START)) for m in medians]
            theta.copy_(torch.tensor(starts, dtype=theta.dtype))
    finally:
        model.train(was_training)
        for buffer, before in zip(model.buffers(), statistics, strict=True):
            buffer.copy_(before)
    return tuple(literal)


def _thresholds(model: ProSMAUNet, level: int) -> nn.Parameter | None:
    """Theta of the gate at ``level``, None where it has no threshold."""
    spatial = model.gate(level).spatial
    return spatial.theta if isinstance(spatial, ProximalMask) else None
