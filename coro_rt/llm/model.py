"""A loaded language model: what an application holds, and what its jobs work with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread
import numpy as np

from coro_rt.devices.base import Device
from coro_rt.devices.cpu import CpuDevice
from coro_rt.errors import (
    ContextOverflow,
    DeviceLost,
    JobCancelled,
    ModelFileError,
    TemplateError,
    UnsupportedModel,
)
from coro_rt.job import Job
from coro_rt.kernels.formats import Floats
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.kernels.program import LONGEST_BURST, Program
from coro_rt.memory.budget import Kind
from coro_rt.memory.pages import Page
from coro_rt.memory.prefixes import Prefixes
from coro_rt.memory.residency import Holder, Residency
from coro_rt.schedulers.pace import CHUNK
from coro_rt.stream import Stream
from coro_rt.traps import current_job

from . import bert
from .architecture import Hyperparameters
from .build import build, nbytes
from .catalog import resolve
from .chooser import Wanted
from .conversation import Conversation, Turn
from .devices import Devices, choose_devices
from .embed import EncoderModel, checked_texts, embed
from .generate import Token, generate, score
from .gguf_file import GGUFFile, open_gguf
from .loaded import Loaded, Words, closed_error
from .measured import Measured
from .places import Places
from .request import Message, chat_ids, checked_ids, make_request, prompt_ids
from .sampling import SamplingParams
from .seat import Lender
from .sequence import Sequence
from .template import ChatTemplate
from .tokenizer import Tokenizer
from .turnaround import Turnaround
from .wordpiece import WordPiece
from .workspaces import Workspaces

if TYPE_CHECKING:
    from coro_rt.runtime import Runtime

LARGEST_DEFAULT_CONTEXT = 32768
"""Tokens, unless `load_model(context=...)` asks for more: some files state contexts that no memory here would
hold.
"""


class Model(Loaded):
    """What the jobs share that generate with one model on one device. Its program runs on the CPU; other
    devices have subclasses.
    """

    def __init__(
        self,
        device: Device,
        file: GGUFFile,
        sizes: Hyperparameters,
        tokenizer: Tokenizer,
        template: ChatTemplate | TemplateError,
        context: int,
        residency: Residency,
        *,
        prefix_reuse: bool,
        words: Words | None = None,
    ) -> None:
        size = self.nbytes_of(file, sizes, context)
        words = words or Words(sizes.vocabulary)
        super().__init__(device, file, size, sizes.widths, words, context, residency)
        self.sizes, self.tokenizer, self.template = sizes, tokenizer, template
        self.workspaces = Workspaces(self)
        self.prefixes = Prefixes(residency.pages) if prefix_reuse else None
        self.turnaround = Turnaround()
        self.ends = np.array(sorted(tokenizer.eos_ids), np.int32)

    def on(self, device: Device, kind: type[Model], *, prefix_reuse: bool) -> Model:
        """The same for another device; of what is in memory they share the tokenizer."""
        return kind(
            device, self.file, self.sizes, self.tokenizer, self.template, self.context, self.residency,
            prefix_reuse=prefix_reuse, words=self.words,
        )  # fmt: skip

    @staticmethod
    def nbytes_of(file: GGUFFile, sizes: Hyperparameters, context: int) -> int:
        """What `build` takes, to be asked of the memory budget first."""
        return nbytes(file, sizes, context)

    def build(self) -> Any:
        program = Program(self._nbytes)
        build(self.file, self.sizes, self.context, program)
        return program

    def spare_page(self) -> tuple[int, Callable[[], None]]:
        """A page as tables have it, and how it is given back. Raises MemoryBudgetExceeded."""
        size, what = self.sizes.kv.page_bytes, "a page of keys and values"
        page = Page(size, self.residency.budget.reserve(size, what, Kind.PAGES))
        return page.address, page.drop

    def new_sequence(self, *, reuse: bool = True) -> Sequence:
        """`reuse`: its full pages may serve others, and those of others may serve it."""
        return Sequence(self, self.prefixes if reuse else None)

    @contextmanager
    def lend(self, answer: list[str], *, reuse: bool = True) -> Iterator[Sequence]:
        """A sequence for one job, given back when it ends. (A `Turn` of a conversation lends the
        conversation's.)
        """
        sequence = self.new_sequence(reuse=reuse)
        try:
            with sequence.used_by(current_job()):
                yield sequence
        finally:
            sequence.release()

    def check(self, prompt: int, tokens: int) -> None:
        """Raise MemoryBudgetExceeded if a prompt of so many tokens, or a sequence, could never be held."""
        reading = self._sequence_bytes(prompt) + self.workspaces.bytes_for(min(prompt, CHUNK))
        writing = self._sequence_bytes(tokens) + self.workspace_bytes(1, 1)
        what = f"{self.name} with a sequence of {tokens} tokens"
        self.residency.check(self._nbytes + max(reading, writing), what)

    def _sequence_bytes(self, tokens: int) -> int:
        return -(-tokens // PAGE_POSITIONS) * self.sizes.kv.page_bytes

    def fits(self, tokens: int) -> bool:
        """Whether there is memory that nobody uses, to load it if need be and for a sequence of so many
        tokens.
        """
        free = self.residency.budget.free
        step = self.workspaces.lacking(min(tokens, CHUNK))
        return free is None or self.missing_bytes + self._sequence_bytes(tokens) + step <= free

    def abandon(self, lost: DeviceLost) -> None:
        super().abandon(lost)
        self.workspaces.trim(0)
        if self.prefixes is not None:
            self.prefixes.clear()
        self.residency.changed()

    def give_back(self) -> None:
        super().give_back()
        if self.prefixes is not None:
            self.prefixes.clear()

    def idle(self) -> None:
        self.workspaces.trim(0)

    def spare_bytes(self, holder: Holder | None) -> int:
        return self.workspaces.spare_bytes(self._rows_for(holder))

    def drop_spare(self, holder: Holder | None) -> None:
        self.workspaces.trim(self._rows_for(holder))

    def _rows_for(self, holder: Holder | None) -> int:
        return holder.rows if isinstance(holder, Sequence) and holder.model is self else 0


class LLM:
    """A language model on a runtime. Made by `Runtime.load_model`; close it, or use it with `async with`.

    What its file holds decides what it can do: a model that generates has all methods but `embed`, an encoder
    has `embed` alone. The others raise UnsupportedModel.
    """

    def __init__(self, runtime: Runtime, model: Places | EncoderModel) -> None:
        self._runtime = runtime
        self._held: Places | EncoderModel | None = model
        first = model.first if isinstance(model, Places) else model
        self.name = first.name
        self.context = first.context

    @property
    def places(self) -> Places:
        """The devices that it may run on, and who chooses among them."""
        held = self._loaded()
        if isinstance(held, EncoderModel):
            raise UnsupportedModel(
                f"{self.name} is an encoder: it makes embeddings of texts with embed(), "
                "and cannot generate or score any"
            )
        return held

    @property
    def tokenizer(self) -> Tokenizer | WordPiece:
        """The file's own tokenizer: `encode`, `decode`."""
        held = self._loaded()
        return held.first.tokenizer if isinstance(held, Places) else held.tokenizer

    def generate(
        self, prompt: str | Tokens[int], *, max_tokens: int = 256, temperature: float = 0.0, top_k: int = 0,
        top_p: float = 1.0, repetition_penalty: float = 1.0, seed: int = 0, stop: str | Tokens[str] = (),
        ignore_eos: bool = False, buffer: int = LONGEST_BURST, device: str | None = None,
        _lender: Turn | None = None,
    ) -> Stream[Token]:  # fmt: skip
        """Stream what the model puts after `prompt` (text, or token ids).

        It ends with the model's own end of text, a `stop` string (not part of the text), or after
        `max_tokens`; the stream's `finish_reason` says which ("stop", "length"), its `usage` what it took.
        Temperature 0 is greedy; else tokens are drawn with randomness that depends on `seed` and position
        alone: the same call gives the same text. `buffer` tokens at most are kept; then the job waits for the
        task. `device` pins it to one of the model's devices, or to another CPU device of the runtime. Else it
        begins where `places.chooser` says, may move between two tokens, and goes on elsewhere if its device
        is lost; DeviceLost only if there is nowhere to go.

        Raises SamplingError, ContextOverflow, ValueError, DeviceError at once, and MemoryBudgetExceeded if
        prompt and `max_tokens` could never be in memory together; RuntimeClosed after `aclose`. If they only
        do not fit now, the stream waits.
        """
        places = self.places
        model = places.first
        sampling = SamplingParams(temperature, top_k, top_p, repetition_penalty, seed)
        request = make_request(
            model, prompt_ids(model, prompt), max_tokens, sampling, stop, ignore_eos=ignore_eos
        )
        size = len(request.prompt)
        route = places.route(Wanted(size, size, request.max_tokens), device)
        model = places.model(route.decode)
        model.check(size, size + request.max_tokens - 1)
        return Stream(
            self._runtime, generate, (places, request, _lender or Lender(), route), buffer=buffer,
            device=route.decode, batch=model.pace,
        )  # fmt: skip

    def chat(self, messages: str | Tokens[Message], **options: Any) -> Stream[Token]:
        """Stream the answer to a question, or to a list of {"role": ..., "content": ...}. Options as for
        `generate`.

        The prompt is made by the chat template in the model's file. Raises TemplateError if there is none.
        """
        return self.generate(chat_ids(self.places.first, messages), **options)

    def conversation(self, *, system: str | None = None) -> Conversation:
        """A chat that remembers: what was said stays in memory, and only what is new is read at each turn."""
        return Conversation(self, self._open().new_sequence(), system)

    async def score(self, ids: Tokens[int]) -> Floats:
        """float32 [n-1]: the log-probability of each token of `ids` after the first, given those before."""
        places = self.places
        checked = checked_ids(places.first, ids)
        if len(checked) < 2:
            raise ValueError(f"scoring needs at least 2 tokens, not {len(checked)}")
        place = places.route(Wanted(len(checked), len(checked), 0)).decode
        return await self._runtime.run(score, places, checked, place, device=place)

    async def embed(self, texts: Tokens[str], *, truncate: bool = False) -> Floats:
        """float32 [texts, width]: for each text a vector of length 1. The nearer in meaning two texts are,
        the larger is the product of theirs.

        A text's vector does not depend on what it is embedded with. With `truncate`, a text that is longer
        than the context loses its end; else it is ContextOverflow. TypeError if `texts` is no sequence of
        str; UnsupportedModel if the model is no encoder.
        """
        model = self._loaded()
        if isinstance(model, Places):
            raise UnsupportedModel(
                f"{self.name} generates text and has no embeddings of texts; "
                "load an encoder for that, such as all-minilm-l6-v2"
            )
        checked = checked_texts(texts)
        if not checked:
            return np.empty((0, model.sizes.hidden), np.float32)
        job = partial(embed, model, checked, truncate=truncate)
        return await self._runtime.run(job, device=model.device.name)

    async def aclose(self) -> None:
        """End what still runs and give the memory back. Further calls do nothing."""
        held, self._held = self._held, None
        if held is None:
            return
        held.close()
        try:
            if held.jobs:
                await self._runtime._tidy(_end, list(held.jobs))
        finally:
            held.give_back()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        held = getattr(self, "_held", None)
        if held is not None:
            held.lose()
            if self._runtime.closed:  # and the model with it
                return
            warnings.warn(
                f"the model {self.name} was not closed: use `async with await runtime.load_model(...)`",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"<LLM {self.name!r}{'' if self._held else ' closed'}>"

    def _loaded(self) -> Places | EncoderModel:
        if self._held is None:
            raise closed_error(self.name)
        return self._held

    def _open(self) -> Model:
        """The model on the device that it was loaded for."""
        places = self.places
        return places.model(places.names[0])


async def load_model(
    runtime: Runtime,
    source: str | PathLike[str],
    *,
    context: int | None = None,
    kv_bits: int = 16,
    device: str | None = None,
    devices: Tokens[str] | None = None,
    prefix_reuse: bool = True,
    prefill_on: str | None = None,
) -> LLM:
    """Load a model by catalogue name or from a GGUF file; see `Runtime.load_model`."""
    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 1):
        raise ValueError(f"context is a number of tokens, at least 1, not {context!r}")
    if kv_bits not in (8, 16):
        raise ValueError(f"keys and values are kept in 16 bits or in 8, not in {kv_bits!r}")
    found = choose_devices(runtime.devices, device, devices, prefill_on, kv_bits)
    opening = partial(
        _open_model, runtime._residency, resolve(source), found, context, kv_bits, prefix_reuse=prefix_reuse
    )
    made: list[Places | EncoderModel] = []  # not returned: a worker thread keeps its last result alive
    await anyio.to_thread.run_sync(lambda: made.append(opening()))
    held = made.pop()
    try:
        if isinstance(held, Places):
            await _load_somewhere(runtime, held)
        else:
            await runtime.run(_load, held, device=held.device.name)
        if isinstance(held, Places) and found.prefill is not None:
            if found.prefill.kind == "npu":
                await anyio.to_thread.run_sync(held.load_reader, found.prefill)
            else:
                name = found.prefill.name
                await runtime.run(_load, held.model(name), device=name)
    except BaseException:
        held.give_back()
        raise
    if isinstance(held, Places) and held.differ:
        held.chooser = Measured.of(runtime._engine, held.first)
    return LLM(runtime, held)


async def _load_somewhere(runtime: Runtime, places: Places) -> None:
    """At the first of its places that is not lost meanwhile."""
    place, gone = places.names[0], set[str]()
    while True:
        model = places.model(place)
        try:
            await runtime.run(_load, model, device=place)
            return
        except DeviceLost as lost:
            gone |= {place, lost.device}
            place = places.elsewhere(lost, Wanted(0, 0, 0), gone)
            places.drop(model, lost)


async def _load(model: Model | EncoderModel) -> None:
    """A job, so that loading has a place among what others want to load, and waits for memory like them."""
    async with model.in_use():
        pass


def _open_model(
    residency: Residency, path: Path, found: Devices, context: int | None, kv_bits: int, *, prefix_reuse: bool
) -> Places | EncoderModel:
    """Everything but the weights."""
    file, device = open_gguf(path), found.places[0]
    if file.architecture == bert.ARCHITECTURE:
        if not isinstance(device, CpuDevice):
            raise UnsupportedModel(f"{path}: encoders run on the CPU: load it with device='cpu'")
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
    return EncoderModel(device, file, sizes, tokenizer, context or sizes.context, residency)


def _template(file: GGUFFile) -> ChatTemplate | TemplateError:
    """The chat template, or why there is none to use: a model without may still generate."""
    try:
        template = ChatTemplate.from_gguf(file)
    except TemplateError as error:
        return error
    return template or TemplateError(
        "its file has no chat template; use generate() with a prompt of your own"
    )


async def _end(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        job.cancel()
    for job in jobs:
        with suppress(JobCancelled, Exception):  # its own error goes to the task that asked for it
            await job
