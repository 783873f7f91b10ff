"""A folder as published on model hubs (config.json, safetensors, tokenizer.json) as a source of a GGUF file.

Two architectures: `llama` and `bert`. Tensors get their GGUF names from the `gguf` package's table, and each
that the architecture needs must be there with its shape. What the folder says and a GGUF file cannot say, or
nothing here can compute, is UnsupportedModel: no guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
from gguf.constants import MODEL_ARCH, PoolingType

from coro_rt.errors import ModelFileError, ModelNotFound, UnsupportedModel

from .convert_tokenizer import tokenizer_metadata
from .gguf_writer import boolean, float32, string, uint32
from .safetensors_file import StoredTensor, read_safetensors
from .settings_file import SettingsFile
from .source import Source, SourceTensor

__all__ = ["from_folder"]

Shapes = dict[str, tuple[int, ...]]


class Architecture(NamedTuple):
    """How a `model_type` becomes GGUF."""

    arch: MODEL_ARCH
    metadata: Callable[[SettingsFile], dict[str, bytes]]
    shapes: Callable[[SettingsFile], tuple[Shapes, Shapes]]
    """Tensors that must be there, and those that may be."""
    prefix: str
    """Of some files' tensor names, before those that the table knows."""
    unused: tuple[str, ...]
    """Parts of the names of tensors that are left out."""


