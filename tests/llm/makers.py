"""Small GGUF files for the tests of this folder, written with the `gguf` package."""

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from coro_rt.llm.byte_level import BYTE_OF
from coro_rt.llm.gguf_file import GGUFFile

BYTE_NAMES = [name for name, _ in sorted(BYTE_OF.items(), key=lambda item: item[1])]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_gguf(
    path: Path, metadata: Mapping[str, Any] = {}, tensors: Mapping[str, Any] = {}, arch: str = "llama"
) -> Path:
    """Metadata values: bool, int (as UINT32), float (as FLOAT32), str, or a list of one of these.

    Tensors: arrays (uint8: Q8_0), or bytes with the number of their type.
    """
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, array in tensors.items():
        array, kind = array if isinstance(array, tuple) else (array, None)
        if kind is None and array.dtype == np.uint8:
            kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, array, raw_dtype=None if kind is None else gguf.GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_memory(metadata: Mapping[str, Any], arch: str = "llama") -> GGUFFile:
    """A file without tensors that was never written."""
    return GGUFFile(
        Path("memory.gguf"), 1, mmap.mmap(-1, 1), {"general.architecture": arch} | dict(metadata), {}
    )


def sentence_piece_metadata(
    pieces: Mapping[str, float],
    control: Sequence[str] = ("<s>", "</s>", "<|user|>"),
    user_defined: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """A SentencePiece vocabulary: unknown, control tokens, bytes, pieces with scores, user-defined tokens."""
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", *control, *spelled, *pieces, *user_defined]
    kinds = [2] + [3] * len(control) + [6] * 256 + [1] * len(pieces) + [4] * len(user_defined)
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "token_type": kinds,
        "scores": [0.0] * (257 + len(control)) + [*pieces.values()] + [0.0] * len(user_defined),
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | more
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


def small_gguf(path: Path) -> Path:
    """A file with a value of every kind that matters and three tensors, about 800 bytes."""
    return write_gguf(
        path,
        {
            "llama.block_count": 2,
            "llama.rope.freq_base": 10000.0,
            "general.name": "småll",
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.tokens": ["a", "bc", ""],
            "tokenizer.ggml.token_type": [1, 1, 3],
        },
        {
            "norm": np.arange(5, dtype=np.float32),
            "half": np.arange(12, dtype=np.float16).reshape(3, 4),
            "quantized": np.arange(2 * 68, dtype=np.uint8).reshape(2, 68),
        },
    )


def tokenizer_metadata(
    merges: Sequence[str] = ("h e", "l l", "he ll", "hell o", "Ġ hello"),
    control: Sequence[str] = CONTROL,
    user_defined: Sequence[str] = (),
    missing_bytes: bytes = b"",
    stray_merges: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """A byte-level vocabulary: the control tokens, the single bytes, what the merges make, the user-defined
    tokens.

    `stray_merges` come without a token of their own. `more` replaces keys of `tokenizer.ggml.`; None leaves
    one out.
    """
    ordinary = [name for byte, name in enumerate(BYTE_NAMES) if byte not in missing_bytes]
    ordinary += [merge.replace(" ", "") for merge in merges]
    keys = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": [*control, *ordinary, *user_defined],
        "token_type": [3] * len(control) + [1] * len(ordinary) + [4] * len(user_defined),
        "merges": [*merges, *stray_merges],
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | more
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}
