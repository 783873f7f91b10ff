"""A GGUF file of random weights in the shape of a published model, quantized as llama.cpp's Q4_K_M does it.

python benchmarks/random_model.py qwen2.5-0.5b OUT.gguf

For timing alone: its text is noise. Architecture `llama` (no biases), since only the shapes matter. Formats
follow llama.cpp's rules: Q4_K; Q6_K for the output head and for half of the layers' attn_v and ffn_down; and
where a row is no multiple of 256, Q5_0 instead of Q4_K and Q8_0 instead of Q6_K. Blocks are random bytes with
scales that make values of about 1/sqrt(columns), not quantized floats, which would take minutes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from coro_rt.kernels.formats import Bytes, Format
from coro_rt.llm.byte_level import BYTE_OF


@dataclass(frozen=True)
class Shape:
    """Sizes as published; the embedding is the output head as well."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    head_size: int


SHAPES = {
    "qwen2.5-0.5b": Shape(24, 896, 14, 2, 4864, 151936, 64),
    "qwen2.5-1.5b": Shape(28, 1536, 12, 2, 8960, 151936, 128),
}
FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}


def more_bits(layer: int, layers: int) -> bool:
    """Which layers' attn_v and ffn_down get Q6_K: the first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def blocks(form: Format, rows: int, columns: int, rng: np.random.Generator) -> Bytes:
    """uint8 [rows, bytes of a row]: random codes and small scales under sane large ones."""
    raw = np.frombuffer(rng.bytes(rows * form.row_bytes(columns)), form.block).copy()
    # the root of the mean square of code times small scale, for uniform bytes
    size = {"Q5_0": 9.2, "Q8_0": 74, "Q4_K": 190, "Q6_K": 1370}[form.name]
    raw["d"] = columns**-0.5 / size
    if "m" in (form.block.names or ()):
        raw["m"] = columns**-0.5 / size * 7.5
    return raw.view(np.uint8).reshape(rows, -1)


def write(shape: Shape, path: Path, seed: int = 0) -> None:
    """The file; some seconds per gigabyte."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    _metadata(writer, shape)

    def matrix(name: str, rows: int, columns: int, wanted: str = "Q4_K") -> None:
        form = Format.known[FALLBACK[wanted] if columns % 256 else wanted]
        raw = blocks(form, rows, columns, rng)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType(form.ggml_type))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(shape.hidden, np.float32))

    width, kv_width = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    matrix("token_embd.weight", shape.vocabulary, shape.hidden, "Q6_K")
    norm("output_norm.weight")
    for layer in range(shape.layers):
        block, more = f"blk.{layer}.", "Q6_K" if more_bits(layer, shape.layers) else "Q4_K"
        norm(block + "attn_norm.weight")
        matrix(block + "attn_q.weight", width, shape.hidden)
        matrix(block + "attn_k.weight", kv_width, shape.hidden)
        matrix(block + "attn_v.weight", kv_width, shape.hidden, more)
        matrix(block + "attn_output.weight", shape.hidden, width)
        norm(block + "ffn_norm.weight")
        matrix(block + "ffn_gate.weight", shape.feed_forward, shape.hidden)
        matrix(block + "ffn_up.weight", shape.feed_forward, shape.hidden)
        matrix(block + "ffn_down.weight", shape.hidden, shape.feed_forward, more)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(4096)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    # the single bytes, one merge, and words that no text holds
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTE_OF, "he"]
    types = [3] * 3 + [1] * (shape.vocabulary - 3)
    tokens += [f"<unused{nth}>" for nth in range(shape.vocabulary - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: random_model.py {{{','.join(SHAPES)}}} OUT.gguf")
    write(SHAPES[sys.argv[1]], Path(sys.argv[2]))
