"""ONNX graphs of static shape, from the calls of a program.

Standard operators only (opset 21), which every provider may match against its own: weights are integers
behind `DequantizeLinear`, activations float32 or, with known ranges, integers between `QuantizeLinear` and
`DequantizeLinear`. A graph takes what its first call reads and nobody in it has written.

    hidden, cos…, sin…, mask…, past_k.L, past_v.L   →   hidden, k.L, v.L
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coro_rt.kernels.formats import BLOCK, Floats
from coro_rt.kernels.gated import Activation
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.requantized import Requantized, exact_in_int4, to_int4, to_int8

from .program import NpuMatrix, NpuProgram, Shape

OPSET, IR_VERSION = 21, 10

Form = Literal["auto", "int4", "int8", "float32"]
FORMS: tuple[Form, ...] = ("auto", "int4", "int8", "float32")


@dataclass(frozen=True, slots=True)
class Numbers:
    """How numbers are kept. `weights`: "auto" is int4 where that loses nothing, else int8 by row.

    `ranges`: of integer activations, the largest magnitude that each product reads, by its place among the
    program's calls; None: float32. `bits` of such an activation: 8 or 16. `observe`: give these magnitudes as
    outputs, to learn them.
    """

    weights: Form = "auto"
    ranges: Mapping[int, float] | None = None
    bits: int = 8
    observe: bool = False


@dataclass(slots=True)
class _Written:
    """A buffer's contents: pieces from column to column."""

    pieces: dict[int, str] = field(default_factory=dict)


