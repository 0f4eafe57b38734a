"""The gate's arithmetic as it is done fastest; ``nn.gates`` says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_REFERENCE = ContextVar("reference", default=False)


@contextmanager
def reference() -> Iterator[None]:
    """Within it every gate computes as it is written in ``nn.gates``, by the operations of the paper.

    What was computed forward within it is also differentiated so.
    """
    token = _REFERENCE.set(True)
    try:
        yield
    finally:
        _REFERENCE.reset(token)
