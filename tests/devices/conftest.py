"""Runs on a device that is not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pretended import pretended

from napari_prosma.training import statistics
from napari_prosma.training.pace import operations


@pytest.fixture(params=["cuda", "mps"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A pretended device; every operation on it is slow, so few patches settle the norms."""
    monkeypatch.setattr(statistics, "PATCHES", (1, 4))
    with pretended(request.param) as where:
        yield where
    operations.cache_clear()  # what was counted there took the fast way of a processor
