"""Opening a model's file: everything but the weights, which a job loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from coro_rt.devices.base import Device
from coro_rt.errors import ContextOverflow, ModelFileError, TemplateError, UnsupportedModel
from coro_rt.memory.residency import Residency

from . import bert
from .architecture import Hyperparameters
from .decoder import Model
from .devices import Devices
from .embed import EncoderModel
from .gguf_file import GGUFFile, open_gguf
from .places import Places
from .template import ChatTemplate
from .tokenizer import Tokenizer
from .wordpiece import WordPiece

LARGEST_DEFAULT_CONTEXT = 32768
"""Tokens, unless `load_model(context=...)` asks for more: some files state contexts that no memory here would
hold.
"""


def open_model(
    residency: Residency, path: Path, found: Devices, context: int | None, kv_bits: int, *, prefix_reuse: bool
) -> Places | EncoderModel:
    """What a file holds, for the devices that were found for it; reads the file, so in a thread. Raises
    ModelFileError, ContextOverflow, UnsupportedModel.
    """
    file, device = open_gguf(path), found.places[0]
    if file.architecture == bert.ARCHITECTURE:
        if found.prefill is not None:
            raise UnsupportedModel(f"{path}: an encoder has no prompts to read: leave prefill_on out")
        return _open_encoder(device, file, context, residency)
    sizes = replace(Hyperparameters.from_gguf(file), kv_bits=kv_bits)
    if context is not None and context > sizes.context:
        raise ContextOverflow(
            f"{path}: the model's context is {sizes.context} tokens, {context} were asked for"
        )
    length = context or min(sizes.context, LARGEST_DEFAULT_CONTEXT)
    tokenizer = Tokenizer.from_gguf(file)
    if tokenizer.vocab_size > sizes.vocabulary:
        raise ModelFileError(
            f"{path}: {tokenizer.vocab_size} tokens in the vocabulary, embeddings for {sizes.vocabulary}"
        )
    # what is read elsewhere is not the same to the bit, so a text must not depend on whose pages it finds
    prefix_reuse = prefix_reuse and found.prefill is None
    kinds = {each.name: (each, _kind(each)) for each in found.places}
    first = kinds[device.name][1](
        device, file, sizes, tokenizer, _template(file), length, residency, prefix_reuse=prefix_reuse
    )
    readers = {each.name: (each, None if each.kind == "npu" else _kind(each)) for each in found.readers}
    return Places(first, kinds, readers, found.borrowers, found.prefill, prefix_reuse=prefix_reuse)


def _kind(device: Device) -> type[Model]:
    if device.kind == "cpu":
        return Model
    from .gpu import GpuModel  # here: it needs an extra

    return GpuModel


def _kind_of_encoder(device: Device) -> type[EncoderModel]:
    if device.kind == "cpu":
        return EncoderModel
    from .gpu import GpuEncoder

    return GpuEncoder


def _open_encoder(device: Device, file: GGUFFile, context: int | None, residency: Residency) -> EncoderModel:
    sizes = bert.Hyperparameters.from_gguf(file)
    if context is not None and not 2 <= context <= sizes.context:
        raise ContextOverflow(
            f"{file.path}: the model's context is 2 to {sizes.context} tokens, {context} were asked for"
        )
    tokenizer = WordPiece(file)
    if tokenizer.vocab_size > sizes.vocabulary:
        raise ModelFileError(
            f"{file.path}: {tokenizer.vocab_size} tokens in the vocabulary, embeddings for {sizes.vocabulary}"
        )
    kind = _kind_of_encoder(device)
    return kind(device, file, sizes, tokenizer, context or sizes.context, residency)


def _template(file: GGUFFile) -> ChatTemplate | TemplateError:
    """The chat template, or why there is none to use: a model without may still generate."""
    try:
        template = ChatTemplate.from_gguf(file)
    except TemplateError as error:
        return error
    return template or TemplateError(
        "its file has no chat template; use generate() with a prompt of your own"
    )