class Graph:
    """Grows with each call; `model` finishes it."""

    def __init__(self, shape: Shape, numbers: Numbers) -> None:
        self._shape, self._numbers = shape, numbers
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        self._buffers: dict[Buffer, _Written] = {}
        self._queries: dict[int, str] = {}  # by layer: [KV heads, group * tokens, head size]
        self._cache: dict[int, tuple[str, str]] = {}  # keys and values of the chunk, as the cache gives them
        self._place = 0

    def add(self, program: NpuProgram, places: Iterable[int]) -> None:
        """Append calls of a program."""
        for self._place in places:
            call = program.calls[self._place]
            getattr(self, call.operation)(**call.args)

    def give(self, buffer: Buffer, columns: int | None = None) -> None:
        """Make what has been written into a buffer an output, with the buffer's name."""
        value = self._node("Identity", self._read(buffer, 0), out=buffer.name)
        self._output(value, TensorProto.FLOAT, [self._shape.tokens, columns])

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, "layers", list(self._inputs.values()), list(self._outputs.values()),
            list(self._constants.values()),
        )  # fmt: skip
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="coro_rt")

    # The operations, with the arguments that `NpuProgram` recorded.

    def norm(
        self, *, weight: Floats, eps: float, columns: int, source: Buffer, out: Buffer, qout: Buffer | None,
        add: bool,
    ) -> None:  # fmt: skip
        y = self._normed(self._read(source, columns), weight, eps)
        if add:
            y = self._node("Add", self._read(out, columns), y)
        self._write(y, out, qout)

    def matmul(self, *, weight: NpuMatrix, source: Buffer, out: Buffer, offset: int, add: bool) -> None:
        x = self._read(source, weight.columns)
        if self._numbers.observe:
            axes = self._ints([0, 1])
            seen = self._node("ReduceMax", self._node("Abs", x), axes, keepdims=0, out=f"range{self._place}")
            self._output(seen, TensorProto.FLOAT, [])
        if self._numbers.ranges is not None:
            x = self._through_integers(x, self._numbers.ranges[self._place])
        y = self._product(x, weight)
        if add:
            y = self._node("Add", self._read(out, weight.rows), y)
        if offset:
            self._buffers[out].pieces[offset] = y
        else:
            self._write(y, out)

    def bias(self, *, values: Floats, out: Buffer) -> None:
        self._write(self._node("Add", self._read(out, len(values)), self._floats(values)), out)

    def rope_kv(
        self, *, kv: KVShape, layer: int, heads: int, pairs: int, halves: bool, qkv: Buffer, table: int,
        norms: tuple[Floats, Floats] | None, eps: float,
    ) -> None:  # fmt: skip
        size, count = kv.head_size, self._shape.tokens
        row = self._read(qkv, (heads + 2 * kv.heads) * size)
        split = self._ints([heads * size, kv.heads * size, kv.heads * size])
        q, k, v = self._nodes_of("Split", 3, row, split, axis=1)
        q, k = self._reshape(q, count, heads, size), self._reshape(k, count, kv.heads, size)
        v = self._reshape(v, count, kv.heads, size)
        if norms is not None:
            q, k = self._normed(q, norms[0], eps), self._normed(k, norms[1], eps)
        turns = [
            self._reshape(self._input(f"{name}{table}", TensorProto.FLOAT, [count, pairs]), count, 1, pairs)
            for name in ("cos", "sin")
        ]
        q, k = (self._turned(x, n, size, pairs, turns, halves=halves) for x, n in ((q, heads), (k, kv.heads)))
        kept = []
        for name, value in (("k", k), ("v", v)):  # rounded as the cache rounds them, also for this chunk
            half = self._node("Cast", value, to=TensorProto.FLOAT16, out=f"{name}.{layer}")
            self._output(half, TensorProto.FLOAT16, [count, kv.heads, size])
            kept.append(half)
        self._cache[layer] = kept[0], kept[1]
        self._queries[layer] = q
        self._write(self._reshape(q, count, heads * size), qkv)

    def attend(
        self, *, kv: KVShape, layer: int, heads: int, out: Buffer, qout: Buffer | None, window: int,
        scale: float,
    ) -> None:  # fmt: skip
        shape, size, group = self._shape, kv.head_size, heads // kv.heads
        count, length = shape.tokens, shape.past + shape.tokens
        whole = []
        for name, value in zip(("past_k", "past_v"), self._cache[layer], strict=True):
            if shape.past:
                past = self._input(f"{name}.{layer}", TensorProto.FLOAT16, [shape.past, kv.heads, size])
                value = self._node("Concat", past, value, axis=0)
            whole.append(self._node("Cast", value, to=TensorProto.FLOAT))
        k = self._node("Transpose", whole[0], perm=[1, 2, 0])
        v = self._node("Transpose", whole[1], perm=[1, 0, 2])
        q = self._node("Mul", self._queries[layer], self._floats(np.array(scale, np.float32)))
        q = self._node("Transpose", self._reshape(q, count, kv.heads, group, size), perm=[1, 2, 0, 3])
        scores = self._node("MatMul", self._reshape(q, kv.heads, group * count, size), k)
        scores = self._reshape(scores, kv.heads, group, count, length)
        scores = self._node("Add", scores, self._input(f"mask{window}", TensorProto.FLOAT, [count, length]))
        weights = self._reshape(self._node("Softmax", scores, axis=-1), kv.heads, group * count, length)
        y = self._reshape(self._node("MatMul", weights, v), kv.heads, group, count, size)
        y = self._node("Transpose", y, perm=[2, 0, 1, 3])
        self._write(self._reshape(y, count, heads * size), out, qout)

    def gate(
        self, *, columns: int, gate_up: Buffer, out: Buffer, qout: Buffer | None, activation: Activation
    ) -> None:
        row = self._read(gate_up, 2 * columns)
        gate, up = self._nodes_of("Split", 2, row, self._ints([columns, columns]), axis=1)
        if activation is Activation.GELU:
            gate = self._node("Gelu", gate, approximate="tanh")
        else:
            gate = self._node("Mul", gate, self._node("Sigmoid", gate))
        self._write(self._node("Mul", gate, up), out, qout)

    # What they are made of.

    def _normed(self, x: str, weight: Floats, eps: float) -> str:
        mean = self._node("ReduceMean", self._node("Mul", x, x), self._ints([-1]), keepdims=1)
        root = self._node("Sqrt", self._node("Add", mean, self._floats(np.array(eps, np.float32))))
        return self._node("Mul", self._node("Div", x, root), self._floats(weight))

    def _turned(self, x: str, heads: int, size: int, pairs: int, turns: list[str], *, halves: bool) -> str:
        """RoPE of [tokens, heads, size]: see `kernels.rope`."""
        count, (cos, sin) = self._shape.tokens, turns
        rest = ""
        if 2 * pairs < size:
            x, rest = self._nodes_of("Split", 2, x, self._ints([2 * pairs, size - 2 * pairs]), axis=2)
        pair = (2, pairs) if halves else (pairs, 2)
        axis = 2 if halves else 3
        parts = self._nodes_of(
            "Split", 2, self._reshape(x, count, heads, *pair), self._ints([1, 1]), axis=axis
        )
        a, b = (self._reshape(part, count, heads, pairs) for part in parts)
        first = self._node("Sub", self._node("Mul", a, cos), self._node("Mul", b, sin))
        second = self._node("Add", self._node("Mul", a, sin), self._node("Mul", b, cos))
        one = (1, pairs) if halves else (pairs, 1)
        both = [self._reshape(part, count, heads, *one) for part in (first, second)]
        turned = self._reshape(self._node("Concat", *both, axis=axis), count, heads, 2 * pairs)
        return self._node("Concat", turned, rest, axis=2) if rest else turned

    def _product(self, x: str, weight: NpuMatrix) -> str:
        """x @ W.T; a matrix in parts of a lossy format is rounded whole, so that it has one scale per row."""
        form = self._numbers.weights
        if form == "auto":
            form = "int4" if exact_in_int4(weight.format) else "int8"
        if form == "float32":
            return self._node("MatMul", x, self._floats(np.ascontiguousarray(weight.dequantize().T)))
        if form == "int8":
            return self._node("MatMul", x, self._int8(to_int8(weight.dequantize())))
        w = to_int4(weight.format, weight.raw(), (weight.rows, weight.columns))
        y = self._node("MatMul", x, self._int4(w))
        if w.offsets is not None:
            count, blocks = self._shape.tokens, weight.columns // BLOCK
            sums = self._node(
                "ReduceSum", self._reshape(x, count, blocks, BLOCK), self._ints([2]), keepdims=0
            )
            offsets = self._floats(np.ascontiguousarray(w.offsets.T))
            y = self._node("Add", y, self._node("MatMul", sums, offsets))
        return y

    def _int8(self, w: Requantized) -> str:
        codes = self._constant(np.ascontiguousarray(w.codes.T))
        return self._node("DequantizeLinear", codes, self._floats(w.scales[:, 0].copy()), axis=1)

    def _int4(self, w: Requantized) -> str:
        nibbles = np.ascontiguousarray(w.codes.T).reshape(-1).view(np.uint8) & 15
        packed = (nibbles[0::2] | nibbles[1::2] << 4).tobytes()
        name = f"c{len(self._constants)}"
        self._constants[name] = helper.make_tensor(
            name, TensorProto.INT4, [w.codes.shape[1], w.codes.shape[0]], packed, raw=True
        )
        scales = self._floats(np.ascontiguousarray(w.scales.T))
        return self._node("DequantizeLinear", name, scales, axis=0, block_size=BLOCK)

    def _through_integers(self, x: str, largest: float) -> str:
        kind = np.int8 if self._numbers.bits == 8 else np.int16
        scale = self._floats(np.array(largest / np.iinfo(kind).max or 1.0, np.float32))
        zero = self._constant(np.array(0, kind))
        return self._node("DequantizeLinear", self._node("QuantizeLinear", x, scale, zero), scale, zero)

    def _read(self, buffer: Buffer, columns: int) -> str:
        """What a buffer holds; an input if nobody has written it."""
        written = self._buffers.get(buffer)
        if written is None:
            value = self._input(f"in.{buffer.name}", TensorProto.FLOAT, [self._shape.tokens, columns])
            written = self._buffers[buffer] = _Written({0: value})
        if len(written.pieces) > 1:
            ordered = [written.pieces[at] for at in sorted(written.pieces)]
            written.pieces = {0: self._node("Concat", *ordered, axis=1)}
        return written.pieces[0]

    def _write(self, value: str, *buffers: Buffer | None) -> None:
        for buffer in buffers:
            if buffer is not None:
                self._buffers[buffer] = _Written({0: value})

    def _node(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [out], **attributes))
        return out

    def _nodes_of(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """The same with several outputs."""
        outs = [f"v{len(self._nodes)}.{number}" for number in range(count)]
        self._nodes.append(helper.make_node(operator, inputs, outs, **attributes))
        return outs

    def _reshape(self, x: str, *shape: int) -> str:
        return self._node("Reshape", x, self._ints(shape))

    def _ints(self, values: Iterable[int]) -> str:
        return self._constant(np.array(list(values), np.int64))

    def _floats(self, values: Floats) -> str:
        return self._constant(np.asarray(values, np.float32))

    def _constant(self, values: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def _input(self, name: str, kind: int, shape: list[int]) -> str:
        if name not in self._inputs:
            self._inputs[name] = helper.make_tensor_value_info(name, kind, shape)
        return name

    def _output(self, name: str, kind: int, shape: list[Any]) -> None:
        self._outputs[name] = helper.make_tensor_value_info(name, kind, shape)


def layer_group(program: NpuProgram, layers: range, shape: Shape, numbers: Numbers) -> onnx.ModelProto:
    """The graph of some layers in a row. It gives the residual stream on, unless the last layer is in it."""
    graph = Graph(shape, numbers)
    places = range(program.layers[layers.start].start, program.layers[layers.stop - 1].stop)
    graph.add(program, places)
    if layers.stop < len(program.layers):
        graph.give(Buffer.HIDDEN, program.calls[places.start].args["columns"])
    return graph.model()
