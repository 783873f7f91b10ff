"""A loaded language model: what an application holds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence as Tokens
from contextlib import suppress
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread
import numpy as np

from coro_rt.errors import DeviceLost, JobCancelled, UnsupportedModel
from coro_rt.job import Job
from coro_rt.kernels.formats import Floats
from coro_rt.kernels.workspace import LONGEST_BURST
from coro_rt.stream import Stream

from .catalog import resolve
from .chooser import Wanted
from .conversation import Conversation, Turn
from .decoder import Model
from .devices import choose_devices
from .embed import EncoderModel, checked_texts, embed
from .generate import Token, generate, score
from .loaded import closed_error
from .measured import Measured
from .opening import open_model
from .places import Places
from .request import Message, chat_ids, checked_ids, make_request, prompt_ids
from .sampling import SamplingParams
from .seat import Lender
from .tokenizer import Tokenizer
from .wordpiece import WordPiece

if TYPE_CHECKING:
    from coro_rt.runtime import Runtime


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
    found = choose_devices(runtime.devices, device, devices, prefill_on)
    opening = partial(
        open_model, runtime._residency, resolve(source), found, context, kv_bits, prefix_reuse=prefix_reuse
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


async def _end(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        job.cancel()
    for job in jobs:
        with suppress(JobCancelled, Exception):  # its own error goes to the task that asked for it
            await job
