"""Models of a few kilobytes with random weights, as GGUF files, and the same models in plain NumPy.

The NumPy models are written from the published architectures, without a look at the program, in float64;
rounded are only keys and values, to float16, and what meets quantized weights, to int8 in blocks of 32. Names
of tensors and keys are those of the `gguf` package, which the converters of the model's makers' files use.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from makers import CONTROL, sentence_piece_metadata, tokenizer_metadata, write_gguf

from coro_rt.kernels.activations import dequantized_reference
from coro_rt.kernels.formats import Format

TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


PIECES = {"▁": -9.0, "h": -8.0, "e": -7.0, "l": -6.0, "he": -1.0, "ll": -2.0, "▁he": -0.5}


class Tiny:
    """A llama, and what the others share. `write` makes the file, `logits` is what a step should give."""

    arch = "llama"
    eps = 1e-5

    def __init__(
        self,
        *,
        form: str = "F32",
        mixed: bool = False,
        layers: int = 2,
        heads: int = 8,
        kv_heads: int = 2,
        head_size: int = 32,
        hidden: int = 256,
        feed_forward: int = 256,
        context: int = 256,
        rope_base: float = 10000.0,
        own_head: bool = False,
        rope_factors: bool = False,
        rope_linear: float = 0.0,
        biases: bool = False,
        seed: int = 0,
    ) -> None:
        self.layers, self.heads, self.kv_heads, self.head_size = layers, heads, kv_heads, head_size
        self.hidden, self.feed_forward, self.context = hidden, feed_forward, context
        self.rope_base, self.rope_linear = rope_base, rope_linear
        self.tokenizer: dict[str, Any] = self.new_tokenizer()
        self.rng = np.random.default_rng(seed)
        self.available = list(Format.known) if mixed else [form]
        self.forms: dict[str, str] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.raw: dict[str, np.ndarray] = {}
        vocabulary = len(self.tokenizer["tokenizer.ggml.tokens"])
        self.matrix("token_embd", vocabulary, hidden)
        for layer in range(layers):
            self.make_layer(f"blk.{layer}.", biases=biases)
        self.vector("output_norm.weight", hidden)
        if own_head:
            self.matrix("output", vocabulary, hidden)
        if rope_factors:
            self.vector("rope_freqs.weight", head_size // 2, 1.0, 4.0)
        self.metadata: dict[str, Any] = {
            "block_count": layers,
            "embedding_length": hidden,
            "feed_forward_length": feed_forward,
            "attention.head_count": heads,
            "attention.head_count_kv": kv_heads,
            "attention.layer_norm_rms_epsilon": self.eps,
            "rope.freq_base": rope_base,
            "context_length": context,
        } | self.more_metadata()
        if rope_linear:
            self.metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope_linear}

    def new_tokenizer(self) -> dict[str, Any]:
        return tokenizer_metadata()

    def more_metadata(self) -> dict[str, Any]:
        return {"attention.key_length": self.head_size, "rope.dimension_count": self.head_size}

    def matrix(self, name: str, rows: int, columns: int, *, bias: bool = False) -> None:
        if bias:
            self.vector(name + ".bias", rows, -1.0, 1.0)
        name += ".weight"
        form = self.available[len(self.forms) % len(self.available)]
        values = self.rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
        raw = Format.known[form].quantize(values)
        self.forms[name], self.raw[name] = form, raw.reshape(rows, -1)
        self.weights[name] = Format.known[form].dequantize(raw, values.shape)

    def vector(self, name: str, size: int, low: float = 0.5, high: float = 1.5) -> None:
        self.weights[name] = self.rng.uniform(low, high, size).astype(np.float32)

    def make_layer(self, blk: str, *, biases: bool) -> None:
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        self.vector(blk + "attn_norm.weight", self.hidden)
        self.matrix(blk + "attn_q", queries, self.hidden, bias=biases)
        self.matrix(blk + "attn_k", keys, self.hidden, bias=biases)
        self.matrix(blk + "attn_v", keys, self.hidden, bias=biases)
        self.matrix(blk + "attn_output", self.hidden, queries, bias=biases and self.arch == "llama")
        self.vector(blk + "ffn_norm.weight", self.hidden)
        self.matrix(blk + "ffn_gate", self.feed_forward, self.hidden)
        self.matrix(blk + "ffn_up", self.feed_forward, self.hidden)
        self.matrix(blk + "ffn_down", self.hidden, self.feed_forward)

    def write(self, path: Path, *, template: str | None = TEMPLATE, **changes: Any) -> Path:
        """The file. `changes` replace metadata (dots as two underscores); None leaves a key out."""
        metadata = {f"{self.arch}.{key}": value for key, value in self.metadata.items()}
        metadata |= self.tokenizer | {k.replace("__", "."): v for k, v in changes.items()}
        if template is not None:
            metadata["tokenizer.chat_template"] = template
        tensors: dict[str, Any] = {}
        for name, values in self.weights.items():
            form = self.forms.get(name, "F32")
            if name in self.raw and form not in ("F32", "F16"):
                tensors[name] = self.raw[name], Format.known[form].ggml_type
            else:
                tensors[name] = values.astype(np.float16) if form == "F16" else values
        known = {key: value for key, value in metadata.items() if value is not None}
        return write_gguf(path, known, tensors, self.arch)

    # The model in NumPy.

    def logits(self, tokens: list[int]) -> np.ndarray:
        """float64 [n, vocabulary]: the logits after each token."""
        x = self.weights["token_embd.weight"][tokens].astype(np.float64)
        for layer in range(self.layers):
            x = self.layer(x, layer)
        x = self.norm(x, "output_norm")
        return self.times(x, "output" if "output.weight" in self.weights else "token_embd")

    def layer(self, x: np.ndarray, layer: int) -> np.ndarray:
        blk = f"blk.{layer}."
        n = self.norm(x, blk + "attn_norm")
        q, k, v = (self.times(n, f"{blk}attn_{name}") for name in "qkv")
        x = x + self.times(
            self.attention(self.heads_of(q), self.heads_of(k), self.heads_of(v)), blk + "attn_output"
        )
        n = self.norm(x, blk + "ffn_norm")
        gate, up = self.times(n, blk + "ffn_gate"), self.times(n, blk + "ffn_up")
        return x + self.times(silu(gate) * up, blk + "ffn_down")

    def heads_of(self, x: np.ndarray) -> np.ndarray:
        """[tokens, heads, head size]"""
        return x.reshape(len(x), -1, self.head_size)

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int | None = None) -> np.ndarray:
        q, k = self.rope(q), self.rope(k)
        return attend(q, k, v, q.shape[-1] ** -0.5, window)

    def rope(self, x: np.ndarray) -> np.ndarray:
        """Pairs of neighbours: the converter has permuted the rows for it."""
        n = self.head_size
        frequencies = self.rope_base ** (-np.arange(0, n, 2) / n) / (self.rope_linear or 1)
        frequencies = frequencies / self.weights.get("rope_freqs.weight", np.ones(n // 2))
        turn = np.exp(1j * np.arange(len(x))[:, None, None] * frequencies)
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)

    def times(self, x: np.ndarray, name: str) -> np.ndarray:
        if Format.known[self.forms[name + ".weight"]].quantized:
            x = dequantized_reference(x.astype(np.float32))
        y = x.astype(np.float64) @ self.weights[name + ".weight"].astype(np.float64).T
        return y + self.weights.get(name + ".bias", np.zeros(1))

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps) * self.weights[name + ".weight"]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int | None) -> np.ndarray:
    """Query t sees the keys up to its own; of these, the last `window`."""
    count, heads, _ = q.shape
    k, v = (a.astype(np.float16).astype(np.float64) for a in (k, v))
    out = np.empty(q.shape)
    for head in range(heads):
        shared = head // (heads // k.shape[1])
        for t in range(count):
            first = 0 if window is None else max(0, t - window + 1)
            scores = k[first : t + 1, shared] @ q[t, head] * scale
            p = np.exp(scores - scores.max())
            out[t, head] = p / p.sum() @ v[first : t + 1, shared]
    return out.reshape(count, -1)


def rotate_halves(
    x: np.ndarray, base: float, width: int, factors: Any = 1.0, magnitude: float = 1.0
) -> np.ndarray:
    """x * cos + rotate_half(x) * sin on the first `width` values of each head."""
    turned = x[..., :width]
    angles = np.arange(len(x))[:, None] / (base ** (np.arange(0, width, 2) / width) * factors)
    angles = np.concatenate([angles, angles], axis=-1)[:, None, :]
    half = np.concatenate([-turned[..., width // 2 :], turned[..., : width // 2]], axis=-1)
    turned = (turned * np.cos(angles) + half * np.sin(angles)) * magnitude
    return np.concatenate([turned, x[..., width:]], axis=-1)


class TinyQwen2(Tiny):
    """Biases on queries, keys and values; RoPE in halves. The file does not state the size of a head."""

    arch = "qwen2"
    eps = 1e-6

    def new_tokenizer(self) -> dict[str, Any]:
        return tokenizer_metadata(pre="qwen2")

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"biases": True, "rope_base": 1000000.0} | options)

    def more_metadata(self) -> dict[str, Any]:
        return {}

    def rope(self, x: np.ndarray) -> np.ndarray:
        return rotate_halves(x, self.rope_base, self.head_size, self.rope_linear or 1.0)


class TinyQwen3(TinyQwen2):
    """No biases; queries and keys are normalised per head."""

    arch = "qwen3"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"biases": False, "head_size": 64} | options)

    def more_metadata(self) -> dict[str, Any]:
        return {"attention.key_length": self.head_size, "attention.value_length": self.head_size}

    def make_layer(self, blk: str, *, biases: bool) -> None:
        super().make_layer(blk, biases=biases)
        self.vector(blk + "attn_q_norm.weight", self.head_size)
        self.vector(blk + "attn_k_norm.weight", self.head_size)

    def layer(self, x: np.ndarray, layer: int) -> np.ndarray:
        self.blk = f"blk.{layer}."
        return super().layer(x, layer)

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int | None = None) -> np.ndarray:
        q, k = self.norm(q, self.blk + "attn_q_norm"), self.norm(k, self.blk + "attn_k_norm")
        return super().attention(q, k, v, window)


class TinyPhi3(Tiny):
    """One matrix for queries, keys and values, one for gate and up; every layer may have a window. A long
    context comes with factors for the frequencies, short and long, and a magnitude."""

    arch = "phi3"

    def __init__(
        self, *, window: int = 0, original_context: int = 0, rope_width: int | None = None, **options: Any
    ) -> None:
        self.window, self.original_context = window, original_context
        options = {"heads": 2, "kv_heads": 2, "head_size": 96, "hidden": 192} | options
        self.rope_width = rope_width or options["head_size"]
        super().__init__(**options)
        if original_context:
            self.vector("rope_factors_long.weight", self.rope_width // 2, 1.0, 20.0)
            self.vector("rope_factors_short.weight", self.rope_width // 2, 1.0, 2.0)

    def new_tokenizer(self) -> dict[str, Any]:
        return sentence_piece_metadata(PIECES, control=[*CONTROL, "<|end|>"])

    def more_metadata(self) -> dict[str, Any]:
        more = {"rope.dimension_count": self.rope_width, "attention.sliding_window": self.window}
        if self.original_context:
            more["rope.scaling.original_context_length"] = self.original_context
            more["rope.scaling.attn_factor"] = self.magnitude
        return more

    @property
    def magnitude(self) -> float:
        scale = self.context / self.original_context
        return math.sqrt(1 + math.log(scale) / math.log(self.original_context)) if scale > 1 else 1.0

    def make_layer(self, blk: str, *, biases: bool) -> None:
        self.vector(blk + "attn_norm.weight", self.hidden)
        self.matrix(blk + "attn_qkv", (self.heads + 2 * self.kv_heads) * self.head_size, self.hidden)
        self.matrix(blk + "attn_output", self.hidden, self.heads * self.head_size)
        self.vector(blk + "ffn_norm.weight", self.hidden)
        self.matrix(blk + "ffn_up", 2 * self.feed_forward, self.hidden)
        self.matrix(blk + "ffn_down", self.hidden, self.feed_forward)

    def layer(self, x: np.ndarray, layer: int) -> np.ndarray:
        blk = f"blk.{layer}."
        qkv = self.heads_of(self.times(self.norm(x, blk + "attn_norm"), blk + "attn_qkv"))
        q, k, v = np.split(qkv, [self.heads, self.heads + self.kv_heads], axis=1)
        x = x + self.times(self.attention(q, k, v, self.window or None), blk + "attn_output")
        gate, up = np.split(self.times(self.norm(x, blk + "ffn_norm"), blk + "ffn_up"), 2, axis=1)
        return x + self.times(silu(gate) * up, blk + "ffn_down")

    def rope(self, x: np.ndarray) -> np.ndarray:
        factors: Any = 1.0
        if self.original_context:
            name = "long" if self.context > self.original_context else "short"
            factors = self.weights[f"rope_factors_{name}.weight"].astype(np.float64)
        magnitude = self.magnitude if self.original_context else 1.0
        return rotate_halves(x, self.rope_base, self.rope_width, factors, magnitude)


class TinyGemma3(TinyQwen3):
    """Embeddings times sqrt(width); norms before and after attention and feed-forward; GELU; five layers with
    a window and a RoPE base of 10000, then one without. Weights of norms are written with their 1 added."""

    arch = "gemma3"

    def __init__(self, *, window: int = 20, **options: Any) -> None:
        self.window = window
        super().__init__(**{"layers": 7, "heads": 4, "kv_heads": 1} | options)

    def new_tokenizer(self) -> dict[str, Any]:
        return sentence_piece_metadata(
            PIECES, control=CONTROL, user_defined=["  ", "\n"], add_space_prefix=False
        )

    def more_metadata(self) -> dict[str, Any]:
        return super().more_metadata() | {"attention.sliding_window": self.window}

    def make_layer(self, blk: str, *, biases: bool) -> None:
        super().make_layer(blk, biases=biases)
        self.vector(blk + "post_attention_norm.weight", self.hidden)
        self.vector(blk + "post_ffw_norm.weight", self.hidden)

    def logits(self, tokens: list[int]) -> np.ndarray:
        x = self.weights["token_embd.weight"][tokens].astype(np.float64) * np.sqrt(self.hidden)
        for layer in range(self.layers):
            x = self.layer(x, layer)
        return self.times(self.norm(x, "output_norm"), "token_embd")

    def layer(self, x: np.ndarray, layer: int) -> np.ndarray:
        blk, is_global = f"blk.{layer}.", layer % 6 == 5
        n = self.norm(x, blk + "attn_norm")
        q, k, v = (self.heads_of(self.times(n, f"{blk}attn_{name}")) for name in "qkv")
        q, k = self.norm(q, blk + "attn_q_norm"), self.norm(k, blk + "attn_k_norm")
        base, stretch = (self.rope_base, self.rope_linear or 1.0) if is_global else (10000.0, 1.0)
        q, k = (rotate_halves(a, base, self.head_size, stretch) for a in (q, k))
        scale = (self.hidden / self.heads if self.layers == 62 else self.head_size) ** -0.5
        attended = attend(q, k, v, scale, None if is_global else self.window)
        x = x + self.norm(self.times(attended, blk + "attn_output"), blk + "post_attention_norm")
        n = self.norm(x, blk + "ffn_norm")
        gate, up = self.times(n, blk + "ffn_gate"), self.times(n, blk + "ffn_up")
        gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return x + self.norm(self.times(gelu * up, blk + "ffn_down"), blk + "post_ffw_norm")


TINIES = {tiny.arch: tiny for tiny in (Tiny, TinyQwen2, TinyQwen3, TinyPhi3, TinyGemma3)}
