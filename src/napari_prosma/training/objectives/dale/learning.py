"""DALE: learning from labels of which some are wrong, and telling which.

Rebuilt from the public descriptions of "Minding Fuzzy Regions" (Fang et al. 2025, arXiv 2503.11140; section
4.2 of our method page), whose equations and code could not be had: it is ours where they are silent.

After a warm-up the cases are parted by how much the model disagrees with their labels. The run then learns
in turns from the clear ones alone (phase A) and from all (phase B), where a fuzzy case counts as much as its
loss agrees with those of the clear ones, and its features are drawn to theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.data.labels import IGNORE
from napari_prosma.events import Event, Notice, Progress
from napari_prosma.model.checkpoint import split_prefix
from napari_prosma.model.windows import Blend, log_probabilities, predict, probabilities_of, tile
from napari_prosma.nn.build import Network
from napari_prosma.training.batches import Batch, PreparedCase
from napari_prosma.training.doubt import (
    LABEL_CONFIDENCE,
    Disagreement,
    DoubtedLabel,
    disagreement,
    write_label_confidence,
)
from napari_prosma.training.losses import SMOOTH, Total
from napari_prosma.training.objective import Context
from napari_prosma.training.objectives.dale import DaleOptions
from napari_prosma.training.objectives.dale.alignment import Alignment
from napari_prosma.training.objectives.supervised.learning import Supervised
from napari_prosma.training.validation import InPrecision, labelled_part

SHORT = 3
"""A run whose epochs end before the warm-up would warms up for this part of them."""
_NO_SPREAD = 1e-6


# ---- which labels are doubted, and how much ---------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """Training cases parted into clear and fuzzy ones."""

    fuzziness: Tensor  # (n,) float64: above 0: the label stands out by its disagreement with the model
    fuzzy: Tensor  # (n,) bool: the cases set aside
    all_doubted: bool  # more labels stood out than can be set aside, or the model agrees with none


def partition(
    absolute_error: Tensor, error_ratio: Tensor, threshold: float, least_clear: float = 0.5
) -> Partition:
    """Part cases by the soft thresholds of both errors: ``r = S_k(z(AE)) + S_k(z(ER))``, fuzzy where r > 0.

    Parameters
    ----------
    absolute_error, error_ratio : (n,)
        See ``doubt.Disagreement``.
    threshold : float
        k, in standard deviations over the cases.
    least_clear : float
        Share of the cases that stays clear in any case.
    """
    standing = [_z_score(errors.double()) for errors in (absolute_error, error_ratio)]
    fuzziness = torch.stack([F.softshrink(z, threshold) for z in standing]).sum(dim=0)
    most = int(len(fuzziness) * (1 - least_clear))
    standing_out = fuzziness > 0
    none_agrees = bool(standing_out.any()) and bool((error_ratio > 0.5).all())
    all_doubted = none_agrees or int(standing_out.sum()) > most
    fuzzy = standing_out
    if all_doubted:
        # By fuzziness, and where that is equal by both errors.
        order = torch.stack(standing).sum(dim=0).argsort(descending=True, stable=True)
        order = order[fuzziness[order].argsort(descending=True, stable=True)]
        fuzzy = torch.zeros_like(standing_out)
        fuzzy[order[:most]] = True
    return Partition(fuzziness, fuzzy, all_doubted)


def confidence(excess: Tensor, gamma: float, floor: float) -> Tensor:
    """Weight of a label whose loss lies ``excess`` above those of the clear cases, in their spread.

    ``exp(-e / gamma)`` is the w in (0, 1] that makes ``w e + gamma (w ln w - w)`` smallest; it is not let
    below ``floor``.
    """
    return torch.exp(-excess / gamma).clamp(min=floor)


def excess(losses: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """How far losses lie above the mean of the clear cases, in their standard deviation; 0 below it."""
    return (losses - mean).clamp(min=0) / (spread + _NO_SPREAD)


def _z_score(values: Tensor) -> Tensor:
    spread = values.std(correction=0)
    return (values - values.mean()) / spread if spread > _NO_SPREAD else torch.zeros_like(values)


# ---- losses -----------------------------------------------------------------------------------------------


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss (B,) of every sample alone, by which samples are compared; no gradient is meant to pass.

    As ``losses.dice_cross_entropy`` without class weights, of the classes that the sample's label holds or
    the model finds there: a patch of background that is seen as such has no Dice to speak of.

    Parameters
    ----------
    logits : (B, 1 or K, *spatial)
    labels : (B, 1, *spatial) int
    """
    log, known, truth = _log_and_labels(logits, labels)
    spatial = [*range(2, log.ndim)]
    entropy = -(log.gather(1, truth) * known).sum(spatial)[:, 0] / known.sum(spatial)[:, 0].clamp(min=1)
    overlap, found, there = _dice_sums(log, truth, known.float(), spatial)
    classes = torch.arange(1, log.shape[1], device=log.device)
    seen = ((log.argmax(dim=1, keepdim=True) * known).flatten(1)[..., None] == classes).any(dim=1)
    present = ((there > 0) | seen).float()
    dice = 1 - (2 * overlap + SMOOTH) / (found + there + SMOOTH)
    mean = (dice * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
    return (0.5 if logits.shape[1] == 1 else 1.0) * entropy + mean


def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B, 1, *spatial) of every element, 0 where nobody labelled."""
    log, known, truth = _log_and_labels(logits, labels)
    return -log.gather(1, truth) * known


def weighted_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, class_weights: Tensor | None, total: Total
) -> Tensor:
    """Dice plus cross-entropy in which every element counts by its weight.

    The weights enter all sums, those of Dice too, so that the gradient of an element is its weight times what
    it has in common with the whole batch. All weights 1 give ``losses.dice_cross_entropy``.

    Parameters
    ----------
    logits : (B, 1 or K, *spatial)
    labels : (B, 1, *spatial) int
    weights : (B, 1, *spatial)
    class_weights : (classes,), optional
    total : (n,) -> (n,)
        Adds up over all processes.
    """
    log, known, truth = _log_and_labels(logits, labels)
    weights = weights * known
    of_class = weights if class_weights is None else weights * class_weights.to(log)[truth]
    entropy = -(log.gather(1, truth) * of_class).sum()
    everywhere = [0, *range(2, log.ndim)]
    sums = torch.cat([torch.stack([entropy, of_class.sum()]), *_dice_sums(log, truth, weights, everywhere)])
    (entropy, whole), overlap, found, there = total(sums).split([2, *[log.shape[1] - 1] * 3])
    dice = 1 - (2 * overlap + SMOOTH) / (found + there + SMOOTH)
    share = 0.5 if logits.shape[1] == 1 else 1.0
    return share * entropy / torch.where(whole > 0, whole, 1.0) + dice.mean()


def boundary_band(labels: Tensor, radius: int) -> Tensor:
    """Where another class lies within ``radius`` elements along every axis: (B, 1, *spatial) bool."""
    pool = (F.max_pool2d, F.max_pool3d)[labels.ndim - 4]
    window, known = 2 * radius + 1, labels != IGNORE
    values = labels.float()
    highest = pool(torch.where(known, values, -torch.inf), window, 1, radius)
    lowest = -pool(torch.where(known, -values, -torch.inf), window, 1, radius)
    return (highest > lowest) & known


def _log_and_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    known = labels != IGNORE
    return log_probabilities(logits.float()), known, (labels * known).long()


def _dice_sums(log: Tensor, truth: Tensor, weights: Tensor, over: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted overlap, found and there of every foreground class."""
    classes = torch.arange(1, log.shape[1], device=log.device).view(-1, *[1] * (log.ndim - 2))
    probability, member = log[:, 1:].exp() * weights, (truth == classes).float()
    return (
        (probability * member).sum(over),
        probability.sum(over),
        (member * weights).sum(over),
    )


