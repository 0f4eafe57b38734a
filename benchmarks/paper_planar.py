"""A run of Tables 1 and 3: the presets of the published 2D protocols, and the four families of figures.

``ukan_exact`` is U-KAN's public code, which the paper's BUSI and GlaS rows are copied from: quarter turns and
flips, BCE/2 + Dice, Adam 1e-4 with its decay on everything, a cosine over 400 epochs, batches of 8, and
images divided by 255 a second time. ``paper2d`` leaves out that slip, the order BGR and theta's decay;
``kvasir`` chooses on a tenth of the training set besides. ``ukan2_exact`` is U-KAN 2.0's: BCE alone, no
decay, a rate that falls on a plateau, 120 images reported and a fifth of the others to choose on. Its
loader's empty third channel is a slip too, which is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from paper_data import Pictures, Split
from paper_run import TORCH_SEED, compiled
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.errors import ConfigError
from napari_prosma.nn.baselines.ukan import KANLinear
from napari_prosma.nn.build import Network, build_model
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.spec import ModelSpec

BATCH = 8
RATE, KAN_RATE = 1e-4, 1e-2
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, per channel."""
CUTS = 100
"""Probabilities at which a mask may be cut."""
GATES_SEEN = 16
"""Images on which the state of the gates is told."""
SMALL = 1e-5
"""Smoothing of Dice and IoU in the loss and in the tables."""


@dataclass(frozen=True)
class Preset:
    """A published protocol.

    Attributes
    ----------
    epochs : int
    loss : "bce_dice" or "bce"
    decay : float
        Weight decay, by Adam's own coupling.
    decays_theta : bool
        On the gates' thresholds too.
    kan_rate : float
        Learning rate of KAN layers.
    values : "imagenet", "imagenet twice" or "unit"
        Normalised by ImageNet; in the order BGR and divided by 255 once more; or divided by 255 alone.
    turns : bool
        Quarter turns besides flips.
    schedule, patience : as ``paper_run.Length``
    reported : int, optional
        Number of images to report; by default a fifth.
    inner : float
        Share of the others to choose an epoch on, unless told otherwise.
    kaiming : bool
        Kaiming's normal initialisation of convolutions.
    """

    epochs: int = 400
    loss: Literal["bce_dice", "bce"] = "bce_dice"
    decay: float = 1e-4
    decays_theta: bool = False
    kan_rate: float = KAN_RATE
    values: Literal["imagenet", "imagenet twice", "unit"] = "imagenet"
    turns: bool = True
    schedule: str = "cosine"
    patience: int | None = None
    reported: int | None = None
    inner: float = 0.0
    kaiming: bool = False


PRESETS = {
    "ukan_exact": Preset(decays_theta=True, values="imagenet twice"),
    "paper2d": Preset(),
    "kvasir": Preset(inner=0.1),
    "ukan2_exact": Preset(
        epochs=500,
        loss="bce",
        decay=0.0,
        kan_rate=RATE,
        values="unit",
        turns=False,
        schedule="plateau",
        patience=20,
        reported=120,
        inner=0.2,
        kaiming=True,
    ),
}


