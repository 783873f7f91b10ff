"""The architectures that run here, and a model's sizes, read from its GGUF file.

All of them are the same decoder: a residual stream, in each layer attention and a gated feed-forward part,
both behind an RMSNorm. What tells them apart is a row of `ARCHITECTURES`; `build.py` makes the program.
"""

import math
from dataclasses import dataclass

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.kernels.formats import BLOCK
from coro_rt.kernels.gated import Activation
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.workspace import Widths

from .gguf_file import GGUFFile


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a family of models does; the defaults are what `llama` does."""

    halves: bool = False
    """RoPE turns pairs (i, i + n/2), not (2i, 2i+1)."""
    head_norms: bool = False
    """Each query and each key is normalised before RoPE."""
    post_norms: bool = False
    """What attention and feed-forward give is normalised before it is added to the residual stream."""
    scaled_embedding: bool = False
    """Embeddings are multiplied by the square root of the width."""
    activation: Activation = Activation.SILU
    rope_base: float = 10000.0
    """Where the file does not say."""
    global_every: int | None = None
    """The file's window counts, except that every n-th layer sees everything (0: none does). None: it does
    not count: files state windows that their models were not made with."""
    local_rope_base: float | None = None
    """Layers with a window have a RoPE base of their own, and no scaling of it."""


ARCHITECTURES = {
    "llama": Architecture(),  # Touvron et al., 2023
    "qwen2": Architecture(halves=True),  # Yang et al., 2024; its biases are in the file
    "qwen3": Architecture(halves=True, head_norms=True),  # Yang et al., 2025
    "phi3": Architecture(halves=True, global_every=0),  # Abdin et al., 2024; fused matrices
    "gemma3": Architecture(  # Gemma Team, 2025
        halves=True, head_norms=True, post_norms=True, scaled_embedding=True, activation=Activation.GELU,
        rope_base=1_000_000.0, global_every=6, local_rope_base=10000.0,
    ),
}  # fmt: skip

_UNSUPPORTED = {
    "expert_count": "mixtures of experts",
    "attn_logit_softcapping": "capped attention scores",
    "final_logit_softcapping": "capped logits",
    "attention.clamp_kqv": "clamped queries, keys and values",
    "logit_scale": "scaled logits",
}
"""Keys that, if not zero, ask for what has no kernels here."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """A model's sizes, as its file states them."""

    architecture: Architecture
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    attention_scale: float
    rope_width: int
    rope_base: float
    rope_factor: float
    """Linear scaling: all frequencies are divided by it."""
    rope_magnitude: float
    local_rope_base: float | None
    window: int
    """Positions that a query sees in a layer with a window; 0: no layer has one."""
    global_every: int
    norm_eps: float
    context: int
    original_context: int
    """The context before a later training stretched it: where long factors of RoPE begin."""
    vocabulary: int
    kv_bits: int = 16
    """Of a value in the cache: not the file's, but whoever loads the model says."""

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Hyperparameters":
        """ModelFileError if a size is missing or they contradict each other; UnsupportedModel names what we
        lack.
        """
        arch = file.architecture
        family = ARCHITECTURES.get(arch)
        if family is None:
            raise UnsupportedModel(
                f"{file.path}: architecture {arch!r} is not supported; supported: "
                f"{', '.join(ARCHITECTURES)}, and the encoder bert"
            )
        for key, what in _UNSUPPORTED.items():
            if file.get_float(f"{arch}.{key}", 0.0):
                raise UnsupportedModel(f"{file.path}: {what} ({arch}.{key}) are not supported")
        hidden = file.require_int(f"{arch}.embedding_length")
        heads = file.require_int(f"{arch}.attention.head_count")
        if hidden < 1 or heads < 1:
            raise ModelFileError(f"{file.path}: width {hidden} with {heads} heads; both must be positive")
        head_size = file.get_int(f"{arch}.attention.key_length", hidden // heads)
        value_size = file.get_int(f"{arch}.attention.value_length", head_size)
        if value_size != head_size:
            raise UnsupportedModel(f"{file.path}: keys of {head_size} and values of {value_size} differ")
        layers = file.require_int(f"{arch}.block_count")
        windowed = family.global_every is not None
        sizes = cls(
            architecture=family,
            layers=layers,
            hidden=hidden,
            feed_forward=file.require_int(f"{arch}.feed_forward_length"),
            heads=heads,
            kv_heads=file.get_int(f"{arch}.attention.head_count_kv", heads),
            head_size=head_size,
            attention_scale=_attention_scale(file, layers, hidden / heads, head_size),
            rope_width=file.get_int(f"{arch}.rope.dimension_count", head_size),
            rope_base=file.get_float(f"{arch}.rope.freq_base", family.rope_base),
            rope_factor=_rope_factor(file),
            rope_magnitude=_rope_magnitude(file),
            local_rope_base=(
                None
                if family.local_rope_base is None
                else file.get_float(f"{arch}.rope.freq_base_swa", family.local_rope_base)
            ),
            window=file.get_int(f"{arch}.attention.sliding_window", 0) if windowed else 0,
            global_every=file.get_int(f"{arch}.attention.sliding_window_pattern", family.global_every or 0),
            norm_eps=file.require_float(f"{arch}.attention.layer_norm_rms_epsilon"),
            context=file.require_int(f"{arch}.context_length"),
            original_context=_original_context(file),
            vocabulary=_vocabulary(file),
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
        bases = (self.rope_base, self.rope_factor, self.rope_magnitude, self.local_rope_base or 1.0)
        numbers = (*bases, self.attention_scale)
        if self.context > 2**24 or self.rope_width % 2 or not (min(numbers) > 0 and 0 < self.norm_eps < 1):
            raise ModelFileError(f"{file.path}: implausible context, RoPE or norm settings: {self}")
        if min(self.window, self.global_every) < 0 or self.window > 2**24:
            raise ModelFileError(f"{file.path}: implausible sliding window: {self}")
        odd = {n: w for n in ("hidden", "feed_forward", "head_size") if (w := getattr(self, n)) % BLOCK}
        if odd:
            raise UnsupportedModel(f"{file.path}: {odd} must be multiples of {BLOCK} for the kernels here")

    def window_of(self, layer: int) -> int:
        """How many positions a query sees in this layer, its own included; 0 for all."""
        sees_all = self.global_every and layer % self.global_every == self.global_every - 1
        return 0 if sees_all else self.window

    @property
    def embedding_scale(self) -> float:
        return math.sqrt(self.hidden) if self.architecture.scaled_embedding else 1.0

    @property
    def kv(self) -> KVShape:
        return KVShape(self.layers, self.kv_heads, self.head_size, self.kv_bits)

    @property
    def widths(self) -> Widths:
        return Widths(
            hidden=self.hidden,
            qkv=(self.heads + 2 * self.kv_heads) * self.head_size,
            attended=self.heads * self.head_size,
            gated=self.feed_forward,
            vocabulary=self.vocabulary,
            context=self.context,
            heads=self.heads,
        )


def _attention_scale(file: GGUFFile, layers: int, width_per_head: float, head_size: int) -> float:
    # Of Gemma 3's five sizes, the one of 62 layers takes the width per head, and its files do not say so.
    odd = file.architecture == "gemma3" and layers == 62
    usual = (width_per_head if odd else max(head_size, 1)) ** -0.5
    return file.get_float(f"{file.architecture}.attention.scale", usual)


def _rope_factor(file: GGUFFile) -> float:
    arch = file.architecture
    scaling = file.get_str(f"{arch}.rope.scaling.type", "none")
    if scaling == "linear":
        return file.require_float(f"{arch}.rope.scaling.factor")
    if scaling not in ("none", "longrope"):  # whose factors are tensors
        raise UnsupportedModel(
            f"{file.path}: RoPE scaling {scaling!r} is not supported; supported: none, linear, longrope"
        )
    return 1.0


def _rope_magnitude(file: GGUFFile) -> float:
    key = f"{file.architecture}.rope.scaling.attn_factor"
    if "rope_factors_long.weight" in file.tensors:
        return file.require_float(key)
    return file.get_float(key, 1.0)


def _original_context(file: GGUFFile) -> int:
    key = f"{file.architecture}.rope.scaling.original_context_length"
    if "rope_factors_long.weight" in file.tensors:
        return file.require_int(key)
    return file.get_int(key, 0)


def _vocabulary(file: GGUFFile) -> int:
    name = "token_embd.weight"
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ModelFileError(f"{file.path}: the tensor {name} is missing")
    if len(tensor.shape) != 2:
        raise ModelFileError(
            f"{file.path}: the tensor {name} has shape {tensor.shape}, where two dimensions were expected"
        )
    return tensor.shape[0]
