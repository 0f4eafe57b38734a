"""When memory runs out: what counts as that, the largest batch that fits, and a batch in parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_prosma.data.fingerprint import BATCH_LIMITS
from napari_prosma.model.memory import ROOMY, largest_batch, ran_out_of_memory


def test_memory_that_runs_out_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert ran_out_of_memory(caught.value)
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert ran_out_of_memory(MemoryError())
    assert not ran_out_of_memory(RuntimeError("shapes do not match"))
    assert not ran_out_of_memory(KeyError("x"))


@given(start=st.integers(1, 40), room=st.integers(1, 100))
def test_the_batch_found_fits_and_twice_as_many_would_not_or_need_not(start: int, room: int) -> None:
    asked = []

    def share(size: int) -> float | None:
        asked.append(size)
        return size / room if size <= room else None

    least, most = BATCH_LIMITS
    found = largest_batch(min(start, most), share)
    assert least <= found <= most
    if found > least:
        assert found <= room
    if 2 * found <= min(room, most):
        assert found / room >= ROOMY
    assert len(asked) <= 8
