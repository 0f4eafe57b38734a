"""The end of a gate as one kernel gives what the operations of the paper give, in value and in gradient.

Here Triton's interpreter computes it, on a machine with CUDA the device. Double precision leaves only another
order of the sums (and, in ``prosma-exact``, a series cut off 1e-10 away), so that no wrong term can hide. In
single and half precision each number may be off by its own rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from napari_prosma.nn.build import build_model, fuse
from napari_prosma.nn.fast import forward as fast
from napari_prosma.nn.fast.forward import reference
from napari_prosma.nn.gates import Gate, GateTrace, make_gate
from napari_prosma.nn.prox import soft_threshold
from napari_prosma.nn.spec import ModelSpec

tail = pytest.importorskip("napari_prosma.nn.fast.tail", reason="needs Triton", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOSE = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-10},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    # Of a number of its size 1, half of the last digit; sums of gradients are rounded once more.
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1.6e-2},
}


class Given(NamedTuple):
    """What ``tail.joined`` takes."""

    skip: Tensor
    gating: Tensor
    c: Tensor | None
    field: Tensor
    threshold: Tensor | None
    weight: Tensor
    bias: Tensor | None

    def learn(self) -> Given:
        return Given(*(None if t is None else t.detach().requires_grad_() for t in self))


def given(
    size: Sequence[int] = (7, 9),
    channels: tuple[int, int, int] = (5, 3, 6),
    kind: torch.dtype = torch.float64,
    lacks: str = "",
) -> Given:
    """Noise; ``lacks`` names what is None, ``channels`` are those of x, t and u."""
    made = torch.Generator().manual_seed(sum(size))

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made, dtype=torch.float64).to(DEVICE)

    x, t, a = channels
    found = Given(
        skip=noise(2, x, *size).to(kind),
        gating=noise(2, t, *size).to(kind),
        c=noise(2, x).sigmoid().to(kind),
        field=noise(2, a, *size).to(kind),
        threshold=noise(a).abs() * 0.7,
        weight=noise(a).abs() / a,
        bias=noise(1),
    )
    own = torch.float64 if kind == torch.float64 else torch.float32
    single = {name: getattr(found, name).to(own) for name in ("threshold", "weight", "bias")}
    return found._replace(**{**single, **dict.fromkeys(lacks.split())})


def as_written(g: Given) -> Tensor:
    """``[x c psi, t]`` by plain operations, in at least single precision."""
    spread = [1] * (g.field.ndim - 2)
    own = torch.float64 if g.field.dtype == torch.float64 else torch.float32
    u = g.field.to(own)
    z = u if g.threshold is None else soft_threshold(u, g.threshold)
    weight = g.weight.view(1, -1, *spread)
    if g.bias is None:
        psi = -torch.expm1(-(weight * z.abs()).sum(dim=1, keepdim=True))
    else:
        psi = torch.sigmoid((weight * z).sum(dim=1, keepdim=True) + g.bias)
    c = 1 if g.c is None else g.c.to(own).view(*g.c.shape, *spread)
    return torch.cat([(g.skip.to(own) * c * psi).to(g.skip.dtype), g.gating], dim=1)


def in_one(g: Given) -> Tensor:
    return tail.joined(*g)[0]


def with_gradients(joined: Callable[[Given], Tensor], g: Given) -> list[Tensor]:
    """What it gives and the gradients of all that it is given, for a gradient that differs everywhere."""
    g = g.learn()
    both = joined(g)
    along = torch.linspace(-1, 1, both.numel(), dtype=both.dtype, device=both.device).view_as(both)
    learning = [t for t in g if t is not None]
    return [both.detach(), *torch.autograd.grad(both, learning, along)]


def assert_same(g: Given) -> None:
    for one, other in zip(with_gradients(in_one, g), with_gradients(as_written, g), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **CLOSE[g.field.dtype])


LACKS = ["", "c", "threshold", "bias", "c threshold", "c bias", "threshold bias"]


@pytest.mark.parametrize("lacks", LACKS)
@pytest.mark.parametrize("size", [(7, 9), (1, 1), (16, 24), (3, 5, 7)], ids=str)
def test_all_parts_and_sizes_as_written(size: tuple[int, ...], lacks: str) -> None:
    assert_same(given(size, lacks=lacks))


@pytest.mark.parametrize("channels", [(1, 1, 1), (33, 2, 8), (4, 40, 70), (64, 64, 32)], ids=str)
@pytest.mark.parametrize("lacks", ["", "bias"])
def test_one_channel_and_many(channels: tuple[int, int, int], lacks: str) -> None:
    """More than are read at a time, and numbers that are no power of 2."""
    assert_same(given((6, 5), channels, lacks=lacks))


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lacks", ["", "threshold", "bias"])
def test_every_type(kind: torch.dtype, lacks: str) -> None:
    assert_same(given((9, 11), kind=kind, lacks=lacks))


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=fast.LAST[x.ndim])


def turned(x: Tensor) -> Tensor:
    """The same numbers, the last two axes the other way round in memory."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def cut(x: Tensor) -> Tensor:
    """The same numbers within a larger block of memory, every second position of it."""
    room = x.new_zeros(*(2 * n + 1 for n in x.shape))
    at = tuple(slice(1, None, 2) for _ in x.shape)
    room[at] = x
    return room[at]


