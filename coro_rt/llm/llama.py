"""The `llama` architecture: from a GGUF file's tensors to a program.

    hidden = embedding[token]
    per layer:  hidden += Wo · attention(rope(Wq · n), rope(Wk · n), Wv · n),  n = rms_norm(hidden)
                hidden += Wdown · (silu(Wgate · n) * (Wup · n)),                n = rms_norm(hidden)
    logits = Whead · rms_norm(hidden)                                          Whead = embedding if the file
    has none

(Touvron et al., 2023; grouped-query attention, tied embeddings and frequency factors as in later models of
the family.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.kernels import formats, rope
from coro_rt.kernels.formats import BLOCK, Floats, Format
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.packed import PackedMatrix
from coro_rt.kernels.program import Buffer, Program, Widths

from .gguf_file import GGUFFile, Tensor

ARCHITECTURES = ("llama",)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """A model's sizes, as its file states them."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    rope_width: int
    rope_base: float
    norm_eps: float
    context: int
    vocabulary: int

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Hyperparameters":
        """ModelFileError if a size is missing or they contradict each other; UnsupportedModel names what we
        lack.
        """
        arch = file.architecture
        if arch not in ARCHITECTURES:
            raise UnsupportedModel(
                f"{file.path}: architecture {arch!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
            )
        scaling = file.get_str(f"{arch}.rope.scaling.type", "none")
        if scaling != "none":
            raise UnsupportedModel(f"{file.path}: RoPE scaling {scaling!r} is not supported; supported: none")
        if file.get_int(f"{arch}.expert_count", 0):
            raise UnsupportedModel(f"{file.path}: mixtures of experts are not supported")
        hidden = file.require_int(f"{arch}.embedding_length")
        heads = file.require_int(f"{arch}.attention.head_count")
        if hidden < 1 or heads < 1:
            raise ModelFileError(f"{file.path}: width {hidden} with {heads} heads; both must be positive")
        head_size = file.get_int(f"{arch}.attention.key_length", hidden // heads)
        embedding = _tensor(file, "token_embd.weight")
        sizes = cls(
            layers=file.require_int(f"{arch}.block_count"),
            hidden=hidden,
            feed_forward=file.require_int(f"{arch}.feed_forward_length"),
            heads=heads,
            kv_heads=file.get_int(f"{arch}.attention.head_count_kv", heads),
            head_size=head_size,
            rope_width=file.get_int(f"{arch}.rope.dimension_count", head_size),
            rope_base=file.get_float(f"{arch}.rope.freq_base", 10000.0),
            norm_eps=file.require_float(f"{arch}.attention.layer_norm_rms_epsilon"),
            context=file.require_int(f"{arch}.context_length"),
            vocabulary=embedding.shape[0],
        )
        sizes._check(file)
        return sizes

    def _check(self, file: GGUFFile) -> None:
        counts = (
            self.layers,
            self.feed_forward,
            self.kv_heads,
            self.head_size,
            self.context,
            self.vocabulary,
        )
        if min(counts) < 1 or self.heads % max(self.kv_heads, 1) or not 0 < self.rope_width <= self.head_size:
            raise ModelFileError(f"{file.path}: the sizes contradict each other: {self}")
        # the tables of sines are made before any tensor is read, so a lying context must not get that far
        if self.context > 2**24 or self.rope_width % 2 or not (self.rope_base > 0 and 0 < self.norm_eps < 1):
            raise ModelFileError(f"{file.path}: implausible context, RoPE or norm settings: {self}")
        odd = {n: w for n in ("hidden", "feed_forward", "head_size") if (w := getattr(self, n)) % BLOCK}
        if odd:
            raise UnsupportedModel(f"{file.path}: {odd} must be multiples of {BLOCK} for the kernels here")

    @property
    def kv(self) -> KVShape:
        return KVShape(self.layers, self.kv_heads, self.head_size)

    @property
    def widths(self) -> Widths:
        return Widths(
            hidden=self.hidden,
            qkv=(self.heads + 2 * self.kv_heads) * self.head_size,
            attended=self.heads * self.head_size,
            gated=self.feed_forward,
            vocabulary=self.vocabulary,
            context=self.context,
        )


def nbytes(file: GGUFFile, sizes: Hyperparameters, context: int) -> int:
    """What `build` will allocate, to be asked of the memory budget before anything is read."""
    weights = sum(tensor.data.nbytes for tensor in file.tensors.values())
    return weights + context * sizes.rope_width * 4


def build(
    file: GGUFFile,
    sizes: Hyperparameters,
    context: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Program:
    """The program of one step, weights repacked for this CPU, for positions below `context`.

    `progress(done, total)` is called layer by layer. ModelFileError for missing tensors or wrong shapes,
    UnsupportedModel for a format without kernels. Nothing refers to the file afterwards.
    """
    h, kv = sizes, sizes.kv
    program = Program()
    factors = (
        _floats(file, "rope_freqs.weight", (h.rope_width // 2,))
        if "rope_freqs.weight" in file.tensors
        else None
    )
    turns = rope.table(context, h.rope_width, h.rope_base, factors)
    embedding = _stack(file, [("token_embd.weight", (h.vocabulary, h.hidden))])[0]
    program.embed(embedding, out=Buffer.HIDDEN)
    attended = h.heads * h.head_size
    for layer in range(h.layers):

        def name(part: str, layer: int = layer) -> str:
            return f"blk.{layer}.{part}.weight"

        _norm(program, file, name("attn_norm"), h)
        _matmul(
            program, Buffer.NORMED, Buffer.QNORMED, Buffer.QKV,
            _stack(file, [
                (name("attn_q"), (attended, h.hidden)),
                (name("attn_k"), (h.kv_heads * h.head_size, h.hidden)),
                (name("attn_v"), (h.kv_heads * h.head_size, h.hidden)),
            ]),
        )  # fmt: skip
        program.rope_kv(kv, layer, h.heads, turns, halves=False, qkv=Buffer.QKV)
        program.attend(kv, layer, h.heads, qkv=Buffer.QKV, out=Buffer.ATTENDED, qout=Buffer.QATTENDED)
        _matmul(
            program, Buffer.ATTENDED, Buffer.QATTENDED, Buffer.HIDDEN,
            _stack(file, [(name("attn_output"), (h.hidden, attended))]), add=True,
        )  # fmt: skip
        _norm(program, file, name("ffn_norm"), h)
        _matmul(
            program, Buffer.NORMED, Buffer.QNORMED, Buffer.GATE_UP,
            _stack(file, [(name(part), (h.feed_forward, h.hidden)) for part in ("ffn_gate", "ffn_up")]),
        )  # fmt: skip
        program.swiglu(h.feed_forward, gate_up=Buffer.GATE_UP, out=Buffer.GATED, qout=Buffer.QGATED)
        _matmul(
            program, Buffer.GATED, Buffer.QGATED, Buffer.HIDDEN,
            _stack(file, [(name("ffn_down"), (h.hidden, h.feed_forward))]), add=True,
        )  # fmt: skip
        if progress is not None:
            progress(layer + 1, h.layers)
    _norm(program, file, "output_norm.weight", h, tail=True)
    has_head = "output.weight" in file.tensors
    head = _stack(file, [("output.weight", (h.vocabulary, h.hidden))]) if has_head else [embedding]
    _matmul(program, Buffer.NORMED, Buffer.QNORMED, Buffer.LOGITS, head, tail=True)
    program.summary(h.vocabulary, logits=Buffer.LOGITS, out=Buffer.SUMMARY)
    return program.finish()


def _norm(program: Program, file: GGUFFile, name: str, h: Hyperparameters, *, tail: bool = False) -> None:
    weight = _floats(file, name, (h.hidden,))
    program.norm(
        weight, h.norm_eps, h.hidden, source=Buffer.HIDDEN, out=Buffer.NORMED, qout=Buffer.QNORMED, tail=tail
    )


def _matmul(
    program: Program, floats: Buffer, ints: Buffer, out: Buffer, weights: Sequence[PackedMatrix],
    *, add: bool = False, tail: bool = False,
) -> None:  # fmt: skip
    offset = 0
    for weight in weights:
        source = ints if weight.format.quantized else floats
        program.matmul(weight, source=source, out=out, offset=offset, add=add, tail=tail)
        offset += weight.rows


def _stack(file: GGUFFile, parts: Sequence[tuple[str, tuple[int, int]]]) -> list[PackedMatrix]:
    """Pack matrices that are applied to the same input, neighbours of one format in one piece."""
    packed: list[PackedMatrix] = []
    run: list[tuple[NDArray[np.uint8], tuple[int, int]]] = []
    running: Format | None = None
    for name, shape in parts:
        tensor = _tensor(file, name, shape)
        format = _format(file, tensor)
        # a piece that does not end on a whole group of rows would leave a gap in the output
        if run and format is not running:
            packed.append(_pack(running, run))
            run = []
        run.append((tensor.data, shape))
        running = format
    packed.append(_pack(running, run))
    return packed


def _pack(format: Format | None, run: Sequence[tuple[NDArray[np.uint8], tuple[int, int]]]) -> PackedMatrix:
    assert format is not None
    return PackedMatrix.pack(format, *run)


def _format(file: GGUFFile, tensor: Tensor) -> Format:
    format = formats.by_ggml_type(int(tensor.type))
    if format is None:
        known = ", ".join(sorted(formats.Format.known))
        raise UnsupportedModel(
            f"{file.path}: tensor {tensor.name} is in format {tensor.type.name}, which has no kernels here; "
            f"supported: {known}"
        )
    return format


def _tensor(file: GGUFFile, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ModelFileError(f"{file.path}: the tensor {name} is missing")
    if len(tensor.shape) != (2 if shape is None else len(shape)) or (
        shape is not None and tensor.shape != shape
    ):
        expected = "two dimensions" if shape is None else f"shape {shape}"
        raise ModelFileError(
            f"{file.path}: the tensor {name} has shape {tensor.shape}, where {expected} was expected"
        )
    return tensor


def _floats(file: GGUFFile, name: str, shape: tuple[int]) -> Floats:
    tensor = _tensor(file, name, shape)
    values: Floats = _format(file, tensor).dequantize(tensor.data, (1, shape[0]))[0]
    return values
