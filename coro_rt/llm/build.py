"""From a GGUF file's tensors to a program, for every architecture of `architecture.py`.

    hidden = embedding[token]                                                         (* sqrt(width))
    per layer:  hidden += (norm) Wo · attention(rope((norm) Wq · n), rope((norm) Wk · n), Wv · n)
                hidden += (norm) Wdown · (f(Wgate · n) * (Wup · n))              with n = norm(hidden)
    logits = Whead · norm(hidden)                               Whead = embedding if the file has none

What stands in brackets, the kind of f and RoPE, and which layers have a window, an architecture says. What
the file can say it says: a product with a bias has a vector `.bias` beside its matrix; queries, keys and
values, or gate and up, may be one matrix.
"""

from collections.abc import Callable, Sequence
from typing import Generic

from coro_rt.kernels import rope
from coro_rt.kernels.formats import Floats
from coro_rt.kernels.operations import M, Operations
from coro_rt.kernels.program import Buffer

from .architecture import Hyperparameters
from .gguf_file import GGUFFile
from .weights import Weights

QUANTIZED = {
    Buffer.NORMED: Buffer.QNORMED,
    Buffer.ATTENDED: Buffer.QATTENDED,
    Buffer.GATED: Buffer.QGATED,
}
"""Where the int8 copy of a product's input is."""


def nbytes(file: GGUFFile, sizes: Hyperparameters, context: int) -> int:
    """What `build` will allocate, to be asked of the memory budget before anything is read."""
    weights = sum(tensor.data.nbytes for tensor in file.tensors.values())
    tables = 1 if sizes.local_rope_base is None else 2
    return weights + tables * context * sizes.rope_width * 4


