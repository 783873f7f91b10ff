"""The `bert` architecture, an encoder: from a GGUF file's tensors to a program.

    hidden = layer_norm(embedding[token] + position[p] + type[0])
    per layer:  hidden = layer_norm(hidden + Wo · attention(Wq · hidden, Wk · hidden, Wv · hidden))
                hidden = layer_norm(hidden + Wdown · gelu(Wup · hidden))
    embedding of a text = mean of its rows (or the first one), divided by its norm

with a bias on every product; each row attends to its whole text. (Devlin et al., 2018; pooling as in Reimers
and Gurevych, 2019.) The norms come after the sums, so there is no stream beside `hidden`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gguf.constants import PoolingType

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.kernels.formats import BLOCK, Floats
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.program import Buffer, Program, Widths

from .gguf_file import GGUFFile
from .llama import _floats, _format, _matmul, _stack, _tensor

ARCHITECTURE = "bert"


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """A model's sizes, as its file states them. `pooled`: how many of a text's rows, None for all."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    norm_eps: float
    context: int
    vocabulary: int
    pooled: int | None

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Hyperparameters":
        """ModelFileError if a size is missing or they contradict each other; UnsupportedModel names what we
        lack.
        """
        arch = ARCHITECTURE
        if file.get_bool(f"{arch}.attention.causal", False):
            raise UnsupportedModel(f"{file.path}: causal attention is not supported in this architecture")
        pooling = file.get_int(f"{arch}.pooling_type", int(PoolingType.MEAN))
        if pooling not in (PoolingType.MEAN, PoolingType.CLS):
            raise UnsupportedModel(
                f"{file.path}: pooling type {pooling} is not supported; the mean (1) and the first (2) are"
            )
        sizes = cls(
            layers=file.require_int(f"{arch}.block_count"),
            hidden=file.require_int(f"{arch}.embedding_length"),
            feed_forward=file.require_int(f"{arch}.feed_forward_length"),
            heads=file.require_int(f"{arch}.attention.head_count"),
            norm_eps=file.require_float(f"{arch}.attention.layer_norm_epsilon"),
            context=file.require_int(f"{arch}.context_length"),
            vocabulary=_tensor(file, "token_embd.weight").shape[0],
            pooled=1 if pooling == PoolingType.CLS else None,
        )
        counts = (sizes.layers, sizes.hidden, sizes.feed_forward, sizes.heads, sizes.context)
        if min(counts) < 1 or sizes.hidden % max(sizes.heads, 1) or not 0 <= sizes.norm_eps < 1:
            raise ModelFileError(f"{file.path}: the sizes contradict each other: {sizes}")
        widths = {"feed_forward": sizes.feed_forward, "head size": sizes.hidden // sizes.heads}
        odd = {name: width for name, width in widths.items() if width % BLOCK}
        if odd:
            raise UnsupportedModel(f"{file.path}: {odd} must be multiples of {BLOCK} for the kernels here")
        return sizes

    @property
    def kv(self) -> KVShape:
        """One layer, which all layers use after each other: keys and values are not needed again."""
        return KVShape(1, self.heads, self.hidden // self.heads)

    @property
    def widths(self) -> Widths:
        return Widths(
            hidden=self.hidden,
            qkv=3 * self.hidden,
            attended=self.hidden,
            gated=self.feed_forward,
            vocabulary=0,
            context=self.context,
            pooled=self.hidden,
        )


def nbytes(file: GGUFFile, sizes: Hyperparameters) -> int:
    """What `build` will allocate."""
    return sum(tensor.data.nbytes for tensor in file.tensors.values()) + sizes.context * sizes.hidden * 4


def build(file: GGUFFile, sizes: Hyperparameters) -> Program:
    """The program of one step, weights repacked for this CPU.

    ModelFileError for missing tensors or wrong shapes, UnsupportedModel for a format without kernels. Nothing
    refers to the file afterwards.
    """
    h = sizes
    program = Program()
    embedding = _stack(file, [("token_embd.weight", (h.vocabulary, h.hidden))])[0]
    program.embed(embedding, out=Buffer.HIDDEN)
    types = _tensor(file, "token_types.weight").shape[0]
    added = _rows(file, "position_embd.weight", h.context, h.hidden)
    added = added + _rows(file, "token_types.weight", types, h.hidden)[0]
    _norm(program, file, "token_embd_norm", h, added, last=False)
    for layer in range(h.layers):
        blk = f"blk.{layer}."
        matrices = [(f"{blk}attn_{part}.weight", (h.hidden, h.hidden)) for part in "qkv"]
        _matmul(program, Buffer.HIDDEN, Buffer.QNORMED, Buffer.QKV, _stack(file, matrices))
        bias = np.concatenate([_bias(file, f"{blk}attn_{part}.bias", h.hidden) for part in "qkv"])
        program.bias_kv(h.kv, 0, h.heads, bias, qkv=Buffer.QKV)
        program.attend_whole(h.kv, 0, h.heads, qkv=Buffer.QKV, out=Buffer.ATTENDED, qout=Buffer.QATTENDED)
        output: Sequence[tuple[str, tuple[int, int]]] = [(f"{blk}attn_output.weight", (h.hidden, h.hidden))]
        _matmul(program, Buffer.ATTENDED, Buffer.QATTENDED, Buffer.HIDDEN, _stack(file, output), add=True)
        bias = _bias(file, f"{blk}attn_output.bias", h.hidden)
        _norm(program, file, f"{blk}attn_output_norm", h, bias, last=False)
        up, down = (h.feed_forward, h.hidden), (h.hidden, h.feed_forward)
        _matmul(
            program, Buffer.HIDDEN, Buffer.QNORMED, Buffer.GATED, _stack(file, [(f"{blk}ffn_up.weight", up)])
        )
        bias = _bias(file, f"{blk}ffn_up.bias", h.feed_forward)
        program.gelu(bias, source=Buffer.GATED, out=Buffer.GATED, qout=Buffer.QGATED)
        _matmul(
            program, Buffer.GATED, Buffer.QGATED, Buffer.HIDDEN,
            _stack(file, [(f"{blk}ffn_down.weight", down)]), add=True,
        )  # fmt: skip
        bias = _bias(file, f"{blk}ffn_down.bias", h.hidden)
        _norm(program, file, f"{blk}layer_output_norm", h, bias, last=layer == h.layers - 1)
    program.pool(h.hidden, source=Buffer.HIDDEN, out=Buffer.POOLED)
    return program.finish()


def _norm(
    program: Program, file: GGUFFile, name: str, h: Hyperparameters, shift: Floats, *, last: bool
) -> None:
    weight, bias = (_floats(file, f"{name}.{part}", (h.hidden,)) for part in ("weight", "bias"))
    program.layer_norm(
        weight, bias, h.norm_eps, source=Buffer.HIDDEN, out=Buffer.HIDDEN,
        qout=None if last else Buffer.QNORMED, shift=shift,
    )  # fmt: skip


def _bias(file: GGUFFile, name: str, size: int) -> Floats:
    """Zeros if the file has none."""
    return _floats(file, name, (size,)) if name in file.tensors else np.zeros(size, np.float32)


def _rows(file: GGUFFile, name: str, rows: int, columns: int) -> Floats:
    tensor = _tensor(file, name, (rows, columns))
    return _format(file, tensor).dequantize(tensor.data, (rows, columns))
