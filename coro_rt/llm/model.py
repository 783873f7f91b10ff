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
    DeviceError,
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
from .conversation import Conversation, Turn
from .embed import EncoderModel, checked_texts, embed
from .generate import Reader, Token, generate, score
from .gguf_file import GGUFFile, open_gguf
from .loaded import Loaded, closed_error
from .request import Message, chat_ids, checked_ids, make_request, prompt_ids
from .sampling import SamplingParams
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
    """What the jobs of one model that generates share. Its program runs on the CPU; other devices have
    subclasses.
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
    ) -> None:
        size = self.nbytes_of(file, sizes, context)
        super().__init__(device, file, size, sizes.widths, sizes.vocabulary, context, residency)
        self.sizes, self.tokenizer, self.template = sizes, tokenizer, template
        self.workspaces = Workspaces(self)
        self.prefixes = Prefixes(residency.pages) if prefix_reuse else None
        self.reader: Reader | None = None  # who reads prompts in its place
        self.turnaround = Turnaround()
        self.ends = np.array(sorted(tokenizer.eos_ids), np.int32)

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

    def lose(self) -> None:
        super().lose()
        if self.reader is not None:
            self.reader.close()

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

    def __init__(self, runtime: Runtime, model: Model | EncoderModel, device: str) -> None:
        self._runtime = runtime
        self._model: Model | EncoderModel | None = model
        self._device = device
        self.name = model.name
        self.context = model.context

    @property
    def tokenizer(self) -> Tokenizer | WordPiece:
        """The file's own tokenizer: `encode`, `decode`."""
        return self._loaded().tokenizer

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
        task. `device` names another of the runtime's CPU devices than the one the model was loaded for.

        Raises SamplingError, ContextOverflow, ValueError, DeviceError at once, and MemoryBudgetExceeded if
        prompt and `max_tokens` could never be in memory together; RuntimeClosed after `aclose`. If they only
        do not fit now, the stream waits.
        """
        model = self._open()
        sampling = SamplingParams(temperature, top_k, top_p, repetition_penalty, seed)
        request = make_request(
            model, prompt_ids(model, prompt), max_tokens, sampling, stop, ignore_eos=ignore_eos
        )
        model.check(len(request.prompt), len(request.prompt) + request.max_tokens - 1)
        placed = self._device if device is None else self._checked_device(device)
        return Stream(
            self._runtime, generate, (model, request, _lender or model), buffer=buffer, device=placed,
            batch=model.pace,
        )  # fmt: skip

    def chat(self, messages: str | Tokens[Message], **options: Any) -> Stream[Token]:
        """Stream the answer to a question, or to a list of {"role": ..., "content": ...}. Options as for
        `generate`.

        The prompt is made by the chat template in the model's file. Raises TemplateError if there is none.
        """
        return self.generate(chat_ids(self._open(), messages), **options)

    def conversation(self, *, system: str | None = None) -> Conversation:
        """A chat that remembers: what was said stays in memory, and only what is new is read at each turn."""
        return Conversation(self, self._open().new_sequence(), system)

    async def score(self, ids: Tokens[int]) -> Floats:
        """float32 [n-1]: the log-probability of each token of `ids` after the first, given those before."""
        model = self._open()
        checked = checked_ids(model, ids)
        if len(checked) < 2:
            raise ValueError(f"scoring needs at least 2 tokens, not {len(checked)}")
        return await self._runtime.run(score, model, checked, device=self._device)

    async def embed(self, texts: Tokens[str], *, truncate: bool = False) -> Floats:
        """float32 [texts, width]: for each text a vector of length 1. The nearer in meaning two texts are,
        the larger is the product of theirs.

        A text's vector does not depend on what it is embedded with. With `truncate`, a text that is longer
        than the context loses its end; else it is ContextOverflow. TypeError if `texts` is no sequence of
        str; UnsupportedModel if the model is no encoder.
        """
        model = self._loaded()
        if isinstance(model, Model):
            raise UnsupportedModel(
                f"{self.name} generates text and has no embeddings of texts; "
                "load an encoder for that, such as all-minilm-l6-v2"
            )
        checked = checked_texts(texts)
        if not checked:
            return np.empty((0, model.sizes.hidden), np.float32)
        job = partial(embed, model, checked, truncate=truncate)
        return await self._runtime.run(job, device=self._device)

    async def aclose(self) -> None:
        """End what still runs and give the memory back. Further calls do nothing."""
        if self._model is None:
            return
        model, self._model = self._model, None
        model.closed = True
        try:
            if model.jobs:
                await self._runtime.run(_end, list(model.jobs))
        finally:
            model.give_back()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            assert self._model is not None
            self._model.lose()
            if self._runtime.closed:  # and the model with it
                return
            warnings.warn(
                f"the model {self.name} was not closed: use `async with await runtime.load_model(...)`",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"<LLM {self.name!r}{'' if self._model else ' closed'}>"

    def _checked_device(self, name: str) -> str:
        """A CPU device with no more threads than the one that the model's buffers are made for."""
        cpus = {
            device.name: device.threads for device in self._runtime.devices if isinstance(device, CpuDevice)
        }
        if name not in cpus or cpus[name] > cpus[self._device]:
            raise DeviceError(
                f"{self.name} runs on this runtime's CPU devices with at most {cpus[self._device]} threads; "
                f"{name!r} is none of them"
            )
        return name

    def _loaded(self) -> Model | EncoderModel:
        if self._model is None:
            raise closed_error(self.name)
        return self._model

    def _open(self) -> Model:
        model = self._loaded()
        if isinstance(model, EncoderModel):
            raise UnsupportedModel(
                f"{self.name} is an encoder: it makes embeddings of texts with embed(), "
                "and cannot generate or score any"
            )
        return model