@pytest.mark.parametrize("laid", [last, turned, cut])
@pytest.mark.parametrize("size", [(7, 9), (3, 5, 7)], ids=str)
@pytest.mark.parametrize("which", ["skip", "field", "all"])
def test_every_memory_layout(laid: Callable[[Tensor], Tensor], size: tuple[int, ...], which: str) -> None:
    g = given(size)
    names = ("skip", "gating", "field") if which == "all" else (which,)
    strided = g._replace(**{name: laid(getattr(g, name)) for name in names})
    if which == "all":
        strided = strided._replace(c=cut(strided.c))
    for one, other in zip(with_gradients(in_one, strided), with_gradients(as_written, g), strict=True):
        torch.testing.assert_close(one, other, **CLOSE[torch.float64])


def test_the_result_lies_as_the_skip_does() -> None:
    assert in_one(given()).is_contiguous()
    g = given()
    both = in_one(g._replace(skip=last(g.skip)))
    assert both.is_contiguous(memory_format=torch.channels_last)


def test_a_gradient_that_lies_otherwise() -> None:
    """As where the decoder's convolution gives one that is channels-last, or expanded from one number."""
    g = given().learn()
    both = in_one(g)
    learning = [t for t in g if t is not None]
    ones = torch.ones_like(both)
    expected = torch.autograd.grad(both, learning, ones, retain_graph=True)
    for gradient in (last(ones), ones[:1, :1, :1, :1].expand_as(both)):
        found = torch.autograd.grad(both, learning, gradient, retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("lacks", ["", "c", "bias", "threshold"])
def test_gradients_are_those_of_finite_differences(lacks: str) -> None:
    g = given((2, 3), (2, 1, 3), lacks=lacks).learn()
    present = [name for name in Given._fields if getattr(g, name) is not None]

    def joined(*values: Tensor) -> Tensor:
        return in_one(g._replace(**dict(zip(present, values, strict=True))))

    assert torch.autograd.gradcheck(joined, [getattr(g, name) for name in present], fast_mode=True)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lacks", ["", "bias"])
def test_zeros_are_exact_up_to_the_threshold_itself(kind: torch.dtype, lacks: str) -> None:
    """All of u lies within lambda, some of it on it: psi is the floor, nothing but the bias learns."""
    g = given(kind=kind, lacks=lacks)
    bound = torch.full_like(g.threshold, 0.5)
    within = g._replace(field=g.field.clamp(-0.5, 0.5), threshold=bound).learn()
    within.field.data[:, 0] = 0.5
    within.field.data[:, 1] = -0.5
    both, psi = tail.joined(*within)
    floor = 0.0 if within.bias is None else float(torch.sigmoid(within.bias.detach().double()))
    assert psi.unique().numel() == 1
    assert float(psi.unique()) == pytest.approx(floor, rel=1e-6, abs=0)
    both.sum().backward()
    for still in (within.field, within.weight, within.threshold):
        assert (still.grad == 0).all()


def test_a_large_sum_does_not_overflow() -> None:
    g = given(kind=torch.float32)
    for bias in (-300.0, 300.0):
        found = with_gradients(in_one, g._replace(bias=torch.full((1,), bias, device=DEVICE)))
        assert all(torch.isfinite(each).all() for each in found)


def test_a_small_sum_keeps_its_digits() -> None:
    g = given(kind=torch.float32, lacks="bias c threshold")
    g = g._replace(weight=1e-7 * g.weight)
    psi = tail.joined(*g)[1]
    expected = -torch.expm1(-(g.weight.view(1, -1, 1, 1) * g.field.abs()).sum(dim=1, keepdim=True))
    torch.testing.assert_close(psi, expected, rtol=1e-5, atol=0)


def test_two_passes_give_the_same_bits() -> None:
    g = given((17, 19), kind=torch.float32)
    for one, other in zip(with_gradients(in_one, g), with_gradients(in_one, g), strict=True):
        assert torch.equal(one, other)


# ---- gates and networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prosma", "spatial", "dense", "prosma-exact"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_fused_gate_computes_and_shows_the_same(
    settled_gate: Callable[..., tuple[Gate, Tensor, Tensor]], name: str, dims: int
) -> None:
    gate, skip, gating = settled_gate(name, dims)
    with reference():
        plain, trace = gate(skip, gating), GateTrace()
        gate(skip, gating, trace)
    assert fuse(gate)
    fused = GateTrace()
    torch.testing.assert_close(gate(skip, gating, fused), plain, **CLOSE[torch.float64])
    torch.testing.assert_close(fused.skips[1].psi, trace.skips[1].psi, **CLOSE[torch.float64])
    assert torch.equal(fused.skips[1].z == 0, trace.skips[1].z == 0)
    assert fused.skips[1].floor == trace.skips[1].floor


