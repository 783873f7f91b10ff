"""The `bert` architecture, an encoder: from a GGUF file's tensors to a program.

    hidden = layer_norm(embedding[token] + position[p] + type[0])
    per layer:  hidden = layer_norm(hidden + Wo · attention(Wq · hidden, Wk · hidden, Wv · hidden))
                hidden = layer_norm(hidden + Wdown · gelu(Wup · hidden))
    embedding of a text = mean of its rows (or the first one), divided by its norm

with a bias on every product; each row attends to its whole text. (Devlin et al., 2018; pooling as in Reimers
and Gurevych, 2019.) The norms come after the sums, so there is no stream beside `hidden`.
"""

from dataclasses import dataclass

import numpy as np
from gguf.constants import PoolingType

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.kernels.formats import BLOCK, Floats
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.operations import EncoderOperations, M
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.workspace import Widths

from .gguf_file import GGUFFile
from .weights import Weights

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
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None:
            raise ModelFileError(f"{file.path}: the tensor token_embd.weight is missing")
        sizes = cls(
            layers=file.require_int(f"{arch}.block_count"),
            hidden=file.require_int(f"{arch}.embedding_length"),
            feed_forward=file.require_int(f"{arch}.feed_forward_length"),
            heads=file.require_int(f"{arch}.attention.head_count"),
            norm_eps=file.require_float(f"{arch}.attention.layer_norm_epsilon"),
            context=file.require_int(f"{arch}.context_length"),
            vocabulary=embedding.shape[0],
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
            heads=self.heads,
            pooled=self.hidden,
        )


def nbytes(file: GGUFFile, sizes: Hyperparameters) -> int:
    """What `build` will allocate."""
    return sum(tensor.data.nbytes for tensor in file.tensors.values()) + sizes.context * sizes.hidden * 4


def build(file: GGUFFile, sizes: Hyperparameters, program: EncoderOperations[M]) -> None:
    """Put one step into a `program` and finish it: a CPU's or a GPU's.

    ModelFileError for missing tensors or wrong shapes, UnsupportedModel for a format without kernels. Nothing
    refers to the file afterwards.
    """
    h, weights = sizes, Weights(file, program)
    square, up, down = (h.hidden, h.hidden), (h.feed_forward, h.hidden), (h.hidden, h.feed_forward)
    still = np.zeros((1, 0, 2), np.float32)  # no pairs turn: positions are in the embedding

    def matmul(source: Buffer, ints: Buffer, out: Buffer, *names: str, shape: tuple[int, int]) -> None:
        offset = 0
        for weight in weights.stack([(f"{name}.weight", shape) for name in names]):
            seen = ints if weight.format.quantized else source
            program.matmul(weight, source=seen, out=out, offset=offset, add=out is Buffer.HIDDEN)
            offset += weight.rows

    def bias(*names: str, size: int) -> Floats:
        found = weights.biases([(f"{name}.bias", size) for name in names])
        return np.zeros(size * len(names), np.float32) if found is None else found

    def norm(name: str, shift: Floats) -> None:
        program.layer_norm(
            weights.floats(f"{name}.weight", h.hidden), weights.floats(f"{name}.bias", h.hidden), h.norm_eps,
            out=Buffer.HIDDEN, qout=Buffer.QNORMED, shift=shift,
        )  # fmt: skip

    program.embed(weights.stack([("token_embd.weight", (h.vocabulary, h.hidden))])[0], out=Buffer.HIDDEN)
    positions = weights.table("position_embd.weight", (h.context, h.hidden))
    kinds = weights.shape("token_types.weight") or (1,)
    types = weights.table("token_types.weight", (kinds[0], h.hidden))
    norm("token_embd_norm", positions + types[0])
    for layer in range(h.layers):
        blk = f"blk.{layer}"
        parts = [f"{blk}.attn_{part}" for part in "qkv"]
        matmul(Buffer.HIDDEN, Buffer.QNORMED, Buffer.QKV, *parts, shape=square)
        program.bias(bias(*parts, size=h.hidden), out=Buffer.QKV)
        program.rope_kv(h.kv, 0, h.heads, still, halves=False, qkv=Buffer.QKV)
        program.attend(
            h.kv, 0, h.heads, qkv=Buffer.QKV, out=Buffer.ATTENDED, qout=Buffer.QATTENDED, whole=True
        )
        output = f"{blk}.attn_output"
        matmul(Buffer.ATTENDED, Buffer.QATTENDED, Buffer.HIDDEN, output, shape=square)
        norm(f"{output}_norm", bias(output, size=h.hidden))
        matmul(Buffer.HIDDEN, Buffer.QNORMED, Buffer.GATED, f"{blk}.ffn_up", shape=up)
        shift = bias(f"{blk}.ffn_up", size=h.feed_forward)
        program.gelu(shift, out=Buffer.GATED, qout=Buffer.QGATED)
        matmul(Buffer.GATED, Buffer.QGATED, Buffer.HIDDEN, f"{blk}.ffn_down", shape=down)
        norm(f"{blk}.layer_output_norm", bias(f"{blk}.ffn_down", size=h.hidden))
    program.pool(h.hidden, source=Buffer.HIDDEN, out=Buffer.POOLED)
    weights.all_used()
    program.finish()
