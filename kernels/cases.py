"""One list of cases for every kernel implementation: the tests run it, the benchmark times it.

A case makes its inputs from a fixed seed, computes the reference and one implementation, and states the bound between them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import activations, attention, launch, logits, matmul, norm, rope, swiglu
from .formats import Floats, Format
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

    for form in Format.known.values():
        for rows, columns, count in [(1, 32, 1), (16, 64, 3), (33, 96, 4), (192, 576, 1), (576, 1536, 5), (40, 1024, 9)]:
            w, x = PackedMatrix.from_float(form, normal(rows, columns)), normal(count, columns)
            yield Case(f"matmul {form.name} {rows}x{columns} T={count}", *_of(matmul.reference, launch.matmul, w, x), matmul.error_bound(w, x))
    zeros = PackedMatrix.from_float(Format.known["Q4_1"], np.zeros((20, 64), np.float32))
    x = np.zeros((2, 64), np.float32)
    yield Case("matmul Q4_1 of zeros", *_of(matmul.reference, launch.matmul, zeros, x), 0.0)
    for count, columns in [(1, 32), (3, 576), (2, 4096)]:
        x, weight = normal(count, columns) * 3, normal(columns)
        yield Case(f"rms_norm T={count} K={columns}", *_of(norm.reference, launch.rms_norm, x, weight, 1e-5), norm.error_bound(x, weight))
        gate, up = normal(count, columns) * 5, normal(count, columns)
        yield Case(f"swiglu T={count} K={columns}", *_of(swiglu.reference, launch.swiglu, gate, up), swiglu.error_bound(gate, up))
        q, scale = activations.reference(x)
        yield Case(
            f"quantize_activations T={count} K={columns}",
            lambda x=x: activations.dequantized_reference(x),
            lambda gang, x=x: _dequantized(*launch.quantize_activations(x)),
            float(scale.max()) * 1.01,  # a tie may round the other way: one step
        )
    extreme = np.array([[-1e30, -100, -88, -1, 0, 1, 88, 1e30] * 4], np.float32)
    yield Case("swiglu extremes", *_of(swiglu.reference, launch.swiglu, extreme, np.ones_like(extreme)), 1e24)
    for halves in (False, True):
        for count, heads, size, width in [(1, 1, 32, 32), (5, 3, 64, 64), (70, 2, 96, 32)]:
            x, turns = normal(count, heads, size), rope.table(count, width, 10000.0)
            name = f"rope {'halves' if halves else 'interleaved'} T={count} heads={heads} size={size} width={width}"
            yield Case(
                name,
                lambda x=x, turns=turns, halves=halves: rope.reference(x, turns, halves=halves),
                lambda gang, x=x, turns=turns, halves=halves: launch.rope(x, turns, halves=halves, gang=gang),
                rope.error_bound(x),
            )
    for count, heads, kv_heads, size in [(1, 1, 1, 32), (17, 9, 3, 64), (130, 4, 2, 96), (65, 2, 1, 128)]:
        q, k, v = normal(count, heads, size), normal(count, kv_heads, size), normal(count, kv_heads, size)
        k, v = (a.astype(np.float16).astype(np.float32) for a in (k, v))  # as the cache stores them
        yield Case(
            f"attention T={count} heads={heads}/{kv_heads} size={size}",
            lambda q=q, k=k, v=v: attention.reference(q, k, v, np.arange(len(q))),
            lambda gang, q=q, k=k, v=v: launch.attention(q, k, v, gang=gang),
            attention.error_bound(q, k, v),
        )
    for count, vocabulary in [(1, 16), (2, 1000), (1, 49152)]:
        x = normal(count, vocabulary) * 8
        yield Case(
            f"best_and_log_sum T={count} vocabulary={vocabulary}",
            lambda x=x: np.stack(logits.reference(x)),
            lambda gang, x=x: np.stack(launch.best_and_log_sum(x, gang=gang)),
            logits.error_bound(x),
        )


def _of(reference: Callable[..., Floats], implementation: Callable[..., Floats], *args: Any) -> tuple[Any, Any]:
    return lambda: reference(*args), lambda gang: implementation(*args, gang=gang)


def _dequantized(q: Any, scale: Floats) -> Floats:
    return np.asarray(q.astype(np.float32) * np.repeat(scale, q.shape[1] // scale.shape[1], axis=1), np.float32)
