"""How far the features of doubted cases lie from those of trusted ones, class by class.

Three distances of one set of pixels from another: of their Gaussians, of their kernel means, and what a small
classifier can tell of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

LEAST_PIXELS = 16
"""A class with fewer pixels on one side is left out."""
SAMPLED = 256
"""Pixels per class and side that are compared pair by pair."""
_SMALLEST_VARIANCE = 1e-8
_HIDDEN = 32


def class_sums(features: Tensor, labels: Tensor, classes: int, shift: Tensor) -> Tensor:
    """Count, sum and sum of squares of the features of every class; sums of several batches add up.

    Parameters
    ----------
    features : (B, C, *spatial)
    labels : (B, *spatial) int
        What is no class, such as ``IGNORE``, counts nowhere.
    classes : int
        K.
    shift : (K, C)
        Taken away from the features of each class, so that the squares do not cancel.

    Returns
    -------
    (K, 1 + 2 C) float32
    """
    pixels, flat = pixel_rows(features, labels, classes)
    pixels = pixels - shift[flat]
    members = F.one_hot(flat, classes).to(pixels)
    counts = members.sum(dim=0)[:, None]
    return torch.cat([counts, members.T @ pixels, members.T @ pixels.square()], dim=1)


def moments(sums: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (K, C) of what :func:`class_sums` added up with this ``shift``."""
    counts, first, second = sums.split([1, shift.shape[1], shift.shape[1]], dim=1)
    counts = counts.clamp(min=1)
    mean = first / counts
    variance = second / counts - mean.square()
    return mean + shift, variance.clamp(min=_SMALLEST_VARIANCE).sqrt()


def wasserstein(mean: Tensor, spread: Tensor, other_mean: Tensor, other_spread: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of Gaussians with diagonal covariance, per channel.

    ``(||m - m'||^2 + ||s - s'||^2) / C``, of (..., C) each.
    """
    return ((mean - other_mean).square() + (spread - other_spread).square()).mean(dim=-1)


def mmd(one: Tensor, other: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of (n, C) and (m, C), unbiased: about 0, also below, for equals.

    Gaussian kernel whose bandwidth is the median distance of all pairs (equation 3 and section 8 of Gretton
    et al. 2012, "A kernel two-sample test"); the gradient does not pass through the bandwidth.
    """
    n, m = len(one), len(other)
    both = torch.cat([one, other]).float()
    squares = both.square().sum(dim=1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clamp(min=0)
    apart = ~torch.eye(n + m, dtype=torch.bool, device=both.device)
    bandwidth = distances.detach()[apart].median().clamp(min=1e-12)
    kernel = torch.exp(-distances / (2 * bandwidth)) * apart
    within = kernel[:n, :n].sum() / (n * (n - 1)) + kernel[n:, n:].sum() / (m * (m - 1))
    return within - 2 * kernel[:n, n:].mean()


class Discriminator(nn.Module):
    """Tells doubted from trusted pixels, knowing their class; the network learns against it.

    Its best gain over guessing, ``ln 2 - cross-entropy``, is a lower bound of the Jensen-Shannon divergence of
    the two (Goodfellow et al. 2014). The network descends it and the discriminator climbs it, which is the
    reversed gradient of Ganin and Lempitsky (2015).
    """

    RATE = 0.1
    """Of its plain gradient steps; what it sees has mean 0 and spread 1 on the trusted side."""

    def __init__(self, channels: int, classes: int, seed: int) -> None:
        super().__init__()
        self.classes = classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(channels + classes, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1)
            )

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Logits (n,) of being doubted, for pixels (n, C) of classes (n,)."""
        known = F.one_hot(labels, self.classes).to(pixels)
        return self.layers(torch.cat([pixels, known], dim=1))[:, 0]

    def gain(self, pixels: Tensor, labels: Tensor, doubted: Tensor) -> Tensor:
        """How much better than guessing it is, for the network: no gradient for its own parameters."""
        own = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return math.log(2) - _balanced_entropy(functional_call(self, own, (pixels, labels)), doubted)

    def gradient(self, pixels: Tensor, labels: Tensor, doubted: Tensor) -> Tensor:
        """Of its own cross-entropy, flat (parameters,); none for the pixels."""
        entropy = _balanced_entropy(self(pixels.detach(), labels), doubted)
        return torch.cat([g.flatten() for g in torch.autograd.grad(entropy, [*self.parameters()])])

    @torch.no_grad()
    def descend(self, gradient: Tensor) -> None:
        """One step against a flat ``gradient``."""
        sizes = [parameter.numel() for parameter in self.parameters()]
        for parameter, part in zip(self.parameters(), gradient.split(sizes), strict=True):
            parameter -= self.RATE * part.view_as(parameter)


def _balanced_entropy(logits: Tensor, doubted: Tensor) -> Tensor:
    """Cross-entropy that counts both sides alike, however many pixels they have."""
    entropy = F.binary_cross_entropy_with_logits(logits, doubted.to(logits), reduction="none")
    return (entropy[doubted].mean() + entropy[~doubted].mean()) / 2


def pixel_rows(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Features (n, C) float32 and classes (n,) of the pixels of (B, C, *spatial) whose label is a class."""
    flat = labels.flatten()
    known = (flat >= 0) & (flat < classes)
    return features.movedim(1, -1).flatten(0, -2)[known].float(), flat[known]


def evenly_sampled(pixels: Tensor, labels: Tensor, label: int) -> Tensor:
    """At most ``SAMPLED`` pixels (n, C) of one class, evenly chosen."""
    of_class = pixels[labels == label]
    return of_class[:: math.ceil(max(1, len(of_class)) / SAMPLED)]


def on_feature_grid(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, C, *grid) and labels (B, *grid) where both lie: padding is cut off.

    A network whose last map is coarser than the image has labels at every so manieth element.
    """
    steps = [-(-n // m) for n, m in zip(labels.shape[1:], features.shape[2:], strict=True)]
    labels = labels[(slice(None), *(slice(None, None, step) for step in steps))]
    return features[(slice(None), slice(None), *(slice(0, n) for n in labels.shape[1:]))], labels


def coarser(features: Tensor, labels: Tensor, factor: int, classes: int) -> tuple[Tensor, Tensor]:
    """Mean features of cells of ``factor`` elements along each axis; a cell of several classes has none."""
    if factor == 1:
        return features, labels
    dims = labels.ndim - 1
    mean = (F.avg_pool2d, F.avg_pool3d)[dims - 2](features, factor)
    most = (F.max_pool2d, F.max_pool3d)[dims - 2]
    values = labels[:, None].float()
    highest, lowest = most(values, factor)[:, 0], -most(-values, factor)[:, 0]
    return mean, torch.where(highest == lowest, highest, float(classes)).long()
