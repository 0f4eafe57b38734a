"""DiM: a few labelled cases among many bare images. A mean teacher, steps that look uphill, close features.

A reconstruction of Wang et al. 2024 (arXiv 2411.12350), whose text and code could not be had: what is known
of it is a sharpness-aware step (SAM, Foret et al. 2021) guided by an f-divergence between the features of
labelled and unlabelled images. The mean teacher around it is that of MiDSS; the order, uphill by the task
loss alone and downhill with the divergence, is that of SDAT (Rangwani et al. 2022). Every default is ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from napari_prosma.data.labels import IGNORE
from napari_prosma.events import Event, Notice
from napari_prosma.model.checkpoint import split_prefix
from napari_prosma.training.batches import Batch, Views
from napari_prosma.training.objective import Context
from napari_prosma.training.objectives.dim import DimOptions
from napari_prosma.training.objectives.supervised.learning import Supervised
from napari_prosma.training.statistics import same_statistics

SMALLEST = 1e-8
"""Probabilities are no smaller than this in a divergence."""
NO_LENGTH = 1e-12
"""Added to the length of a gradient, by which it is divided."""
LEAST_SHARE = 1e-3
"""Share of the loss below which the divergence is said not to act."""


# ---- how far two distributions are apart ------------------------------------------------------------------


def _js(t: Tensor) -> Tensor:
    return 0.5 * (t * t.log() - (t + 1) * ((t + 1) / 2).log())


GENERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": lambda t: t * t.log(),
    "rkl": lambda t: -t.log(),
    "js": _js,
    "chi2": lambda t: (t - 1) ** 2,
    "tv": lambda t: 0.5 * (t - 1).abs(),
    "hellinger2": lambda t: (t.sqrt() - 1) ** 2,
}
"""f of every f-divergence, by the names of ``DimOptions.divergence``."""


def f_divergence(p: Tensor, q: Tensor, name: str) -> Tensor:
    """``D_f(P || Q) = sum_k q_k f(p_k / q_k)``, not negative, and 0 where both are the same.

    Parameters
    ----------
    p, q : (..., K)
        Probabilities, which add up to 1.
    name : key of ``GENERATORS``

    Returns
    -------
    (...)
    """
    p, q = p.clamp(min=SMALLEST), q.clamp(min=SMALLEST)
    return (q * GENERATORS[name](p / q)).sum(dim=-1)


# ---- looking uphill ---------------------------------------------------------------------------------------


@contextmanager
def uphill(parameters: Sequence[nn.Parameter], rho: float, eta: float | None = None) -> Iterator[None]:
    """Within, the parameters lie ``rho`` uphill along their gradients; after it, bit for bit where they were.

    ``eps = rho g / |g|``, with |.| over all parameters together; with ``eta`` relative to the size of each
    weight, ``eps = rho T^2 g / |T g|`` and ``T = |w| + eta`` (ASAM, Kwon et al. 2021). A gradient that is not
    finite leads nowhere.
    """
    gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    with torch.no_grad():
        before = {parameter: parameter.clone() for parameter in gradients}
        ways = gradients
        if eta is not None:
            gradients = {w: (w.abs() + eta) * gradient for w, gradient in gradients.items()}
            ways = {w: (w.abs() + eta) * scaled for w, scaled in gradients.items()}
        length = float(nn.utils.get_total_norm(list(gradients.values())))
        if math.isfinite(length):
            for parameter, way in ways.items():
                parameter.add_(way, alpha=rho / (length + NO_LENGTH))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in before.items():
                parameter.copy_(weight)


@contextmanager
def own_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, there are no gradients at first; after it, what was there is added to those that came."""
    before = [parameter.grad for parameter in parameters]
    _forget_gradients(parameters)
    yield
    for parameter, gradient in zip(parameters, before, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad


def _forget_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


# ---- the objective ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Losses:
    """Of one forward pass: the task's (with the teacher's part in it), that part, and the divergence."""

    task: Tensor
    consistency: Tensor | None = None
    divergence: Tensor | None = None


class DiM(Supervised):
    """Section 3.2 of the method: learn from labels, from a teacher, and with features that stay together.

    One step, with labelled patches x and unlabelled ones in a weak view v and a strong view s::

        y'     = labels that the teacher gives v, where it is sure (at least tau); elsewhere nobody's
        L(w)   = loss(f(w, x), y) + mu loss(f(w, s), y')
        eps    = rho g / |g|,  g = grad L(w)
        result = grad (L + beta D_f(P || Q)) (w + eps)

    x and s pass through the network together. P and Q are the means over x and s of the softmax over
    channels of the deepest features, averaged over space. The pass at ``w + eps`` leaves the running
    statistics alone, and ``eps`` the gates' thresholds. With ``rho = 0`` it is a mean teacher, with ``beta =
    0`` too the plain one; without unlabelled images, or with ``mu_max = beta = 0``, it is SAM on the labels.

    The student is what is validated and kept: the teacher only teaches (a teacher that follows so fast, over
    some hundred steps, is no better). ``TrainConfig.average`` keeps a slower average where it is wanted.
    """

    patches = 2

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self._options = DimOptions.model_validate(context.config.objective_options)
        self._learned = [w for w in context.network.parameters() if w.requires_grad]
        self._moved = [
            weight
            for name, weight in context.network.named_parameters()
            if weight.requires_grad and (self._options.perturb_gates or not name.endswith("theta"))
        ]
        self._steps = 0
        self._sums: dict[str, tuple[float, int]] = {}
        self._noted: list[tuple[str, float]] = []
        self._acts = True
        self._teacher: nn.Module | None = None
        self._features: Tensor | None = None
        self._wants_features = False
        self._unlabelled = context.unlabelled if self._options.mu_max or self._options.beta else None
        if self._unlabelled is None:
            return
        if self._options.mu_max:
            self._teacher = copy.deepcopy(context.network).requires_grad_(False).eval()

        # A hook, since no network gives its deepest features besides the logits. A plain function, since one
        # bound to this object would be copied together with it whenever the network is.
        def keep(block: nn.Module, given: Any, features: Tensor) -> None:
            if self._wants_features:
                self._features = features

        context.network.deepest_block().register_forward_hook(keep)

    def epoch_begins(self, epoch: int) -> Iterator[Event]:
        """Say what is left of the method where a part of it has nothing to work on."""
        if epoch == 0 and self.context.unlabelled is None:
            steps = "sharpness-aware steps (SAM)" if self._options.rho else "plain steps"
            yield Notice(f"No unlabelled images were given: the run learns from the labels alone, by {steps}")
        elif epoch == 0 and self._unlabelled is None:
            yield Notice("The unlabelled images are not used: mu_max and beta are 0")

    def step(self, model: nn.Module, batch: Batch, backward: Callable[[Tensor], Any]) -> float:
        options = self._options
        views = None if self._unlabelled is None else self._unlabelled.beside(batch)
        taught = None if views is None else self._taught(views.weak)
        here = self._losses(model, batch, views, taught)
        if not options.rho:
            backward(self._whole(here))
        else:
            eta = options.eta if options.adaptive else None
            with own_gradients(self._learned):
                backward(here.task)
                with uphill(self._moved, options.rho, eta), same_statistics(self.context.network):
                    _forget_gradients(self._learned)
                    above = self._losses(model, batch, views, taught)
                    backward(self._whole(above))
            self._note("sharpness", float(above.task.detach() - here.task.detach()))
        whole = float(self._whole(here).detach())
        for name, part, weight in (
            ("consistency", here.consistency, self._mu),
            ("divergence", here.divergence, options.beta),
        ):
            if part is not None:
                value = float(part.detach())
                self._note(name, value)
                share = "teacher share" if name == "consistency" else "divergence share"
                self._note(share, weight * value / max(whole, SMALLEST))
        return float(here.task.detach())

    def abandoned(self) -> None:
        self._features, self._wants_features = None, False
        self._noted = []

    def stepped(self) -> None:
        """The teacher follows the student: parameters and running statistics."""
        self._follow(1 - min(1 - 1 / (self._steps + 1), self._options.ema))
        self._steps += 1
        for name, value in self._noted:
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1
        self._noted = []

    def figures(self) -> dict[str, float]:
        """Means over the steps since the last call.

        ``divergence`` at w and ``divergence share``, that of the loss which it makes up with its weight;
        ``sharpness`` (how much the task loss rises uphill), ``consistency`` (the loss against the teacher),
        ``teacher share`` (that of the loss which the teacher makes up with its weight), ``teacher sure``
        (share of the pixels where it is).
        """
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        self._acts = means.get("divergence share", LEAST_SHARE) >= LEAST_SHARE
        return means

    def ends(self) -> Iterator[Event]:
        """Say where the divergence did nothing in the last epoch, though it has a weight."""
        if not self._acts and self._options.beta:
            yield Notice(
                f"The divergence was less than {100 * LEAST_SHARE:g} % of the loss in the last epoch: it did "
                f"not act. Raise its weight (beta, now {self._options.beta:g}), or read this run as one "
                f"without it"
            )

    def state_dict(self) -> dict[str, Tensor]:
        state = {f"sum.{name}": torch.tensor(kept, dtype=torch.float64) for name, kept in self._sums.items()}
        state["steps"] = torch.tensor(self._steps)
        if self._teacher is not None:
            state |= {f"teacher.{name}": tensor for name, tensor in self._teacher.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._steps = int(state["steps"])
        sums = split_prefix(state, "sum")
        self._sums = {name: (float(total), int(count)) for name, (total, count) in sums.items()}
        if self._teacher is not None:
            self._teacher.load_state_dict(split_prefix(state, "teacher"))

    @property
    def _mu(self) -> float:
        """Weight of the teacher, which rises as ``mu_max exp(-5 (1 - t / T)^2)`` until T."""
        rise = self._options.ramp * self.context.steps
        left = 0.0 if not rise else 1 - min(self._steps, rise) / rise
        return self._options.mu_max * math.exp(-5 * left**2)

    def _losses(self, model: nn.Module, batch: Batch, views: Views | None, taught: Tensor | None) -> _Losses:
        if views is None:
            return _Losses(self.loss(model(batch.images), batch.labels))
        labelled = len(batch.images)
        self._wants_features = True
        logits = model(torch.cat([batch.images, views.strong]))
        task, consistency = self.loss(logits[:labelled], batch.labels), None
        if taught is not None:
            consistency = self.loss(logits[labelled:], taught)
            task = task + self._mu * consistency
        return _Losses(task, consistency, self._divergence(labelled))

    def _whole(self, losses: _Losses) -> Tensor:
        if losses.divergence is None or not self._options.beta:
            return losses.task
        return losses.task + self._options.beta * losses.divergence

    def _divergence(self, labelled: int) -> Tensor:
        """Between the features of the last pass's first patches and of its others, over all processes."""
        assert self._features is not None
        features = self._features.float().flatten(2).mean(dim=2)
        self._features, self._wants_features = None, False
        shares = (features / self._options.temperature).softmax(dim=1)
        counts = shares.new_tensor([labelled, len(shares) - labelled])
        sums = torch.cat([shares[:labelled].sum(dim=0), shares[labelled:].sum(dim=0), counts])
        channels = shares.shape[1]
        p, q, counts = self.context.processes.total(sums).split([channels, channels, 2])
        return f_divergence(p / counts[0], q / counts[1], self._options.divergence)

    @torch.no_grad()
    def _taught(self, weak: Tensor) -> Tensor | None:
        """Labels (B, 1, *patch) that the teacher gives, ``IGNORE`` where it is not sure."""
        if self._teacher is None:
            return None
        if self._steps == 0:  # the student may have got other thresholds since the teacher was made
            self._follow(1.0)
        with self.context.processes.fabric.autocast():
            logits = self._teacher(weak)
        if logits.shape[1] == 1:
            foreground = logits.float().sigmoid()
            labels, sure = (foreground > 0.5).long(), torch.maximum(foreground, 1 - foreground)
        else:
            sure, labels = logits.float().softmax(dim=1).max(dim=1, keepdim=True)
        is_sure = sure >= self._options.tau
        processes = self.context.processes
        self._note("teacher sure", float(processes.total(is_sure.float().mean())) / processes.world)
        return torch.where(is_sure, labels, IGNORE)

    @torch.no_grad()
    def _follow(self, share: float) -> None:
        """Bring the teacher nearer to the student by ``share`` of what they differ."""
        if self._teacher is None:
            return
        student = self.context.network.state_dict()
        for name, tensor in self._teacher.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(student[name], share)
            else:
                tensor.copy_(student[name])

    def _note(self, name: str, value: float) -> None:
        self._noted.append((name, value))
