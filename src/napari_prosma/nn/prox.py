"""The proximal operator behind the gate: soft-thresholding, with exact zeros.

With ``lambda = softplus(theta)`` the threshold is positive for every real theta (equation 3 of the paper).
"""

import math

import torch
from torch import Tensor


def soft_threshold(field: Tensor, threshold: Tensor) -> Tensor:
    """Proximal operator of ``threshold * |.|_1``, entry by entry (equation 4).

    Computed as ``u - clamp(u, -lambda, lambda)``, which equals ``sign(u) * max(|u| - lambda, 0)``
    (Moreau's identity), always in at least float32, so that the zeros do not depend on autocast.

    Parameters
    ----------
    field : (B, C_a, *spatial)
        Compatibility field u.
    threshold : (C_a,)
        Non-negative lambda, one per latent channel.

    Returns
    -------
    (B, C_a, *spatial)
        z: exact zeros where ``|field| <= threshold``.
    """
    if field.dtype in (torch.float16, torch.bfloat16):
        field = field.float()
    bound = threshold.to(field.dtype).view(-1, *[1] * (field.ndim - 2))
    return field - torch.clamp(field, -bound, bound)


def threshold_logit(threshold: float) -> float:
    """Theta for which ``softplus(theta)`` is ``threshold`` (> 0)."""
    if not threshold > 0:
        raise ValueError(f"a threshold must be positive, found {threshold}")
    return threshold + math.log(-math.expm1(-threshold))