async def load_model(
    runtime: Runtime,
    source: str | PathLike[str],
    *,
    context: int | None = None,
    kv_bits: int = 16,
    device: str | None = None,
    prefix_reuse: bool = True,
    prefill_on: str | None = None,
) -> LLM:
    """Load a model by catalogue name or from a GGUF file; see `Runtime.load_model`."""
    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 1):
        raise ValueError(f"context is a number of tokens, at least 1, not {context!r}")
    if kv_bits not in (8, 16):
        raise ValueError(f"keys and values are kept in 16 bits or in 8, not in {kv_bits!r}")
    chosen = _device(runtime, device)
    if kv_bits != 16 and chosen.kind == "gpu":
        raise UnsupportedModel("on a GPU keys and values are kept in 16 bits: leave kv_bits out")
    reading = None if prefill_on is None else _reading(runtime, prefill_on, chosen)
    path = resolve(source)
    found: list[Model | EncoderModel] = []  # not returned: a worker thread keeps its last result alive
    open_file = partial(
        _open_model, runtime, chosen, reading, path, context, kv_bits, found, prefix_reuse=prefix_reuse
    )
    await anyio.to_thread.run_sync(open_file)
    model = found.pop()
    try:
        await runtime.run(_load, model, device=chosen.name)
        if reading is not None:
            assert isinstance(model, Model)
            await anyio.to_thread.run_sync(_load_reader, model, reading)
    except BaseException:
        model.give_back()
        raise
    return LLM(runtime, model, chosen.name)


def _device(runtime: Runtime, name: str | None) -> Device:
    """The open device of that name, or the first that models run on. Raises DeviceError."""
    for device in runtime.devices:
        if device.kind in ("cpu", "gpu") and name in (None, device.name):
            return device
    opened = ", ".join(device.name for device in runtime.devices)
    wanted = "models run on the devices 'cpu' and 'gpu'" if name is None else f"no model can run on {name!r}"
    raise DeviceError(f"{wanted}, and open are: {opened}; see open_runtime(devices=...)")


def _load_reader(model: Model, device: Device) -> None:
    from .npu import load  # here: it needs an extra

    tokenizer, budget = model.tokenizer, model.residency.budget
    model.reader = load(device, model.file, model.sizes, tokenizer, model.context, budget)


async def _load(model: Model | EncoderModel) -> None:
    """A job, so that loading has a place among what others want to load, and waits for memory like them."""
    async with model.in_use():
        pass


def _reading(runtime: Runtime, name: str, decoding: Device) -> Device:
    """The open device of that name, to read prompts for `decoding`. Raises DeviceError."""
    opened = ", ".join(device.name for device in runtime.devices)
    for device in runtime.devices:
        if device.name == name and device.kind == "npu" and decoding.kind == "cpu":
            return device
    raise DeviceError(
        f"prompts cannot be read on {name!r} for {decoding.name!r}: that takes an 'npu' and a 'cpu', and "
        f"open are: {opened}; see open_runtime(devices=...)"
    )


def _open_model(
    runtime: Runtime,
    device: Device,
    reading: Device | None,
    path: Path,
    context: int | None,
    kv_bits: int,
    found: list[Model | EncoderModel],
    *,
    prefix_reuse: bool,
) -> None:
    """Everything but the weights."""
    file, residency = open_gguf(path), runtime._residency
    if file.architecture == bert.ARCHITECTURE:
        if not isinstance(device, CpuDevice):
            raise UnsupportedModel(f"{path}: encoders run on the CPU: load it with device='cpu'")
        if reading is not None:
            raise UnsupportedModel(f"{path}: an encoder has no prompts to read: leave prefill_on out")
        found.append(_open_encoder(device, file, context, residency))
        return
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
    template = _template(file)
    kind: type[Model] = Model
    if device.kind == "gpu":
        from .gpu import GpuModel  # here: it needs an extra

        kind = GpuModel
    # what is read elsewhere is not the same to the bit, so a text must not depend on whose pages it finds
    prefix_reuse = prefix_reuse and reading is None
    model = kind(device, file, sizes, tokenizer, template, length, residency, prefix_reuse=prefix_reuse)
    found.append(model)


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