class PlanarTask:
    """Training of one network; the set and everything that is drawn for an epoch lie on the device.

    On CUDA it computes in bfloat16, which the published code does not.

    Raises
    ------
    ConfigError
        Fewer images to learn from than a batch.
    """

    def __init__(
        self,
        spec: ModelSpec,
        preset: Preset,
        pictures: Pictures,
        split: Split,
        device: torch.device,
        threshold_rate: float = 1.0,
        compile: bool = False,
        seed: int = TORCH_SEED,
    ) -> None:
        if len(split.training) < BATCH:
            raise ConfigError(f"{len(split.training)} images to learn from are fewer than a batch of {BATCH}")
        torch.manual_seed(seed)
        self.preset, self.device, self._seed = preset, device, seed
        self.network = build_model(spec)
        if preset.kaiming:
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.kaiming_normal_(module.weight)
        self.network.to(device)
        self.optimizer = adam(self.network, preset, threshold_rate)
        self._images = torch.from_numpy(pictures.images).to(device)
        self._masks = torch.from_numpy(pictures.masks).to(device)
        self._normal = Normal(preset, device)
        self._split = {
            part: torch.tensor(getattr(split, part), dtype=torch.long, device=device)
            for part in ("training", "inner", "reported")
        }
        self.steps = len(split.training) // BATCH
        self.way = "not asked to compile"
        self._fast: nn.Module = self.network
        if compile:
            example = self._normal(self._images[:BATCH])
            self._fast, self.way = compiled(self.network, example)

    def train(self, epoch: int) -> Tensor:
        self.network.train()
        random = torch.Generator().manual_seed(self._seed + epoch)
        training = self._split["training"]
        order = torch.randperm(len(training), generator=random).to(self.device)
        draws = torch.rand(self.steps, BATCH, 4, generator=random)
        symmetries = symmetry_of(draws, self.preset.turns).to(self.device)
        total = torch.zeros((), device=self.device)
        for step in range(self.steps):
            at = training[order[step * BATCH : (step + 1) * BATCH]]
            x = moved(self._images[at], symmetries[step])
            y = moved(self._masks[at], symmetries[step]).float()
            with self._precision():
                logits = self._fast(self._normal(x)).float()
            loss = loss_of(self.preset, logits, y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return total / self.steps

    def reported(self) -> dict[str, float]:
        return self._figures(self._split["reported"])

    def inner(self) -> dict[str, float]:
        return self._figures(self._split["inner"]) if len(self._split["inner"]) else {}

    @torch.no_grad()
    def gates(self) -> dict[str, dict[str, float]]:
        """Of the first reported images, beside what the gates do with as many images of nothing but noise.

        ``channel_spread`` is the standard deviation of the channel weights c over the images, the mean over
        the channels; the rest is that of ``SkipTrace.summary``.
        """
        self.network.eval()
        images = self._images[self._split["reported"][:GATES_SEEN]]
        random = torch.Generator().manual_seed(TORCH_SEED)
        noise = torch.randint(0, 256, images.shape, generator=random, dtype=torch.uint8).to(self.device)
        seen, at_noise = GateTrace(), GateTrace()
        with self._precision():
            self.network(self._normal(images), trace=seen)
            self.network(self._normal(noise), trace=at_noise)
        found = {}
        for level, skip in sorted(seen.skips.items()):
            found[str(level)] = skip.summary()
            if skip.channel is not None and len(images) > 1:
                found[str(level)]["channel_spread"] = float(skip.channel.float().std(0).mean())
            of_noise = at_noise.skips[level].summary()
            if "z_zero_fraction" in of_noise:
                found[str(level)]["z_zero_fraction_of_noise"] = of_noise["z_zero_fraction"]
        return found

    @torch.no_grad()
    def _figures(self, indices: Tensor) -> dict[str, float]:
        """The four families on these images and the mean loss, in batches of 8 in their order."""
        self.network.eval()
        found, truth, losses = [], [], []
        for at in indices.split(BATCH):
            with self._precision():
                logits = self.network(self._normal(self._images[at])).float()
            masks = self._masks[at]
            losses.append(loss_of(self.preset, logits, masks.float()) * len(at))
            found.append(logits)
            truth.append(masks.bool())
        loss = float(torch.stack(losses).sum() / len(indices))
        all_logits, all_truth = torch.cat(found), torch.cat(truth)
        return {"loss": loss, **families(all_logits > 0, all_truth), **at_the_best_cut(all_logits, all_truth)}

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


class Normal:
    """uint8 images (B, 1 or 3, y, x) -> what the network takes (B, 3, y, x), channels last."""

    def __init__(self, preset: Preset, device: torch.device) -> None:
        mean = torch.tensor(MEAN, device=device)[:, None, None]
        spread = torch.tensor(SPREAD, device=device)[:, None, None]
        self._twice = preset.values == "imagenet twice"
        self._shift = torch.zeros_like(mean) if preset.values == "unit" else mean
        self._scale = torch.ones_like(spread) if preset.values == "unit" else spread

    def __call__(self, images: Tensor) -> Tensor:
        scaled = (images.float() / 255).expand(-1, 3, -1, -1)
        if self._twice:
            scaled = scaled.flip(1)
        values = (scaled - self._shift) / self._scale
        return (values / 255 if self._twice else values).contiguous(memory_format=torch.channels_last)


def symmetry_of(draws: Tensor, turns: bool) -> Tensor:
    """What becomes of each image by its own draws (..., 4) in [0, 1): bool (..., 3).

    In one of two cases a quarter turn, any of four; in one of two a flip of both axes, of y, or of x.
    Without ``turns`` a flip of y in one of two and of x in one of two. Together these are a transposition,
    then a flip of y, then one of x: the three that are returned.
    """
    if not turns:
        return torch.stack(
            [torch.zeros_like(draws[..., 0]) > 0, draws[..., 0] < 0.5, draws[..., 1] < 0.5], -1
        )
    turn, quarter, flip, kind = draws.unbind(-1)
    quarters = torch.where(turn < 0.5, (4 * quarter).long(), 0)
    kinds = torch.where(flip < 0.5, (3 * kind).long(), 3)
    along_y = ((quarters == 1) | (quarters == 2)) ^ ((kinds == 0) | (kinds == 1))
    along_x = ((quarters == 2) | (quarters == 3)) ^ ((kinds == 0) | (kinds == 2))
    return torch.stack([quarters % 2 == 1, along_y, along_x], -1)


def moved(x: Tensor, symmetry: Tensor) -> Tensor:
    """Square images (B, C, n, n), each by its own symmetry (B, 3) of :func:`symmetry_of`."""
    transposed, along_y, along_x = symmetry.T[..., None, None, None]
    x = torch.where(transposed, x.transpose(-1, -2), x)
    x = torch.where(along_y, x.flip(-2), x)
    return torch.where(along_x, x.flip(-1), x)


def adam(network: Network, preset: Preset, threshold_rate: float) -> torch.optim.Optimizer:
    """Adam with one group each for KAN layers, for theta where it is not decayed, and for the rest."""
    layers = [module for module in network.modules() if isinstance(module, KANLinear)]
    kan = {id(p) for layer in layers for p in layer.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"kan": [], "theta": [], "rest": []}
    for name, parameter in network.named_parameters():
        is_theta = not preset.decays_theta and name.endswith("theta")
        groups["kan" if id(parameter) in kan else "theta" if is_theta else "rest"].append(parameter)
    settings: dict[str, dict[str, float]] = {
        "kan": {"lr": preset.kan_rate},
        "theta": {"lr": RATE * threshold_rate, "weight_decay": 0.0},
        "rest": {},
    }
    return torch.optim.Adam(
        [{"params": parameters, **settings[name]} for name, parameters in groups.items() if parameters],
        lr=RATE,
        weight_decay=preset.decay,
    )


def loss_of(preset: Preset, logits: Tensor, y: Tensor) -> Tensor:
    """``BCE / 2 + 1 - Dice``, the soft Dice of each image by itself; or BCE alone."""
    if preset.loss == "bce":
        return F.binary_cross_entropy_with_logits(logits, y)
    p, t = torch.sigmoid(logits).flatten(1), y.flatten(1)
    dice = (2 * (p * t).sum(1) + SMALL) / (p.sum(1) + t.sum(1) + SMALL)
    return 0.5 * F.binary_cross_entropy_with_logits(logits, y) + 1 - dice.mean()


def families(found: Tensor, truth: Tensor) -> dict[str, float]:
    """IoU and Dice of masks (N, 1, y, x): pooled by batches of 8, per image, over all pixels, and macro.

    Per image two empty masks are 1 and one empty mask 0; ``dice_macro`` is the mean of foreground and
    background Dice per image.
    """
    p, t = found.flatten(1), truth.flatten(1)
    counts = (
        torch.stack([(p & t).sum(1), (p | t).sum(1), p.sum(1) + t.sum(1), (~p & ~t).sum(1)]).cpu().double()
    )
    both, either, sizes, beyond = counts
    batches = torch.tensor([len(part) for part in both.split(BATCH)], dtype=torch.float64)
    pooled = torch.stack([(a.sum() + SMALL) / (b.sum() + SMALL) for a, b in _pairs(both, either)])
    dice = torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0)
    blank = 2 * p.shape[1] - sizes
    background = torch.where(blank > 0, 2 * beyond / blank.clamp(min=1), 1.0)
    micro = both.sum() / either.sum().clamp(min=1)
    return {
        "iou_batch8": float((batches * pooled).sum() / batches.sum()),
        "dice_batch8": float((batches * 2 * pooled / (1 + pooled)).sum() / batches.sum()),
        "iou_img": float(torch.where(either > 0, both / either.clamp(min=1), 1.0).mean()),
        "dice_img": float(dice.mean()),
        "iou_micro": float(micro),
        "dice_micro": float(2 * micro / (1 + micro)),
        "dice_macro": float((dice + background).mean() / 2),
    }


def at_the_best_cut(logits: Tensor, truth: Tensor) -> dict[str, float]:
    """IoU over all pixels if they were cut where that is best instead of at one half, and how much is found.

    ``best_cut`` is that probability, to a hundredth, and ``iou_best_cut`` the IoU; ``area`` is the number of
    pixels above one half by that of the truth. A network that has not yet learned how sure it may be has a
    low IoU at one half and a good one elsewhere.
    """
    # Of a network that has diverged a probability may be no number: above no cut, as above one half.
    level = (torch.sigmoid(logits).nan_to_num(0) * CUTS).long().clamp(max=CUTS - 1).flatten()
    every = torch.bincount(level, minlength=CUTS).flip(0).cumsum(0).flip(0)  # pixels at or above each cut
    true = torch.bincount(level[truth.flatten()], minlength=CUTS).flip(0).cumsum(0).flip(0)
    size = truth.sum()
    iou = true.double() / (every + size - true).clamp(min=1)
    best = int(iou.argmax())
    return {
        "iou_best_cut": float(iou[best]),
        "best_cut": best / CUTS,
        "area": float((logits > 0).sum() / size.clamp(min=1)),
    }


def _pairs(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(a.split(BATCH), b.split(BATCH), strict=True)
