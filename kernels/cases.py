"""One list of cases for every kernel implementation: the tests run it, the benchmark times it.

A case makes its inputs from a fixed seed, computes the reference and one implementation, and states the bound
between them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from . import (
    activations,
    attention,
    bias,
    embed,
    gated,
    gelu,
    launch,
    layer_norm,
    logits,
    matmul,
    norm,
    pool,
    rope,
)
from .formats import BLOCK, Floats, Format
from .gated import Activation
from .kv import round_reference
from .launch import On
from .packed import PackedMatrix


@dataclass(frozen=True, slots=True)
class Case:
    """`name` says kernel, format and shape. `bound` is the largest allowed absolute difference."""

    name: str
    reference: Callable[[], Floats]
    implementation: Callable[[On], Floats]
    bound: float
    needs: str = ""
    """What it needs beyond a decoder with a float16 cache: "an encoder", "an int8 cache"."""

    def worst(self, on: On = None) -> float:
        """The largest difference between the implementation and the reference (inf if one has a NaN)."""
        difference = np.abs(self.implementation(on) - self.reference())
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
        w = PackedMatrix.from_float(form, normal(20, 512))
        for scale, tokens in [(1.0, [0, 19, 7]), (33.94, [3])]:
            args = (w, np.array(tokens, np.int32), scale)
            name = f"embed {form.name} 20x512 T={len(tokens)} scale={scale}"
            yield _case(name, embed.reference, launch.embed, args, embed.error_bound(w, scale))
    for count, columns in [(1, 32), (3, 576), (2, 4096)]:
        x, weight = normal(count, columns) * 3, normal(columns)
        bound = norm.error_bound(x, weight)
        yield _case(
            f"rms_norm T={count} K={columns}", norm.reference, launch.rms_norm, (x, weight, 1e-5), bound
        )
        to = normal(count, columns)
        yield Case(
            f"rms_norm added T={count} K={columns}",
            partial(_added_norm, x, weight, to),
            partial(_added_norm_on, x, weight, to),
            bound + float(np.abs(to).max()) * float(np.finfo(np.float32).eps),
        )
        bound = bias.error_bound(x, weight)
        yield _case(f"add_bias T={count} K={columns}", bias.reference, launch.add_bias, (x, weight), bound)
        gate, up = normal(count, columns) * 5, normal(count, columns)
        for activation in Activation:
            name = f"gated {activation.name} T={count} K={columns}"
            yield _gated_case(name, gate, up, activation)
        bound = float(np.abs(x).max()) / 127 * 1.01  # a tie may round the other way: one step
        yield Case(
            f"quantize_activations T={count} K={columns}",
            partial(activations.dequantized_reference, x),
            partial(_quantize_and_back, x),
            bound,
        )
    extreme = np.array([[-1e30, -100, -88, -1, 0, 1, 88, 1e30] * 4], np.float32)
    ones = np.ones_like(extreme)
    for activation in Activation:
        yield _gated_case(f"gated {activation.name} of extremes", extreme, ones, activation)
    x, values = normal(3, 40), normal(40)
    yield _case(
        "add_bias T=3 K=40", bias.reference, launch.add_bias, (x, values), bias.error_bound(x, values)
    )
    for halves in (False, True):
        for count, heads, size, width in [(1, 1, 32, 32), (5, 3, 64, 64), (70, 2, 96, 32)]:
            x, turns = normal(count, heads, size), rope.table(count, width, 10000.0)
            kind = "halves" if halves else "interleaved"
            name = f"rope {kind} T={count} heads={heads} size={size} width={width}"
            reference, implementation = (partial(f, halves=halves) for f in (rope.reference, launch.rope))
            yield _case(name, reference, implementation, (x, turns), rope.error_bound(x))
            weight = normal(size)
            normed = norm.reference(x, weight, 1e-6)
            yield Case(
                f"normed {name}",
                partial(rope.reference, normed, turns, halves=halves),
                partial(_normed_rope, x, turns, halves, weight),
                rope.error_bound(normed) + 2 * norm.error_bound(x, weight),
            )
    for count, heads, kv_heads, size in [
        (1, 1, 1, 32),
        (17, 9, 3, 64),
        (130, 4, 2, 96),
        (65, 2, 1, 128),
        (70, 2, 1, 256),
        (300, 7, 1, 32),
    ]:
        q, k, v = normal(count, heads, size), normal(count, kv_heads, size), normal(count, kv_heads, size)
        for bits in (16, 8):
            kv = tuple(round_reference(a, bits) for a in (k, v))  # as the cache stores them
            name = f"attention T={count} heads={heads}/{kv_heads} size={size} bits={bits}"
            attend = partial(launch.attention, bits=bits)
            needs = "an int8 cache" if bits == 8 else ""
            bound = attention.error_bound(q, *kv)
            yield _case(name, attention.causal_reference, attend, (q, *kv), bound, needs)
            for window, scale in [(1, 0.1), (16, 0.05), (50, 0.2), (1000, 0.1)]:
                reference, implementation = (
                    partial(f, window=window, scale=scale) for f in (attention.causal_reference, attend)
                )
                bound = attention.error_bound(q, *kv, scale=scale)
                yield _case(f"{name} window={window}", reference, implementation, (q, *kv), bound, needs)
    for count, vocabulary in [(1, 16), (2, 1000), (1, 49152)]:
        x = normal(count, vocabulary) * 8
        name = f"best_and_log_sum T={count} vocabulary={vocabulary}"
        yield Case(name, partial(_both, logits.reference, x), partial(_both_on, x), logits.error_bound(x))
    for case in _of_encoders(normal):
        yield replace(case, needs="an encoder")


def _of_encoders(normal: Callable[..., Floats]) -> Iterator[Case]:
    for count, columns in [(1, 32), (3, 384), (2, 4096)]:
        x, weight, added = normal(count, columns) * 3 + 1, normal(columns), normal(columns)
        for shift in normal(columns), normal(count, columns):
            name = f"layer_norm T={count} K={columns} shift of {shift.ndim}"
            bound = layer_norm.error_bound(x, shift, weight, added, 1e-12)
            args = (x, shift, weight, added, 1e-12)
            yield _case(name, layer_norm.reference, launch.layer_norm, args, bound)
        name, bound = f"gelu T={count} K={columns}", gelu.error_bound(x, added)
        yield _case(name, gelu.reference, launch.gelu, (x, added), bound)
    blank = np.zeros((1, 32), np.float32)
    extreme = np.array([[-1e30, -100, -88, -1, 0, 1, 88, 1e30] * 4], np.float32)
    bound = gelu.error_bound(extreme, blank[0])
    yield _case("gelu of extremes", gelu.reference, launch.gelu, (extreme, blank[0]), bound)
    yield _case("gelu of zeros", gelu.reference, launch.gelu, (blank, blank[0]), 0.0)
    for columns, spans in [(32, [(0, 1)]), (384, [(0, 7), (7, 1), (8, 20)]), (1024, [(0, 300)])]:
        x = normal(sum(spans[-1]), columns) + 1
        name, bound = f"pool K={columns} texts={len(spans)}", pool.error_bound(x, spans)
        yield _case(name, pool.reference, launch.pool, (x, spans), bound)
    for count, heads, kv_heads, size in [(1, 1, 1, 32), (17, 9, 3, 64), (130, 12, 12, 32)]:
        q, k, v = normal(count, heads, size), normal(count, kv_heads, size), normal(count, kv_heads, size)
        k, v = (round_reference(a, 16) for a in (k, v))
        name, bound = f"attention_whole T={count} heads={heads}/{kv_heads}", attention.error_bound(q, k, v)
        yield _case(name, attention.whole_reference, launch.attention_whole, (q, k, v), bound)


def _case(
    name: str, reference: Any, implementation: Any, args: tuple[Any, ...], bound: float, needs: str = ""
) -> Case:
    return Case(name, lambda: reference(*args), lambda on: implementation(*args, on=on), bound, needs)


def _gated_case(name: str, gate: Floats, up: Floats, activation: Activation) -> Case:
    reference, implementation = (partial(f, activation=activation) for f in (gated.reference, launch.gated))
    return _case(name, reference, implementation, (gate, up), gated.error_bound(gate, up))


def _added_norm(x: Floats, weight: Floats, to: Floats) -> Floats:
    return to + norm.reference(x, weight, 1e-5)


def _added_norm_on(x: Floats, weight: Floats, to: Floats, on: On) -> Floats:
    return launch.rms_norm(x, weight, 1e-5, to=to, on=on)


def _normed_rope(x: Floats, turns: Floats, halves: bool, weight: Floats, on: On) -> Floats:
    return launch.rope(x, turns, halves=halves, weight=weight, eps=1e-6, on=on)


def _quantize_and_back(x: Floats, on: On) -> Floats:
    q, scale = launch.quantize_activations(x, on=on)
    return q.astype(np.float32) * np.repeat(scale, BLOCK, axis=1)


def _both(summarize: Callable[[Floats], tuple[Any, Floats]], x: Floats) -> Floats:
    best, log_sum = summarize(x)
    return np.stack([best.astype(np.float32), log_sum])


def _both_on(x: Floats, on: On) -> Floats:
    return _both(partial(launch.best_and_log_sum, on=on), x)
