"""How far the features of doubted cases lie from those of trusted ones, class by class.

Three distances of one set of pixels from another: of their Gaussians, of their kernel means, and what a small
classifier can tell of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from napari_prosma.model.checkpoint import split_prefix
from napari_prosma.training.losses import Total

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

    Its best gain over guessing, ``ln 2 - cross-entropy``, is a lower bound of the Jensen-Shannon divergence
    (Goodfellow et al. 2014). The network descends it and the discriminator climbs it: the reversed gradient
    of Ganin and Lempitsky (2015).
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
            parameter.sub_(part.view_as(parameter), alpha=self.RATE)


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


class Alignment:
    """Brings the features of doubted cases to those of trusted ones, class by class.

    The trusted side is remembered and gets no gradient: running moments of its features, and the pixels of
    the last step that had any, for the distances that compare pixel by pixel. All processes of a run remember
    alike.

    Parameters
    ----------
    kind : "w2", "mmd" or "adversarial"
    classes : int
        K, the background among them.
    scales : factors
        The distance is the mean over features averaged in cells of so many elements along each axis.
    decay : float
        Per step, of the trusted side's running statistics.
    least : int
        A class with fewer pixels on one side is left out.
    total : (n,) -> (n,)
        Adds up over all processes, with its gradient.
    is_first : bool
        Whether this process is the one whose pixels are remembered.
    """

    def __init__(
        self,
        kind: Literal["w2", "mmd", "adversarial"],
        classes: int,
        scales: Sequence[int],
        decay: float,
        least: int,
        total: Total,
        is_first: bool,
        seed: int,
    ) -> None:
        self._kind, self._classes, self._scales = kind, classes, tuple(scales)
        self._decay, self._least = decay, least
        self._total, self._is_first, self._seed = total, is_first, seed
        self._held: dict[str, Tensor] = {}
        self._discriminator: Discriminator | None = None
        self._seen_now: Tensor | None = None
        self._pixels_now: dict[tuple[int, int], Tensor] = {}
        self._gradient_now: Tensor | None = None

    def remember(self, features: Tensor, labels: Tensor, trusted: Tensor) -> None:
        """Note what the trusted rows (B,) of features (B, C, *grid) with labels (B, *spatial) are like."""
        self._begin(features)
        sums = []
        for s, (maps, classes) in enumerate(self._at_scales(features.detach(), labels)):
            maps, classes = maps[trusted], classes[trusted]
            sums.append(class_sums(maps, classes, self._classes, self._held["mean"][s]))
            if self._kind != "w2" and self._is_first:
                pixels, flat = pixel_rows(maps, classes, self._classes)
                for k in range(self._classes):
                    self._pixels_now[s, k] = evenly_sampled(pixels, flat, k)
        seen = torch.stack(sums)
        self._seen_now = seen if self._seen_now is None else self._seen_now + seen

    def distance(self, features: Tensor, labels: Tensor, doubted: Tensor) -> Tensor:
        """Of the doubted rows (B,) from what is remembered, added up over the classes."""
        self._begin(features)
        found = [
            (self._of_moments if self._kind == "w2" else self._of_pixels)(s, maps[doubted], classes[doubted])
            for s, (maps, classes) in enumerate(self._at_scales(features, labels))
        ]
        return torch.stack(found).mean()

    def stepped(self) -> None:
        """Take up what this step's batches showed."""
        if self._seen_now is not None:
            self._take_up(self._total(self._seen_now))
            if self._kind != "w2":
                self._take_up_pixels()
        if self._discriminator is not None:
            gradient = self._gradient_now
            if gradient is None:
                gradient = torch.zeros(self._parameters() + 1, device=self._held["mean"].device)
            *whole, count = self._total(gradient).split([self._parameters(), 1])
            if count > 0:
                self._discriminator.descend(whole[0] / count)
        self.abandoned()

    def abandoned(self) -> None:
        """Forget what was seen since the last step."""
        self._seen_now, self._gradient_now = None, None
        self._pixels_now = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Whatever is remembered."""
        own = {} if self._discriminator is None else self._discriminator.state_dict()
        return self._held | {f"discriminator.{name}": tensor for name, tensor in own.items()}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Inverse of :meth:`state_dict`."""
        own = split_prefix(state, "discriminator")
        self._held = {n: t.to(device, copy=True) for n, t in state.items() if "." not in n}
        if own:
            self._make_discriminator(self._held["mean"])
            assert self._discriminator is not None
            self._discriminator.load_state_dict(own)

    def _begin(self, features: Tensor) -> None:
        if self._held:
            return
        size = (len(self._scales), self._classes)
        empty = torch.zeros(*size, features.shape[1], device=features.device)
        self._held = {"mean": empty, "spread": empty + 1, "seen": torch.zeros(size, device=features.device)}
        if self._kind != "w2":
            self._held["pixels"] = empty[:, :, None].repeat(1, 1, SAMPLED, 1)
            self._held["count"] = torch.zeros(size, device=features.device)
        if self._kind == "adversarial":
            self._make_discriminator(empty)

    def _make_discriminator(self, mean: Tensor) -> None:
        self._discriminator = Discriminator(mean.shape[-1], self._classes, self._seed).to(mean.device)

    def _parameters(self) -> int:
        assert self._discriminator is not None
        return sum(parameter.numel() for parameter in self._discriminator.parameters())

    def _at_scales(self, features: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        features, labels = on_feature_grid(features, labels)
        room = min(labels.shape[1:])
        return [coarser(features, labels, min(factor, room), self._classes) for factor in self._scales]

    def _of_moments(self, scale: int, features: Tensor, labels: Tensor) -> Tensor:
        mean, spread = self._held["mean"][scale], self._held["spread"][scale]
        sums = class_sums(features, labels, self._classes, mean)
        sums = self._total(sums.flatten()).view_as(sums)
        counted = (sums[:, 0] >= self._least) & (self._held["seen"][scale] > 0)
        apart = wasserstein(*moments(sums, mean), mean, spread)
        return torch.where(counted, apart, 0.0).sum()

    def _of_pixels(self, scale: int, features: Tensor, labels: Tensor) -> Tensor:
        pixels, flat = pixel_rows(features, labels, self._classes)
        whole = pixels.sum() * 0.0  # of float32: the sum of a half precision map is beyond its range
        for k in range(self._classes):
            count = int(self._held["count"][scale, k])
            trusted = self._held["pixels"][scale, k, :count]
            doubted = evenly_sampled(pixels, flat, k)
            if min(len(doubted), count) < self._least:
                continue
            if self._discriminator is None:
                whole = whole + mmd(doubted, trusted)
                continue
            both = torch.cat([doubted, trusted]) - self._held["mean"][scale, k]
            both = both / self._held["spread"][scale, k]
            which = torch.arange(len(both), device=both.device) < len(doubted)
            classes = torch.full((len(both),), k, device=both.device)
            whole = whole + self._discriminator.gain(both, classes, which)
            gradient = self._discriminator.gradient(both, classes, which)
            gradient = torch.cat([gradient, gradient.new_ones(1)])
            self._gradient_now = gradient if self._gradient_now is None else self._gradient_now + gradient
        return whole

    def _take_up(self, sums: Tensor) -> None:
        held = self._held
        for s, of_scale in enumerate(sums):
            mean, spread = moments(of_scale, held["mean"][s])
            there = of_scale[:, 0] >= self._least
            new = torch.where(held["seen"][s] > 0, 1 - self._decay, 1.0) * there
            held["mean"][s].lerp_(mean, new[:, None].expand_as(mean))
            held["spread"][s].lerp_(spread, new[:, None].expand_as(spread))
            held["seen"][s] += there

    def _take_up_pixels(self) -> None:
        fresh, counts = torch.zeros_like(self._held["pixels"]), torch.zeros_like(self._held["count"])
        for (s, k), pixels in self._pixels_now.items():
            fresh[s, k, : len(pixels)], counts[s, k] = pixels, len(pixels)
        fresh, counts = self._total(fresh), self._total(counts)
        enough = counts >= self._least
        self._held["pixels"] = torch.where(enough[..., None, None], fresh, self._held["pixels"])
        self._held["count"] = torch.where(enough, counts, self._held["count"])