def build(
    file: GGUFFile,
    sizes: Hyperparameters,
    context: int,
    program: Operations[M],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Put one step, for positions below `context`, into a `program` and finish it: a CPU's or a GPU's.

    `progress(done, total)` is called layer by layer. ModelFileError for missing tensors or wrong shapes,
    UnsupportedModel for a format without kernels. Nothing refers to the file afterwards.
    """
    builder = _Builder(Weights(file, program), sizes, program)
    turns = local = builder.turns(context)
    if sizes.local_rope_base is not None:
        local = rope.table(context, sizes.rope_width, sizes.local_rope_base)
    embedding = builder.embed()
    for layer in range(sizes.layers):
        builder.attention(layer, local if sizes.window_of(layer) else turns)
        builder.feed_forward(layer)
        if progress is not None:
            progress(layer + 1, sizes.layers)
    builder.head(embedding)
    builder.weights.all_used()
    program.finish()


class _Builder(Generic[M]):
    """Appends a model's parts to a program."""

    def __init__(self, weights: Weights[M], sizes: Hyperparameters, program: Operations[M]) -> None:
        self.weights, self.sizes, self.program = weights, sizes, program

    def turns(self, context: int) -> Floats:
        """The table of sines and cosines, but for layers that have a base of their own.

        Frequencies may have factors of their own: one set, or one for the context that the model was first
        trained with and one for longer ones. What decides is the context that is asked for, not how far a
        sequence has come, so that what is in the cache stays valid.
        """
        h, size = self.sizes, self.sizes.rope_width // 2
        factors: Floats | float = h.rope_factor
        if "rope_freqs.weight" in self.weights:
            factors = self.weights.positive("rope_freqs.weight", size) * h.rope_factor
        if "rope_factors_long.weight" in self.weights:
            long, short = (self.weights.positive(f"rope_factors_{n}.weight", size) for n in ("long", "short"))
            factors = long if context > h.original_context else short
        return rope.table(context, h.rope_width, h.rope_base, factors, magnitude=h.rope_magnitude)

    def embed(self) -> M:
        h = self.sizes
        embedding = self.weights.stack([("token_embd.weight", (h.vocabulary, h.hidden))])[0]
        self.program.embed(embedding, out=Buffer.HIDDEN, scale=h.embedding_scale)
        return embedding

    def attention(self, layer: int, turns: Floats) -> None:
        h, kv, family, blk = self.sizes, self.sizes.kv, self.sizes.architecture, f"blk.{layer}."
        queries, keys = h.heads * h.head_size, h.kv_heads * h.head_size
        parts = [
            (blk + "attn_q", (queries, h.hidden)),
            (blk + "attn_k", (keys, h.hidden)),
            (blk + "attn_v", (keys, h.hidden)),
        ]
        if blk + "attn_qkv.weight" in self.weights:
            parts = [(blk + "attn_qkv", (queries + 2 * keys, h.hidden))]
        norms = None
        if family.head_norms:
            norms = (
                self._vector(blk + "attn_q_norm", h.head_size),
                self._vector(blk + "attn_k_norm", h.head_size),
            )
        self._norm(blk + "attn_norm")
        self._matmul(parts, Buffer.NORMED, Buffer.QKV)
        self.program.rope_kv(
            kv, layer, h.heads, turns, halves=family.halves, qkv=Buffer.QKV, norms=norms, eps=h.norm_eps
        )
        self.program.attend(
            kv, layer, h.heads, qkv=Buffer.QKV, out=Buffer.ATTENDED, qout=Buffer.QATTENDED,
            window=h.window_of(layer), scale=h.attention_scale,
        )  # fmt: skip
        self._add(blk + "attn_output", queries, Buffer.ATTENDED, blk + "post_attention_norm")

    def feed_forward(self, layer: int) -> None:
        h, blk = self.sizes, f"blk.{layer}."
        parts = [
            (blk + "ffn_gate", (h.feed_forward, h.hidden)),
            (blk + "ffn_up", (h.feed_forward, h.hidden)),
        ]
        fused = self.weights.shape(blk + "ffn_up.weight") == (2 * h.feed_forward, h.hidden)
        if fused and blk + "ffn_gate.weight" not in self.weights:
            parts = [(blk + "ffn_up", (2 * h.feed_forward, h.hidden))]  # the gate first
        self._norm(blk + "ffn_norm")
        self._matmul(parts, Buffer.NORMED, Buffer.GATE_UP)
        self.program.gate(
            h.feed_forward, gate_up=Buffer.GATE_UP, out=Buffer.GATED, qout=Buffer.QGATED,
            activation=h.architecture.activation,
        )  # fmt: skip
        self._add(blk + "ffn_down", h.feed_forward, Buffer.GATED, blk + "post_ffw_norm")

    def head(self, embedding: M) -> None:
        h = self.sizes
        self._norm("output_norm", tail=True)
        if "output.weight" in self.weights:
            self._matmul([("output", (h.vocabulary, h.hidden))], Buffer.NORMED, Buffer.LOGITS, tail=True)
        else:
            self._product(embedding, Buffer.NORMED, Buffer.LOGITS, tail=True)
        self.program.summary(h.vocabulary, logits=Buffer.LOGITS, out=Buffer.SUMMARY)

    def _norm(self, name: str, *, tail: bool = False) -> None:
        h = self.sizes
        self.program.norm(
            self._vector(name, h.hidden), h.norm_eps, h.hidden, source=Buffer.HIDDEN, out=Buffer.NORMED,
            qout=Buffer.QNORMED, tail=tail,
        )  # fmt: skip

    def _add(self, name: str, columns: int, source: Buffer, post_norm: str) -> None:
        """Add a product to the residual stream, normalised first if the architecture does that."""
        h, part = self.sizes, [(name, (self.sizes.hidden, columns))]
        if h.architecture.post_norms:
            self._matmul(part, source, Buffer.NORMED)  # which nobody needs any more
            self.program.norm(
                self._vector(post_norm, h.hidden), h.norm_eps, h.hidden, source=Buffer.NORMED,
                out=Buffer.HIDDEN, qout=None, add=True,
            )  # fmt: skip
        else:
            self._matmul(part, source, Buffer.HIDDEN, add=True)

    def _matmul(
        self,
        parts: Sequence[tuple[str, tuple[int, int]]],
        source: Buffer,
        out: Buffer,
        *,
        add: bool = False,
        tail: bool = False,
    ) -> None:
        """The products with matrices of these names, side by side in `out`, and their biases."""
        offset = 0
        for weight in self.weights.stack([(name + ".weight", shape) for name, shape in parts]):
            self._product(weight, source, out, offset=offset, add=add, tail=tail)
            offset += weight.rows
        bias = self.weights.biases([(name + ".bias", rows) for name, (rows, _) in parts])
        if bias is not None:
            self.program.bias(bias, out=out, tail=tail)

    def _product(
        self, weight: M, source: Buffer, out: Buffer, *, offset: int = 0, add: bool = False,
        tail: bool = False,
    ) -> None:  # fmt: skip
        source = QUANTIZED[source] if weight.format.quantized else source
        self.program.matmul(weight, source=source, out=out, offset=offset, add=add, tail=tail)

    def _vector(self, name: str, size: int) -> Floats:
        return self.weights.floats(name + ".weight", size)