# ---- the objective ----------------------------------------------------------------------------------------


class _LastMap:
    """The last decoder map of a network, ``g_1``, while it is wanted: what its head is given."""

    def __init__(self, network: Network) -> None:
        network.last_block().register_forward_pre_hook(self._keep)
        self.wanted = False
        self._features: Tensor | None = None

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if self.wanted:
            self._features = given[0]

    def take(self) -> Tensor:
        """What the last forward pass left, which is let go of here."""
        features = self._features
        self.let_go()
        assert features is not None
        return features

    def let_go(self) -> None:
        """Nothing is wanted, and nothing is held."""
        self._features, self.wanted = None, False


@dataclass(frozen=True)
class _Look:
    """What one look at a training case found."""

    found: Disagreement  # ``slice`` counted in the image as it was read
    loss: float
    # 3 numbers: count, sum and sum of squares of the pixel losses around the label's boundary.
    band: tuple[float, float, float]


class DALE(Supervised):
    """Phases, confidences and alignment of section 4.2 of the method.

    The state of every training case is kept in the order of ``Context.training``.
    """

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self._options = DaleOptions.model_validate(context.config.objective_options)
        cases = len(context.training)
        self._place = {index: n for n, index in enumerate(context.training)}
        warm_up, epochs = self._options.warm_up_epochs, context.config.epochs
        if warm_up >= epochs:
            warm_up = max(1, epochs // SHORT)
        self._parts = cases >= self._options.least_cases
        self._last_map = _LastMap(context.network)
        self._alignment: Alignment | None = None
        if self._options.align != "none" and self._options.beta > 0 and self._parts:
            self._alignment = Alignment(
                self._options.align,
                len(context.plan.class_names),
                self._options.scales,
                self._options.stats_decay,
                self._options.least_pixels,
                context.processes.total,
                context.processes.is_first,
                context.config.seed,
            )
        zeros = torch.zeros(cases, dtype=torch.float64)
        self._held = {
            "epoch": torch.tensor(-1),
            "warm_up": torch.tensor(warm_up),
            "loss": zeros + torch.nan,
            "fuzziness": zeros.clone(),
            "fuzzy": torch.zeros(cases, dtype=torch.bool),
            "confidence": zeros + 1,
            "absolute_error": zeros.clone(),
            "error_ratio": zeros.clone(),
            "worst_class": torch.zeros(cases, dtype=torch.long),
            "slice": torch.zeros(cases, dtype=torch.long),
            "band": torch.tensor([0.0, 1.0], dtype=torch.float64),
            "aligned": torch.zeros(2, dtype=torch.float64),
        }
        self._losses_now: dict[int, float] = {}
        self._apart_now: list[float] = []
        self._has_warned = False

    # ---- what the run asks --------------------------------------------------------------------------------

    def looks(self, epoch: int) -> bool:
        since = self._since_warm_up(epoch)
        return since >= 0 and since % self._options.every == 0

    def epoch_begins(self, epoch: int) -> Iterator[Event]:
        """Look at the training cases every so many epochs, and decide how much each label counts."""
        if epoch == 0:
            yield from self._notices()
        if self.looks(epoch):
            yield from self._look_again()
        self._held["epoch"] = torch.tensor(epoch)
        self._held["aligned"].zero_()
        if self._since_warm_up(epoch) >= 0:
            self._weigh()
            self._write_list()

    def ends(self) -> Iterator[Event]:
        """Look once more, so that the list is that of the trained network, or of its average that is kept.

        Until then it is the network that learns which doubts labels, also where its average is kept.
        """
        yield from self._look_again(self.context.averaged_network)
        self._weigh()
        self._write_list()
        if self._since_warm_up(int(self._held["epoch"])) < 0:
            warm_up = int(self._held["warm_up"])
            yield Notice(
                f"The run ended within the warm-up of {warm_up} epoch{'s' * (warm_up > 1)}: no label was set "
                f"apart or weighted, so it learned as a plain run does; the list of suspicious labels holds. "
                f"For DALE to begin, train longer, or lower Warm-up (warm_up_epochs)"
            )

    def cases(self, epoch: int) -> Sequence[int] | None:
        """The clear ones in phase A; all where none is fuzzy."""
        fuzzy = self._held["fuzzy"]
        if self._phase(epoch) != "A" or not fuzzy.any():
            return None
        return [index for index, n in self._place.items() if not fuzzy[n]]

    def step(self, model: nn.Module, batch: Batch, backward: Callable[[Tensor], Any]) -> float:
        places = [self._place[index] for index in batch.cases]
        phase = self._phase(int(self._held["epoch"]))
        aligned = self._alignment is not None and phase != "warm-up"
        self._last_map.wanted = aligned
        logits = model(batch.images)
        if phase == "B" and self._weighs:
            weights = self._weights(logits.detach(), batch.labels, places)
            loss = weighted_loss(
                logits,
                batch.labels,
                weights,
                self.context.class_weights,
                self.context.processes.total,
            )
        else:
            loss = self.loss(logits, batch.labels)
        if aligned:
            loss = loss + self._drawn_together(batch.labels[:, 0], places, phase)
        backward(loss)
        own = sample_losses(logits.detach(), batch.labels).tolist()
        self._losses_now |= dict(zip(places, own, strict=True))
        return float(loss.detach())

    def abandoned(self) -> None:
        self._last_map.let_go()
        self._losses_now, self._apart_now = {}, []
        if self._alignment is not None:
            self._alignment.abandoned()

    def stepped(self) -> None:
        """Take up what the step showed, the same in every process."""
        held, total = self._held, self.context.processes.total
        seen = torch.zeros(2, len(held["loss"]), dtype=torch.float64)
        for n, loss in self._losses_now.items():
            seen[:, n] = torch.tensor([1.0, loss])
        device = self.context.processes.device
        counts, sums = total(seen.float().to(device)).cpu().double()
        fresh = sums / counts.clamp(min=1)
        old = torch.where(held["loss"].isnan(), fresh, held["loss"])
        decayed = self._options.decay * old + (1 - self._options.decay) * fresh
        held["loss"] = torch.where(counts > 0, decayed, held["loss"])
        if self._alignment is not None:
            self._alignment.stepped()
        if self._apart_now:
            held["aligned"] += torch.tensor([1.0, sum(self._apart_now) / len(self._apart_now)])
        self._losses_now, self._apart_now = {}, []

    def relabelled(self, index: int) -> None:
        """The case is clear and counts whole; what it cost with the old label is forgotten."""
        n = self._place.get(index)
        if n is None:
            return
        held = self._held
        held["fuzzy"][n], held["fuzziness"][n], held["confidence"][n] = False, 0.0, 1.0
        others = ~held["fuzzy"]
        others[n] = False
        # As that of a usual clear case: the old one would raise what the others are measured by.
        held["loss"][n] = held["loss"][others].nanmean()

    def figures(self) -> dict[str, float]:
        """How the confidences are spread, how many cases are fuzzy, how far their features lie off."""
        steps, apart = self._held["aligned"].tolist()
        lowest, tenth, middle = torch.quantile(
            self._held["confidence"], torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64)
        ).tolist()
        return {
            "confidence": float(self._held["confidence"].mean()),
            "confidence/lowest": lowest,
            "confidence/lowest tenth": tenth,
            "confidence/median": middle,
            "fuzzy": float(self._held["fuzzy"].double().mean()),
            "alignment": apart / max(1.0, steps),
        }

    def doubted_labels(self) -> list[DoubtedLabel]:
        """A row per training case, as it was looked at last, in the order of the cases."""
        held, names = self._held, self.context.plan.class_names
        return [
            DoubtedLabel(
                case=self.context.cases.cases[index].name,
                fuzziness=float(held["fuzziness"][n]),
                absolute_error=float(held["absolute_error"][n]),
                error_ratio=float(held["error_ratio"][n]),
                confidence=float(held["confidence"][n]),
                worst_class=names[int(held["worst_class"][n])],
                slice=int(held["slice"][n]),
            )
            for index, n in self._place.items()
        ]

    def state_dict(self) -> dict[str, Tensor]:
        aligned = {} if self._alignment is None else self._alignment.state_dict()
        return self._held | {f"alignment.{name}": tensor for name, tensor in aligned.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._held = {name: state[name].clone() for name in self._held}
        if self._alignment is not None:
            self._alignment.load_state_dict(split_prefix(state, "alignment"), self.context.processes.device)

    # ---- phases and weights -------------------------------------------------------------------------------

    def _phase(self, epoch: int) -> Literal["warm-up", "A", "B"]:
        since = self._since_warm_up(epoch)
        if since < 0:
            return "warm-up"
        return "AB"[since // self._options.every % 2]  # type: ignore[return-value]

    def _since_warm_up(self, epoch: int) -> int:
        return epoch - int(self._held["warm_up"])

    @property
    def _weighs(self) -> bool:
        """Whether any label counts less than others in phase B; the same in every process."""
        return bool((self._held["confidence"] < 1).any()) or self._is_pixelwise

    @property
    def _is_pixelwise(self) -> bool:
        if not self._parts:
            return True
        return self._options.pixel and bool(self._held["fuzzy"].any())

    def _weigh(self) -> None:
        """Confidence of every fuzzy case by its loss against those of the clear ones."""
        held = self._held
        clear = held["loss"][~held["fuzzy"]]
        high = excess(held["loss"], clear.mean(), clear.std(correction=0))
        weight = confidence(high, self._options.gamma, self._options.floor)
        held["confidence"] = torch.where(held["fuzzy"], weight, 1.0)

    def _weights(self, logits: Tensor, labels: Tensor, places: list[int]) -> Tensor:
        """Weight of every element (B, 1, *spatial)."""
        rows = (-1, *[1] * (labels.ndim - 1))
        weights = self._held["confidence"][places].float().to(labels.device).view(rows).expand(labels.shape)
        if not self._is_pixelwise:
            return weights
        doubted = self._held["fuzzy"][places] if self._parts else torch.ones(len(places), dtype=torch.bool)
        inside = boundary_band(labels, self._options.band) & doubted.to(labels.device).view(rows)
        mean, spread = self._held["band"].float().to(labels.device)
        own = confidence(
            excess(pixel_losses(logits, labels), mean, spread), self._options.gamma, self._options.floor
        )
        return torch.where(inside, own, weights)

    def _drawn_together(self, labels: Tensor, places: list[int], phase: str) -> Tensor:
        """Weighted distance of the fuzzy cases' features; what the clear ones are like is remembered."""
        assert self._alignment is not None
        features, fuzzy = self._last_map.take(), self._held["fuzzy"]
        doubted = fuzzy[places].to(labels.device)
        self._alignment.remember(features, labels, ~doubted)
        if phase == "A" or not fuzzy.any():
            return labels.new_zeros((), dtype=torch.float32)
        apart = self._alignment.distance(features, labels, doubted)
        self._apart_now.append(float(apart.detach()))
        return self._options.beta * apart

    # ---- looking at the training cases --------------------------------------------------------------------

    def _notices(self) -> Iterator[Notice]:
        options, cases = self._options, len(self._place)
        if not self._parts:
            yield Notice(
                f"{cases} training case{'s are' * (cases > 1) or ' is'} too few to tell which stands out "
                f"(fewer than {options.least_cases}): no case is set aside, and single pixels around the "
                f"labels' boundaries count as suspicious instead"
            )
        warm_up = int(self._held["warm_up"])
        if warm_up != options.warm_up_epochs:
            yield Notice(
                f"Suspicious labels are looked for from epoch {warm_up + 1} on, not after "
                f"{options.warm_up_epochs} epochs: the run has only {self.context.config.epochs}"
            )

    def _look_again(self, by: Network | None = None) -> Iterator[Event]:
        """Compare every training case with its label; nothing changes before all were seen."""
        looks = yield from self._looks(by or self.context.network)
        held = self._held
        for name in ("absolute_error", "error_ratio", "worst_class", "slice"):
            values = [getattr(look.found, name) for look in looks]
            held[name] = torch.tensor(values, dtype=held[name].dtype)
        # Anew from here: a case that phase A left out would be judged by what it cost long before.
        held["loss"] = torch.tensor([look.loss for look in looks], dtype=torch.float64)
        if self._parts:
            parted = partition(
                held["absolute_error"], held["error_ratio"], self._options.k, self._options.least_clear
            )
            held["fuzziness"], held["fuzzy"] = parted.fuzziness, parted.fuzzy
            if parted.all_doubted and not self._has_warned:
                self._has_warned = True
                clear = int((~parted.fuzzy).sum())
                yield Notice(
                    f"The model disagrees with too many labels to tell which are wrong: the run continues "
                    f"with the {clear} of {len(looks)} labels that it agrees with most; check the first "
                    f"lines of {LABEL_CONFIDENCE}, or raise Warm-up (warm_up_epochs)"
                )
        bands = [look.band for look, fuzzy in zip(looks, held["fuzzy"], strict=True) if not fuzzy]
        count, first, second = np.sum(bands, axis=0)
        mean = first / max(count, 1)
        spread = max(second / max(count, 1) - mean**2, 0.0) ** 0.5
        held["band"] = torch.tensor([mean, spread], dtype=torch.float64)

    def _write_list(self) -> None:
        if self.context.processes.is_first:
            write_label_confidence(self.context.config.run_dir, self.doubted_labels())

    def _looks(self, network: Network) -> Generator[Event, None, list[_Look]]:
        """A look at each training case, shared among the processes."""
        context, processes = self.context, self.context.processes
        model = InPrecision(network, processes.fabric.autocast)
        mine, looks = context.training[processes.rank :: processes.world], []
        for n, index in enumerate(mine, start=1):
            case = context.cases[index]
            tiling = tile(case.label.shape, context.plan.window, network.divisor, across=case.across)
            tiling = labelled_part(tiling, case.label)
            blend = Blend(tiling, network.spec.out_channels)
            for _ in predict(model, case.image, tiling, 1, blend):
                yield Progress(n - 1, len(mine), f"looking at the label of {case.name}")
            looks.append(self._compared(case, blend.result()))
        return processes.gathered(looks)

    def _compared(self, case: PreparedCase, answer: np.ndarray) -> _Look:
        found = disagreement(probabilities_of(answer), case.label, case.acquired)
        on_image = case.stored_shape[case.acquired] / case.label.shape[case.acquired]
        is_volume = case.label.ndim > 2
        found = replace(found, slice=int((found.slice + 0.5) * on_image) if is_volume else 0)
        logits, label = torch.from_numpy(answer)[None], torch.from_numpy(case.label)[None, None]
        slices = label.movedim(2 + case.across, 2)
        planes = slices.reshape(-1, 1, *slices.shape[-self.context.plan.dims :])
        inside = boundary_band(planes, self._options.band).view(slices.shape).movedim(2, 2 + case.across)
        losses = pixel_losses(logits, label)[inside].double()
        band = (float(losses.numel()), float(losses.sum()), float(losses.square().sum()))
        return _Look(found, float(sample_losses(logits, label)), band)
