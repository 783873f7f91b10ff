"""A llama model of a few kilobytes with random weights, as a GGUF file, and the same model in plain NumPy.

The NumPy model is written from the published architecture, without a look at the program, in float64;
rounded are only keys and values, to float16, and what meets quantized weights, to int8 in blocks of 32.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from makers import tokenizer_metadata

from coro_rt.kernels.activations import dequantized_reference
from coro_rt.kernels.formats import Format

TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tiny:
    """Sizes and weights; `write` makes the file, `logits` is what a step should give."""

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
        own_head: bool = False,
        rope_factors: bool = False,
        seed: int = 0,
    ) -> None:
        self.layers, self.heads, self.kv_heads, self.head_size = layers, heads, kv_heads, head_size
        self.hidden, self.context = hidden, context
        self.tokenizer: dict[str, Any] = tokenizer_metadata()
        vocabulary = len(self.tokenizer["tokenizer.ggml.tokens"])
        rng = np.random.default_rng(seed)
        forms = list(Format.known) if mixed else [form]
        self.forms: dict[str, str] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.raw: dict[str, np.ndarray] = {}

        def matrix(name: str, rows: int, columns: int) -> None:
            chosen = forms[len(self.forms) % len(forms)]
            values = rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
            raw = Format.known[chosen].quantize(values)
            self.forms[name], self.raw[name] = chosen, raw.reshape(rows, -1)
            self.weights[name] = Format.known[chosen].dequantize(raw, values.shape)

        def vector(name: str, size: int, low: float = 0.5, high: float = 1.5) -> None:
            self.weights[name] = rng.uniform(low, high, size).astype(np.float32)

        matrix("token_embd.weight", vocabulary, hidden)
        for layer in range(layers):
            blk = f"blk.{layer}."
            vector(blk + "attn_norm.weight", hidden)
            matrix(blk + "attn_q.weight", heads * head_size, hidden)
            matrix(blk + "attn_k.weight", kv_heads * head_size, hidden)
            matrix(blk + "attn_v.weight", kv_heads * head_size, hidden)
            matrix(blk + "attn_output.weight", hidden, heads * head_size)
            vector(blk + "ffn_norm.weight", hidden)
            matrix(blk + "ffn_gate.weight", feed_forward, hidden)
            matrix(blk + "ffn_up.weight", feed_forward, hidden)
            matrix(blk + "ffn_down.weight", hidden, feed_forward)
        vector("output_norm.weight", hidden)
        if own_head:
            matrix("output.weight", vocabulary, hidden)
        if rope_factors:
            vector("rope_freqs.weight", head_size // 2, 1.0, 4.0)
        self.metadata: dict[str, Any] = {
            "llama.block_count": layers,
            "llama.embedding_length": hidden,
            "llama.feed_forward_length": feed_forward,
            "llama.attention.head_count": heads,
            "llama.attention.head_count_kv": kv_heads,
            "llama.attention.key_length": head_size,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.freq_base": 10000.0,
            "llama.rope.dimension_count": head_size,
            "llama.context_length": context,
        }

    def write(self, path: Path, *, template: str | None = TEMPLATE, **changes: Any) -> Path:
        """The file. `changes` replace metadata (dots as two underscores); None leaves a key out."""
        writer = gguf.GGUFWriter(path, "llama")
        metadata = self.metadata | self.tokenizer | {k.replace("__", "."): v for k, v in changes.items()}
        if template is not None:
            metadata["tokenizer.chat_template"] = template
        for key, value in metadata.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif value is not None:
                writer.add_array(key, value)
        for name, values in self.weights.items():
            if name in self.raw and self.forms[name] not in ("F32", "F16"):
                kind = gguf.GGMLQuantizationType(Format.known[self.forms[name]].ggml_type)
                writer.add_tensor(name, self.raw[name], raw_dtype=kind)
            elif self.forms.get(name) == "F16":
                writer.add_tensor(name, values.astype(np.float16))
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def logits(self, tokens: list[int]) -> np.ndarray:
        """float64 [n, vocabulary]: the logits after each token."""
        w = {name: values.astype(np.float64) for name, values in self.weights.items()}
        count, group = len(tokens), self.heads // self.kv_heads
        x = w["token_embd.weight"][tokens]
        for layer in range(self.layers):
            blk = f"blk.{layer}."
            n = self._norm(x) * w[blk + "attn_norm.weight"]
            q = self._rope(self._times(n, blk + "attn_q.weight").reshape(count, self.heads, -1))
            k = self._rope(self._times(n, blk + "attn_k.weight").reshape(count, self.kv_heads, -1))
            v = self._times(n, blk + "attn_v.weight").reshape(count, self.kv_heads, -1)
            k, v = (a.astype(np.float16).astype(np.float64) for a in (k, v))
            out = np.empty_like(q)
            for head in range(self.heads):
                scores = q[:, head] @ k[:, head // group].T / np.sqrt(self.head_size)
                scores[np.triu_indices(count, 1)] = -np.inf
                p = np.exp(scores - scores.max(1, keepdims=True))
                out[:, head] = p / p.sum(1, keepdims=True) @ v[:, head // group]
            x = x + self._times(out.reshape(count, -1), blk + "attn_output.weight")
            n = self._norm(x) * w[blk + "ffn_norm.weight"]
            gate, up = self._times(n, blk + "ffn_gate.weight"), self._times(n, blk + "ffn_up.weight")
            x = x + self._times(gate / (1 + np.exp(-gate)) * up, blk + "ffn_down.weight")
        x = self._norm(x) * w["output_norm.weight"]
        return self._times(x, "output.weight" if "output.weight" in w else "token_embd.weight")

    def _times(self, x: np.ndarray, name: str) -> np.ndarray:
        if Format.known[self.forms[name]].quantized:
            x = dequantized_reference(x.astype(np.float32))
        return x.astype(np.float64) @ self.weights[name].astype(np.float64).T

    @staticmethod
    def _norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    def _rope(self, x: np.ndarray) -> np.ndarray:
        n = self.head_size
        frequencies = 10000.0 ** (-np.arange(0, n, 2) / n) / self.weights.get(
            "rope_freqs.weight", np.ones(n // 2)
        )
        turn = np.exp(1j * np.arange(len(x))[:, None, None] * frequencies)
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)
