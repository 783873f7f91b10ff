"""A BERT of a few kilobytes with random weights, as a GGUF file and as a folder of safetensors, and the same
model in plain NumPy.

The NumPy model is written from the published architecture, in float64; rounded are only keys and values, to
float16, and what meets quantized weights, to int8 in blocks of 32.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from makers import write_gguf
from safetensors_maker import write_safetensors

from coro_rt.kernels.activations import dequantized_reference
from coro_rt.kernels.formats import Format

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##ting", "un", "##known"]
WORDS += [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *".,!?[]()-'"]
SPECIAL = {"padding": 0, "unknown": 1, "bos": 2, "seperator": 3, "mask": 4}
HUB_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


class TinyBert:
    """Sizes and weights; `write` and `write_folder` make files, `embed` is what they should give."""

    def __init__(
        self, *, form: str = "F32", layers: int = 2, heads: int = 4, hidden: int = 256,
        feed_forward: int = 256, context: int = 160, seed: int = 0,
    ) -> None:  # fmt: skip
        self.layers, self.heads, self.hidden, self.context = layers, heads, hidden, context
        self.feed_forward = feed_forward
        rng = np.random.default_rng(seed)
        self.format = Format.known[form]
        self.weights: dict[str, np.ndarray] = {}

        def matrix(name: str, rows: int, columns: int) -> None:
            values = rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
            self.weights[name + ".weight"] = values * np.float32(2)

        def norm(name: str) -> None:
            self.weights[name + ".weight"] = rng.uniform(0.5, 1.5, hidden).astype(np.float32)
            self.weights[name + ".bias"] = rng.uniform(-0.5, 0.5, hidden).astype(np.float32)

        matrix("token_embd", len(WORDS), hidden)
        matrix("position_embd", context, hidden)
        matrix("token_types", 2, hidden)
        norm("token_embd_norm")
        for layer in range(layers):
            for part, rows, columns in [
                ("attn_q", hidden, hidden),
                ("attn_k", hidden, hidden),
                ("attn_v", hidden, hidden),
                ("attn_output", hidden, hidden),
                ("ffn_up", feed_forward, hidden),
                ("ffn_down", hidden, feed_forward),
            ]:
                matrix(f"blk.{layer}.{part}", rows, columns)
                bias = rng.uniform(-0.5, 0.5, rows).astype(np.float32)
                self.weights[f"blk.{layer}.{part}.bias"] = bias
            norm(f"blk.{layer}.attn_output_norm")
            norm(f"blk.{layer}.layer_output_norm")
        self.raw = {
            name: self.format.quantize(values).reshape(len(values), -1)
            for name, values in self.weights.items()
            if values.ndim == 2 and name not in ("position_embd.weight", "token_types.weight")
        }
        self.seen = {
            name: self.format.dequantize(self.raw[name], values.shape) if name in self.raw else values
            for name, values in self.weights.items()
        }

    @property
    def metadata(self) -> dict[str, Any]:
        names = [
            word if i < 5 else word[2:] if word.startswith("##") else "\u2581" + word
            for i, word in enumerate(WORDS)
        ]
        return {
            "bert.block_count": self.layers,
            "bert.context_length": self.context,
            "bert.embedding_length": self.hidden,
            "bert.feed_forward_length": self.feed_forward,
            "bert.attention.head_count": self.heads,
            "bert.attention.layer_norm_epsilon": 1e-12,
            "bert.attention.causal": False,
            "bert.pooling_type": 1,
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": names,
            "tokenizer.ggml.token_type": [3 if i < 5 else 1 for i in range(len(WORDS))],
            **{f"tokenizer.ggml.{key}_token_id": token for key, token in SPECIAL.items()},
        }

    def write(self, path: Path, **changes: Any) -> Path:
        """The GGUF file. `changes` replace metadata (dots as two underscores); None leaves a key out."""
        metadata = self.metadata | {key.replace("__", "."): value for key, value in changes.items()}
        tensors = {
            name: (self.raw[name], self.format.ggml_type) if name in self.raw else values
            for name, values in self.weights.items()
        }
        return write_gguf(path, {k: v for k, v in metadata.items() if v is not None}, tensors, "bert")

    def write_folder(self, folder: Path, *, prefix: str = "", dtype: str = "F32") -> Path:
        """The folder as it would be on a model hub."""
        folder.mkdir(exist_ok=True)
        config = {
            "model_type": "bert",
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "type_vocab_size": 2,
            "vocab_size": len(WORDS),
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
        }
        (folder / "config.json").write_text(json.dumps(config))
        tokenizer = {
            "normalizer": {
                "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                "strip_accents": None, "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "added_tokens": [{"id": i, "content": WORDS[i], "special": True} for i in range(5)],
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "vocab": {word: i for i, word in enumerate(WORDS)},
            },
        }  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        tensors = {}
        for name, values in self.weights.items():
            stem, _, kind = name.rpartition(".")
            block, _, part = stem.rpartition(".")
            layer = f"encoder.layer.{block[4:]}." if block else ""
            tensors[f"{prefix}{layer}{HUB_NAMES[part]}.{kind}"] = values
        tensors[prefix + "embeddings.position_ids"] = np.arange(self.context)[None]
        tensors["pooler.dense.weight"] = np.zeros((self.hidden, self.hidden), np.float32)
        write_safetensors(folder / "model.safetensors", tensors, dtype=dtype)
        return folder

    def embed(self, ids: list[int], *, pooled: int | None = None) -> np.ndarray:
        """float64 [hidden]."""
        w = {name: values.astype(np.float64) for name, values in self.seen.items()}
        x = w["token_embd.weight"][ids] + w["position_embd.weight"][: len(ids)] + w["token_types.weight"][0]
        x = self._norm(x, "token_embd_norm")
        for layer in range(self.layers):
            blk = f"blk.{layer}."
            q, k, v = (
                self._times(x, f"{blk}attn_{part}").reshape(len(ids), self.heads, -1) for part in "qkv"
            )
            k, v = (part.astype(np.float16).astype(np.float64) for part in (k, v))
            scores = np.einsum("thn,shn->hts", q, k) / math.sqrt(q.shape[-1])
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            attended = np.einsum("hts,shn->thn", p, v).reshape(len(ids), -1)
            x = self._norm(x + self._times(attended, f"{blk}attn_output"), f"{blk}attn_output_norm")
            up = self._times(x, f"{blk}ffn_up")
            up = up * (1 + np.vectorize(math.erf)(up / math.sqrt(2))) / 2
            x = self._norm(x + self._times(up, f"{blk}ffn_down"), f"{blk}layer_output_norm")
        mean = x[:pooled].mean(0)
        return mean / np.linalg.norm(mean)

    def _times(self, x: np.ndarray, name: str) -> np.ndarray:
        if self.format.quantized:
            x = dequantized_reference(x.astype(np.float32))
        weight, bias = self.seen[name + ".weight"], self.seen[name + ".bias"]
        return x.astype(np.float64) @ weight.astype(np.float64).T + bias

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * self.seen[name + ".weight"] + self.seen[name + ".bias"]
