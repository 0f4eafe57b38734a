"""Distances between the features of two sets of cases; a discriminator that the network learns against."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch.autograd import gradcheck
from torch.multiprocessing import spawn

from napari_prosma.data.labels import IGNORE
from napari_prosma.training.losses import Total, in_this_process, summed_over_processes
from napari_prosma.training.objectives.dale.alignment import (
    Alignment,
    Discriminator,
    class_sums,
    coarser,
    mmd,
    moments,
    on_feature_grid,
    wasserstein,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(count: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(0))


def test_moments_are_those_of_each_class_and_of_nothing_unlabelled() -> None:
    features, labels = 100 + normal(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    labels[:, 2:6], labels[:, 7] = 1, IGNORE
    shift = torch.full((2, 3), 99.5)
    mean, spread = moments(class_sums(features, labels, 2, shift), shift)
    for k in range(2):
        of_class = features.movedim(1, -1)[labels == k]
        torch.testing.assert_close(mean[k], of_class.mean(dim=0))
        torch.testing.assert_close(spread[k], of_class.std(dim=0, correction=0), rtol=1e-4, atol=1e-5)


def test_sums_of_two_batches_add_up_to_those_of_both() -> None:
    features, labels = normal(4, 3, 4, 4, 4), classes(3, 4, 4, 4, 4)
    shift = torch.zeros(3, 3)
    parts = class_sums(features[:1], labels[:1], 3, shift) + class_sums(features[1:], labels[1:], 3, shift)
    torch.testing.assert_close(parts, class_sums(features, labels, 3, shift))


def test_wasserstein_is_zero_for_equals_symmetric_and_the_square_of_a_shift() -> None:
    mean, spread = normal(5), normal(5, seed=1).abs()
    other, wider = normal(5, seed=2), normal(5, seed=3).abs()
    assert wasserstein(mean, spread, mean, spread) == 0
    assert wasserstein(mean, spread, other, wider) == wasserstein(other, wider, mean, spread)
    shift = torch.tensor([3.0, 0.0, 4.0, 0.0, 0.0])
    assert float(wasserstein(mean + shift, spread, mean, spread)) == pytest.approx(25 / 5, rel=1e-5)


def test_distances_do_not_depend_on_the_order_of_samples() -> None:
    features, labels = normal(6, 4, 8, 8), classes(2, 6, 8, 8)
    turned, shift = torch.tensor([3, 5, 0, 1, 4, 2]), torch.zeros(2, 4)
    straight = moments(class_sums(features, labels, 2, shift), shift)
    mixed = moments(class_sums(features[turned], labels[turned], 2, shift), shift)
    torch.testing.assert_close(straight, mixed)
    one, other = normal(40, 4), normal(30, 4, seed=1)
    torch.testing.assert_close(mmd(one, other), mmd(one.flip(0), other.roll(7, 0)), rtol=1e-4, atol=1e-6)


def test_mmd_is_about_zero_for_two_halves_of_one_set_and_not_for_a_shifted_one() -> None:
    halves = [float(mmd(*normal(200, 4, seed=seed).chunk(2))) for seed in range(8)]
    assert abs(sum(halves) / 8) < 3e-3
    assert min(halves) < 0  # unbiased: some lie below
    assert float(mmd(normal(100, 4), 1 + normal(100, 4, seed=9))) > 0.1


def test_mmd_counts_no_sample_with_itself() -> None:
    one, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    squares = torch.tensor([4.0, 1.0, 25.0, 1.0, 9.0, 16.0])  # all pairs; the lower median of both ways is 4
    kernel = torch.exp(-squares / (2 * 4.0))
    expected = kernel[0] + kernel[5] - 2 * (kernel[1] + kernel[2] + kernel[3] + kernel[4]) / 4
    torch.testing.assert_close(mmd(one, other), expected)


def test_distances_have_the_gradients_that_differences_give() -> None:
    shift = torch.zeros(2, 3)
    features = normal(1, 3, 4, 4).double().requires_grad_()
    labels = (torch.arange(16) % 2).view(1, 4, 4)

    def distance(values: torch.Tensor) -> torch.Tensor:
        mean, spread = moments(class_sums(values, labels, 2, shift), shift)
        return wasserstein(mean, spread, shift, shift + 1).sum()

    # The sums are float32.
    assert gradcheck(distance, (features,), eps=1e-2, atol=2e-2)


def test_the_discriminator_climbs_what_the_network_descends() -> None:
    discriminator = Discriminator(channels=2, classes=2, seed=0)
    labels = torch.arange(200) % 2
    doubted = torch.arange(200) < 60
    pixels = normal(200, 2) + 2.0 * doubted[:, None]
    before = float(discriminator.gain(pixels, labels, doubted))
    for _ in range(100):
        discriminator.descend(discriminator.gradient(pixels, labels, doubted))
    learned = float(discriminator.gain(pixels, labels, doubted))
    assert before < 0.1 < 0.4 < learned < math.log(2)
    pixels.requires_grad_()
    for _ in range(30):
        (gradient,) = torch.autograd.grad(discriminator.gain(pixels, labels, doubted), pixels)
        pixels = (pixels - 20 * gradient).detach().requires_grad_()
    assert float(discriminator.gain(pixels.detach(), labels, doubted)) < learned - 0.3


def test_the_gain_leaves_the_discriminator_alone() -> None:
    discriminator = Discriminator(channels=2, classes=2, seed=0)
    pixels = normal(20, 2).requires_grad_()
    discriminator.gain(pixels, torch.zeros(20, dtype=torch.long), torch.arange(20) < 10).backward()
    assert pixels.grad is not None
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_the_discriminator_is_drawn_from_its_seed_and_disturbs_no_other_draw() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (Discriminator(2, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.layers[0].weight, same.layers[0].weight)
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)


def test_features_meet_the_labels_of_their_own_place() -> None:
    labels = torch.arange(30).view(1, 5, 6)
    padded = torch.zeros(1, 1, 8, 8)
    features, found = on_feature_grid(padded, labels)
    assert features.shape[2:] == (5, 6)
    assert torch.equal(found, labels)
    features, found = on_feature_grid(torch.zeros(1, 1, 4, 4), labels)
    assert features.shape[2:] == (3, 3)
    assert torch.equal(found, labels[:, ::2, ::2])


def test_a_coarser_cell_has_a_class_only_where_it_is_of_one() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, :, 1:] = 1
    features, found = coarser(torch.arange(16.0).view(1, 1, 4, 4), labels, 2, classes=2)
    assert found.tolist() == [[[2, 1], [2, 1]]]
    assert features[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


# ---- over steps and processes -----------------------------------------------------------------------------

PROCESSES = 2


def steps_of(kind: str, rank: int, processes: int, total: Total) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """Three steps of a process on its share of the batch: what is remembered, last distance and gradient."""
    alignment = Alignment(kind, 2, (1, 2), 0.9, 8, total, is_first=rank == 0, seed=3)  # type: ignore[arg-type]
    labels = classes(2, 4, 8, 8).chunk(processes)[rank]
    labels[:, :4, :4] = 0
    doubted = torch.tensor([True, False, True, False]).chunk(processes)[rank]
    for step in range(3):
        features = normal(4, 3, 8, 8, seed=step) + step
        features[::2] += 2
        features = features.chunk(processes)[rank].clone().requires_grad_()
        alignment.remember(features, labels, ~doubted)
        distance = alignment.distance(features, labels, doubted)
        distance.backward()
        alignment.stepped()
    assert features.grad is not None
    return alignment.state_dict(), distance.detach(), features.grad


def in_process(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.TCPStore("127.0.0.1", port), rank=rank, world_size=PROCESSES)
    kinds = ("w2", "mmd", "adversarial")
    torch.save([steps_of(k, rank, PROCESSES, summed_over_processes) for k in kinds], f"{folder}/{rank}.pt")
    dist.barrier()  # none leaves while the other still talks to it
    dist.destroy_process_group()


def test_two_processes_remember_alike_and_have_the_distance_of_one(tmp_path: Path) -> None:
    # Held by this process, so that it outlives both.
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn(in_process, (str(tmp_path), meeting.port), nprocs=PROCESSES)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES))
    for (held, *_), (same, *_) in zip(first, second, strict=True):
        assert held.keys() == same.keys()
        assert all(torch.equal(held[name], same[name]) for name in held)
    assert any(name.startswith("discriminator") for name in first[2][0])
    held, distance, gradient = steps_of("w2", 0, 1, in_this_process)
    for share, (there, found, own) in enumerate((first[0], second[0])):
        torch.testing.assert_close(there, held)
        torch.testing.assert_close(found, distance)
        # That of the loss of all, times the processes over which DDP takes the mean.
        torch.testing.assert_close(own / PROCESSES, gradient.chunk(PROCESSES)[share])


def test_what_is_trusted_is_remembered_without_a_gradient_and_the_first_step_counts_whole() -> None:
    alignment = Alignment("w2", 2, (1,), 0.9, 8, in_this_process, True, 0)
    labels, trusted = classes(2, 2, 8, 8), torch.tensor([True, False])
    features = normal(2, 3, 8, 8).requires_grad_()
    alignment.remember(features, labels, trusted)
    assert alignment.distance(features, labels, ~trusted) == 0  # nothing is remembered yet
    alignment.stepped()
    first = alignment.state_dict()["mean"][0].clone()
    torch.testing.assert_close(first[1], features.detach()[0].movedim(0, -1)[labels[0] == 1].mean(dim=0))
    alignment.remember(features + 1, labels, trusted)
    alignment.stepped()
    torch.testing.assert_close(alignment.state_dict()["mean"][0], first + 0.1)
    alignment.distance(features, labels, ~trusted).backward()
    assert features.grad is not None
    assert (features.grad[0] == 0).all()
    assert (features.grad[1] != 0).any()


def test_a_class_with_too_few_pixels_is_left_out() -> None:
    alignment = Alignment("w2", 2, (1,), 0.9, 16, in_this_process, True, 0)
    labels, trusted = torch.zeros(2, 8, 8, dtype=torch.long), torch.tensor([True, False])
    labels[0, :4], labels[1, 0] = 1, 1  # 8 of the doubted one
    features = normal(2, 3, 8, 8)
    alignment.remember(features, labels, trusted)
    alignment.stepped()
    whole = float(alignment.distance(features, labels, ~trusted))
    features[1, :, 0] += 100
    assert float(alignment.distance(features, labels, ~trusted)) == whole > 0


@pytest.mark.parametrize("kind", ["w2", "mmd", "adversarial"])
def test_half_precision_maps_whose_sum_is_beyond_their_range_are_drawn_nowhere_by_nothing(kind: str) -> None:
    alignment = Alignment(kind, 2, (1,), 0.9, 8, in_this_process, True, 0)  # type: ignore[arg-type]
    labels = classes(2, 2, 64, 64)
    features = torch.full((2, 16, 64, 64), 4.0, dtype=torch.half, requires_grad=True)
    assert features.sum().isinf()
    for doubted in (torch.tensor([False, True]), torch.tensor([False, False])):
        distance = alignment.distance(features, labels, doubted)
        assert distance == 0
        distance.backward()
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("kind", ["w2", "mmd", "adversarial"])
def test_what_an_abandoned_try_showed_is_not_remembered(kind: str) -> None:
    once, again = (Alignment(kind, 2, (1,), 0.9, 8, in_this_process, True, 0) for _ in range(2))  # type: ignore[arg-type]
    labels, trusted = classes(2, 2, 16, 16), torch.tensor([True, False])
    features = normal(2, 3, 16, 16)
    for alignment in (once, again):
        for _ in range(2):
            if alignment is again:
                alignment.remember(features + 1, labels, ~trusted)
                alignment.distance(features + 1, labels, trusted)
                alignment.abandoned()
            alignment.remember(features, labels, trusted)
            alignment.distance(features, labels, ~trusted)
            alignment.stepped()
    states = once.state_dict(), again.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
