"""Several processes with a share of the batch each learn what one with the whole batch learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from napari_prosma.data.labels import IGNORE
from napari_prosma.training.losses import dice_cross_entropy, summed_over_processes

PROCESSES = 2
WEIGHTS = {1: torch.tensor([0.5, 1.5]), 3: torch.tensor([0.3, 1.0, 1.7])}


def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, channels, 1))


def whole_batch(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four patches of which the second half holds less foreground and less that is labelled."""
    torch.manual_seed(1)
    images, labels = torch.randn(4, 1, 8, 8), torch.randint(0, max(2, channels), (4, 1, 8, 8))
    labels[2:, :, :6] = 0
    labels[3, :, 2:] = IGNORE
    return images, labels


def learn(rank: int, folder: str, port: int) -> None:
    """Loss and gradients of one process on its share, for one and for three channels."""
    torch.set_num_threads(1)
    meeting = dist.TCPStore("127.0.0.1", port)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=PROCESSES)
    kept = {}
    for channels, weights in WEIGHTS.items():
        images, labels = (whole.chunk(PROCESSES)[rank] for whole in whole_batch(channels))
        model = DistributedDataParallel(network(channels))
        loss = dice_cross_entropy(channels, weights, summed_over_processes)(model(images), labels)
        loss.backward()
        kept[channels] = [loss.detach(), *(parameter.grad for parameter in model.module.parameters())]
    torch.save(kept, f"{folder}/{rank}.pt")
    dist.barrier()  # none leaves while the other still talks to it
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, list[torch.Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    # Held by this process, so that it outlives both: a file that the last of them removes can go too early.
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn(learn, (str(folder), meeting.port), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("channels", [1, 3])
def test_two_processes_have_the_loss_and_gradient_of_one(channels: int, shares: list) -> None:
    model = network(channels)
    images, labels = whole_batch(channels)
    loss = dice_cross_entropy(channels, WEIGHTS[channels])(model(images), labels)
    loss.backward()
    alone = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    for share in shares:
        for here, expected in zip(share[channels], alone, strict=True):
            torch.testing.assert_close(here, expected, rtol=1e-5, atol=1e-7)


def test_one_process_keeps_its_sums() -> None:
    sums = torch.randn(3, requires_grad=True)
    assert summed_over_processes(sums) is sums