@pytest.mark.parametrize("name", ["none", "channel", "scale", "attention"])
def test_a_gate_without_such_an_end_stays_as_it_is(name: str) -> None:
    assert not fuse(make_gate(name, 6, 7, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_fused_network_learns_the_same(dims: int) -> None:
    torch.manual_seed(0)
    network = build_model(ModelSpec(dims, 1, 2, (4, 6, 8))).to(DEVICE, torch.float64)
    image = torch.randn(2, 1, *{2: (16, 24), 3: (8, 8, 12)}[dims], dtype=torch.float64, device=DEVICE)

    def gradients() -> list[Tensor]:
        network.zero_grad()
        network(image).square().mean().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    with reference():
        plain = gradients()
    fuse(network)
    for one, other in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_a_fused_network_learns_under_autocast() -> None:
    torch.manual_seed(0)
    network = build_model(ModelSpec(2, 1, 1, (4, 6, 8))).to(DEVICE)
    fuse(network)
    with torch.autocast(DEVICE, torch.bfloat16):
        logits = network(torch.randn(2, 1, 16, 16, device=DEVICE))
    logits.float().square().mean().backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    assert found
    assert all(torch.isfinite(gradient).all() for gradient in found)


@pytest.mark.skipif(DEVICE == "cuda", reason="the processor's turn")
def test_without_a_device_or_an_interpreter_gates_compute_as_they_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(tail, "joined", None)
    network = build_model(ModelSpec(2, 1, 1, (4, 6, 8))).eval()
    fuse(network)
    assert network(torch.zeros(1, 1, 16, 16)).isfinite().all()


COMPILED = """
import triton.language as tl, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from napari_prosma.nn.fast import tail

HALF = {name: "*bf16" for name in ("u", "x", "c", "out", "given", "by_u", "by_x")}
OWN = ("bound", "weight", "bias", "psi", "sums_c", "sums_weight", "sums_bound", "sums_bias")
FIXED = dict(EXACT=False, THRESHOLD=True, CHANNEL=True, SUMS=tl.float32, SIDE=128, U_SIDE=32, X_SIDE=32)
KINDS = HALF | dict.fromkeys(OWN, "*fp32") | dict.fromkeys(FIXED, "constexpr")
for kernel in (tail._forward, tail._backward):
    signature = {name: KINDS.get(name, "i32") for name in kernel.arg_names}
    made = triton.compile(ASTSource(kernel, signature, FIXED), target=GPUTarget("cuda", 90, 32))
    print(len(made.asm["cubin"]))
"""


def test_the_kernels_compile_for_a_device_that_is_not_there() -> None:
    """The interpreter takes what a compiler refuses, such as types that change within a loop."""
    backends = pytest.importorskip("triton.backends").backends
    if "nvidia" not in backends:
        pytest.skip("Triton without NVIDIA's compiler")
    without = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [sys.executable, "-W", "ignore", "-c", COMPILED]
    done = subprocess.run(words, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
