"""One list of cases for every kernel implementation: the tests run it, the benchmark times it.

A case makes its inputs from a fixed seed, computes the reference and one implementation, and states the bound
between them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import activations, attention, gelu, launch, layer_norm, logits, matmul, norm, pool, rope, swiglu
from .formats import BLOCK, Floats, Format
from .gang import Gang
from .packed import PackedMatrix


@dataclass(frozen=True, slots=True)
class Case:
    """`name` says kernel, format and shape. `bound` is the largest allowed absolute difference."""

    name: str
    reference: Callable[[], Floats]
    implementation: Callable[[Gang | None], Floats]
    bound: float

    def worst(self, gang: Gang | None = None) -> float:
        """The largest difference between the implementation and the reference (inf if one has a NaN)."""
        difference = np.abs(self.implementation(gang) - self.reference())
        return float("inf") if np.isnan(difference).any() else float(difference.max())


def cases() -> Iterator[Case]:
    """All cases; inputs are made when a case is made."""
    rng = np.random.default_rng(20260101)

    def normal(*shape: int) -> Floats:
        return rng.standard_normal(shape, dtype=np.float32)

    shapes = [(1, 1, 1), (16, 2, 3), (33, 3, 4), (192, 18, 1), (80, 7, 5), (40, 5, 9)]  # rows, blocks, T
    for form in Format.known.values():
        for rows, blocks, count in shapes:
            columns = blocks * max(form.unit, BLOCK)
            w, x = PackedMatrix.from_float(form, normal(rows, columns)), normal(count, columns)
            name = f"matmul {form.name} {rows}x{columns} T={count}"
            yield _case(name, matmul.reference, launch.matmul, (w, x), matmul.error_bound(w, x))
        blank, x = PackedMatrix.from_float(form, np.zeros((20, 512), np.float32)), normal(2, 512)
        yield _case(f"matmul {form.name} of zeros", matmul.reference, launch.matmul, (blank, x), 0.0)
    for count, columns in [(1, 32), (3, 576), (2, 4096)]:
        x, weight = normal(count, columns) * 3, normal(columns)
        bound = norm.error_bound(x, weight)
        yield _case(
            f"rms_norm T={count} K={columns}", norm.reference, launch.rms_norm, (x, weight, 1e-5), bound
        )
        gate, up = normal(count, columns) * 5, normal(count, columns)
        bound = swiglu.error_bound(gate, up)
        yield _case(f"swiglu T={count} K={columns}", swiglu.reference, launch.swiglu, (gate, up), bound)
        bound = float(np.abs(x).max()) / 127 * 1.01  # a tie may round the other way: one step
        yield Case(
            f"quantize_activations T={count} K={columns}",
            partial(activations.dequantized_reference, x),
            partial(_quantize_and_back, x),
            bound,
        )
    extreme = np.array([[-1e30, -100, -88, -1, 0, 1, 88, 1e30] * 4], np.float32)
    ones = np.ones_like(extreme)
    bound = swiglu.error_bound(extreme, ones)
    yield _case("swiglu of extremes", swiglu.reference, launch.swiglu, (extreme, ones), bound)
    for halves in (False, True):
        for count, heads, size, width in [(1, 1, 32, 32), (5, 3, 64, 64), (70, 2, 96, 32)]:
            x, turns = normal(count, heads, size), rope.table(count, width, 10000.0)
            kind = "halves" if halves else "interleaved"
            name = f"rope {kind} T={count} heads={heads} size={size} width={width}"
            reference, implementation = (partial(f, halves=halves) for f in (rope.reference, launch.rope))
            yield _case(name, reference, implementation, (x, turns), rope.error_bound(x))
    for count, heads, kv_heads, size in [(1, 1, 1, 32), (17, 9, 3, 64), (130, 4, 2, 96), (65, 2, 1, 128)]:
        q, k, v = normal(count, heads, size), normal(count, kv_heads, size), normal(count, kv_heads, size)
        k, v = (a.astype(np.float16).astype(np.float32) for a in (k, v))  # as the cache stores them
        name = f"attention T={count} heads={heads}/{kv_heads} size={size}"
        bound = attention.error_bound(q, k, v)
        yield _case(name, attention.causal_reference, launch.attention, (q, k, v), bound)
        name = f"attention_whole T={count} heads={heads}/{kv_heads} size={size}"
        yield _case(name, attention.whole_reference, launch.attention_whole, (q, k, v), bound)
    for count, vocabulary in [(1, 16), (2, 1000), (1, 49152)]:
        x = normal(count, vocabulary) * 8
        name = f"best_and_log_sum T={count} vocabulary={vocabulary}"
        yield Case(name, partial(_both, logits.reference, x), partial(_both_on, x), logits.error_bound(x))
    yield from _of_encoders(normal)


def _of_encoders(normal: Callable[..., Floats]) -> Iterator[Case]:
    for count, columns in [(1, 32), (3, 384), (2, 4096)]:
        x, weight, bias = normal(count, columns) * 3 + 1, normal(columns), normal(columns)
        for shift in normal(columns), normal(count, columns):
            name = f"layer_norm T={count} K={columns} shift of {shift.ndim}"
            bound = layer_norm.error_bound(x, shift, weight, bias, 1e-12)
            args = (x, shift, weight, bias, 1e-12)
            yield _case(name, layer_norm.reference, launch.layer_norm, args, bound)
        name, bound = f"gelu T={count} K={columns}", gelu.error_bound(x, bias)
        yield _case(name, gelu.reference, launch.gelu, (x, bias), bound)
    blank = np.zeros((1, 32), np.float32)
    extreme = np.array([[-1e30, -100, -88, -1, 0, 1, 88, 1e30] * 4], np.float32)
    bound = gelu.error_bound(extreme, blank[0])
    yield _case("gelu of extremes", gelu.reference, launch.gelu, (extreme, blank[0]), bound)
    yield _case("gelu of zeros", gelu.reference, launch.gelu, (blank, blank[0]), 0.0)
    for columns, spans in [(32, [(0, 1)]), (384, [(0, 7), (7, 1), (8, 20)]), (1024, [(0, 300)])]:
        x = normal(sum(spans[-1]), columns) + 1
        name, bound = f"pool K={columns} texts={len(spans)}", pool.error_bound(x, spans)
        yield _case(name, pool.reference, launch.pool, (x, spans), bound)


def _case(name: str, reference: Any, implementation: Any, args: tuple[Any, ...], bound: float) -> Case:
    return Case(name, lambda: reference(*args), lambda gang: implementation(*args, gang=gang), bound)


def _quantize_and_back(x: Floats, gang: Gang | None) -> Floats:
    q, scale = launch.quantize_activations(x)
    return q.astype(np.float32) * np.repeat(scale, BLOCK, axis=1)


def _both(summarize: Callable[[Floats], tuple[Any, Floats]], x: Floats) -> Floats:
    best, log_sum = summarize(x)
    return np.stack([best.astype(np.float32), log_sum])


def _both_on(x: Floats, gang: Gang | None) -> Floats:
    return _both(partial(launch.best_and_log_sum, gang=gang), x)