def from_folder(path: Path) -> Source:
    """The model in a folder, or the one in a safetensors file beside its config.json.

    Raises ModelNotFound, ModelFileError and UnsupportedModel.
    """
    folder = path if path.is_dir() else path.parent
    files = _weights(folder) if path.is_dir() else [path]
    config = SettingsFile.read(folder / "config.json")
    kind = config.require("model_type", str)
    if kind not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{config.path}: the model type {kind!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[kind]
    metadata = {"general.architecture": string(kind)} | architecture.metadata(config)
    tensors = list(_tensors(files, architecture, config))
    vocabulary = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    metadata |= tokenizer_metadata(folder, config, vocabulary)
    return Source(metadata, tensors, files)


def _weights(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = SettingsFile.read(index).require("weight_map", dict).values()
        shards = sorted({name for name in names if isinstance(name, str) and Path(name).name == name})
        if not shards:
            raise ModelFileError(f"{index}: 'weight_map' names no files of this folder")
        return [folder / name for name in shards]
    found = sorted(folder.glob("*.safetensors"))
    if folder / "model.safetensors" in found:
        return [folder / "model.safetensors"]
    if len(found) != 1:
        raise ModelNotFound(f"{folder} holds {len(found)} safetensors files; model.safetensors was expected")
    return found


def _tensors(files: list[Path], architecture: Architecture, config: SettingsFile) -> Iterator[SourceTensor]:
    needed, optional = architecture.shapes(config)
    layers = config.require("num_hidden_layers", int)
    table = gguf.get_tensor_name_map(architecture.arch, layers)
    stored: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_safetensors(file).items():
            if any(part in name for part in architecture.unused):
                continue
            known = table.get_name(name.removeprefix(architecture.prefix), try_suffixes=(".weight", ".bias"))
            if known is None or known not in needed | optional:
                raise UnsupportedModel(
                    f"{file}: nothing is known of the tensor {name!r} in this architecture"
                )
            stored[known] = tensor
    for name, shape in (needed | optional).items():
        if name not in stored:
            if name in needed:
                raise ModelFileError(f"{files[0].parent}: the tensor {name} is missing")
            continue
        tensor = stored[name]
        if tensor.shape != shape:
            raise ModelFileError(
                f"{tensor.path}: {tensor.name} has shape {tensor.shape}, expected was {shape}"
            )
        order = None
        if architecture.arch is MODEL_ARCH.LLAMA and name.endswith(("attn_q.weight", "attn_k.weight")):
            # pairs that turn together stand half a head apart there, and beside each other in GGUF
            half = _head_size(config) // 2
            order = np.arange(shape[0]).reshape(-1, 2, half).swapaxes(1, 2).reshape(-1)
        yield SourceTensor(name, shape, tensor.format, tensor.data, order)


# llama


def _head_size(config: SettingsFile) -> int:
    heads = config.require("num_attention_heads", int)
    size: int = config.get("head_dim", int, None) or config.require("hidden_size", int) // max(heads, 1)
    if heads < 1 or size < 2 or size % 2:
        raise ModelFileError(f"{config.path}: {heads} heads of {size} values")
    return size


def _llama_metadata(config: SettingsFile) -> dict[str, bytes]:
    rope = config.get("rope_parameters", dict, None) or config.get("rope_scaling", dict, None) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnsupportedModel(f"{config.path}: RoPE scaling {kind!r} is not supported; supported: default")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key, bool, False):
            raise UnsupportedModel(f"{config.path}: {key} is not supported in this architecture")
    if (activation := config.get("hidden_act", str, "silu")) != "silu":
        raise UnsupportedModel(f"{config.path}: the activation {activation!r} is not supported; 'silu' is")
    heads = config.require("num_attention_heads", int)
    base = rope.get("rope_theta") or config.get("rope_theta", (int, float), 10000.0)
    return {
        "llama.block_count": uint32(config.require("num_hidden_layers", int)),
        "llama.context_length": uint32(config.require("max_position_embeddings", int)),
        "llama.embedding_length": uint32(config.require("hidden_size", int)),
        "llama.feed_forward_length": uint32(config.require("intermediate_size", int)),
        "llama.attention.head_count": uint32(heads),
        "llama.attention.head_count_kv": uint32(config.get("num_key_value_heads", int, heads)),
        "llama.attention.key_length": uint32(_head_size(config)),
        "llama.attention.value_length": uint32(_head_size(config)),
        "llama.attention.layer_norm_rms_epsilon": float32(config.require("rms_norm_eps", (int, float))),
        "llama.rope.dimension_count": uint32(_head_size(config)),
        "llama.rope.freq_base": float32(base),
        "llama.vocab_size": uint32(config.require("vocab_size", int)),
    }


def _llama_shapes(config: SettingsFile) -> tuple[Shapes, Shapes]:
    hidden, gated = config.require("hidden_size", int), config.require("intermediate_size", int)
    vocabulary, heads = config.require("vocab_size", int), config.require("num_attention_heads", int)
    queries = heads * _head_size(config)
    keys = config.get("num_key_value_heads", int, heads) * _head_size(config)
    needed: Shapes = {"token_embd.weight": (vocabulary, hidden)}
    for layer in range(config.require("num_hidden_layers", int)):
        blk = f"blk.{layer}"
        needed |= {
            f"{blk}.attn_norm.weight": (hidden,),
            f"{blk}.attn_q.weight": (queries, hidden),
            f"{blk}.attn_k.weight": (keys, hidden),
            f"{blk}.attn_v.weight": (keys, hidden),
            f"{blk}.attn_output.weight": (hidden, queries),
            f"{blk}.ffn_norm.weight": (hidden,),
            f"{blk}.ffn_gate.weight": (gated, hidden),
            f"{blk}.ffn_up.weight": (gated, hidden),
            f"{blk}.ffn_down.weight": (hidden, gated),
        }
    needed["output_norm.weight"] = (hidden,)
    head: Shapes = {"output.weight": (vocabulary, hidden)}
    return (needed, head) if config.get("tie_word_embeddings", bool, False) else (needed | head, {})


# bert


def _bert_metadata(config: SettingsFile) -> dict[str, bytes]:
    if (kind := config.get("position_embedding_type", str, "absolute")) != "absolute":
        raise UnsupportedModel(f"{config.path}: {kind!r} positions are not supported; 'absolute' ones are")
    if (activation := config.get("hidden_act", str, "gelu")) != "gelu":
        raise UnsupportedModel(f"{config.path}: the activation {activation!r} is not supported; 'gelu' is")
    return {
        "bert.block_count": uint32(config.require("num_hidden_layers", int)),
        "bert.context_length": uint32(config.require("max_position_embeddings", int)),
        "bert.embedding_length": uint32(config.require("hidden_size", int)),
        "bert.feed_forward_length": uint32(config.require("intermediate_size", int)),
        "bert.attention.head_count": uint32(config.require("num_attention_heads", int)),
        "bert.attention.layer_norm_epsilon": float32(config.require("layer_norm_eps", (int, float))),
        "bert.attention.causal": boolean(False),
        "bert.pooling_type": uint32(_pooling(config.path.parent)),
    }


def _pooling(folder: Path) -> PoolingType:
    """What the folder says of pooling, in the way of sentence encoders; the mean if it says nothing."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return PoolingType.MEAN
    settings = SettingsFile.read(path)
    chosen = {
        key for key, value in settings.values.items() if key.startswith("pooling_mode") and value is True
    }
    if settings.values.get("pooling_mode") in ("mean", "cls"):
        chosen = {f"pooling_mode_{settings.values['pooling_mode']}"}
    if chosen == {"pooling_mode_mean_tokens"} or chosen == {"pooling_mode_mean"}:
        return PoolingType.MEAN
    if chosen == {"pooling_mode_cls_token"} or chosen == {"pooling_mode_cls"}:
        return PoolingType.CLS
    raise UnsupportedModel(
        f"{path}: pooling by {sorted(chosen)} is not supported; the mean and the first token are"
    )


def _bert_shapes(config: SettingsFile) -> tuple[Shapes, Shapes]:
    hidden, gated = config.require("hidden_size", int), config.require("intermediate_size", int)
    needed: Shapes = {
        "token_embd.weight": (config.require("vocab_size", int), hidden),
        "position_embd.weight": (config.require("max_position_embeddings", int), hidden),
        "token_types.weight": (config.require("type_vocab_size", int), hidden),
        "token_embd_norm.weight": (hidden,),
        "token_embd_norm.bias": (hidden,),
    }
    for layer in range(config.require("num_hidden_layers", int)):
        for part, shape in {
            "attn_q": (hidden, hidden),
            "attn_k": (hidden, hidden),
            "attn_v": (hidden, hidden),
            "attn_output": (hidden, hidden),
            "attn_output_norm": (hidden,),
            "ffn_up": (gated, hidden),
            "ffn_down": (hidden, gated),
            "layer_output_norm": (hidden,),
        }.items():
            needed[f"blk.{layer}.{part}.weight"] = shape
            needed[f"blk.{layer}.{part}.bias"] = shape[:1]
    return needed, {}


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(MODEL_ARCH.LLAMA, _llama_metadata, _llama_shapes, "", ("rotary_emb.inv_freq",)),
    "bert": Architecture(
        MODEL_ARCH.BERT, _bert_metadata, _bert_shapes, "bert.", ("position_ids", "pooler.", "cls.")
    ),
}
