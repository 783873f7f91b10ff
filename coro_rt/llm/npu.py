"""Reading a prompt on an NPU: its keys and values go into the sequence's pages, and the device that decodes
goes on from them.

A prompt is read in chunks of fixed sizes, filled up with padding, each one launch on the NPU: layer group by
layer group, so that it may be suspended between them. The graphs for a size are compiled when the model is
loaded, or, for positions far into a text, when they are first needed: beside the worker, in a thread.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio.to_thread
import numpy as np

from coro_rt.devices.base import Device
from coro_rt.devices.npu.cache import CompiledCache
from coro_rt.devices.npu.device import NpuDevice, Session
from coro_rt.devices.npu.graph import FORMS, Numbers, layer_group
from coro_rt.devices.npu.program import NpuProgram, Shape
from coro_rt.errors import DeviceLost, MemoryBudgetExceeded, UnsupportedModel
from coro_rt.job import Job
from coro_rt.kernel import Kernel
from coro_rt.kernels import kv_arrays
from coro_rt.kernels.formats import Floats
from coro_rt.memory import MemoryBudget, Reservation
from coro_rt.on_host import on_host
from coro_rt.traps import current_job, move_to

from .architecture import Hyperparameters
from .build import build
from .gguf_file import GGUFFile, open_gguf
from .reader import ReadingTimes
from .sequence import Sequence
from .tokenizer import Tokenizer

FIRST_PAST = 256
"""Positions before a chunk, the smallest number above none that graphs are made for; the next are doubled."""

KEPT_SHAPES = 4
"""Shapes whose graphs stay loaded: each has its own copy of the weights."""

LARGEST_GROUP = 1 << 30
"""Bytes of a graph: a file of this kind holds two gigabytes at most."""

_NEWEST = 0.2  # weight of the newest chunk in the mean time of a token

ACTIVATION_BITS = {"int16": 16, "int8": 8}

SAMPLE = (
    "The library is closed on Monday, and opens at ten on all other days. If you have 3 books or more, "
    "please bring them back by 15 March 2026; after that each day costs €0.25.\n\nWhy is the sky blue? Light "
    "from the sun is scattered by the air, and blue light more than red:\n\n    def area(r):\n        return "
    '3.14 * r ** 2\n\nShe said: "I don\'t know who wrote it, but the second chapter is the best."'
)
"""What the ranges of integer activations are learned from, where these are asked for."""


@dataclass(eq=False, slots=True)
class Chunk:
    """Some of a prompt's tokens on their way through the layers; what a suspended launch goes on from."""

    tokens: Tokens[int]
    start: int
    table: Any  # addresses of the sequence's pages
    graphs: Graphs
    done: int = 0  # groups that have run
    hidden: Floats | None = None  # what the last of them gave
    inputs: dict[str, Any] = field(default_factory=dict)  # what all of them are fed with


@dataclass(eq=False, slots=True)
class Graphs:
    """A shape's layer groups, loaded: (layers, session), in order."""

    shape: Shape
    groups: list[tuple[range, Session]]
    memory: Reservation


prefill: Kernel[[Any, Chunk], None] = Kernel("llm.prefill")
"""Put keys and values of a chunk into its pages."""


@prefill.on("npu")
def _prefill_on_npu(device: NpuDevice, launch: Any, slice_s: float) -> bool:
    reader, chunk = launch.args
    done: bool = reader.advance(device, chunk, current_job(), slice_s)
    return done


class NpuReader:
    """What reads prompts of one model. Made with `load`; `close` it with the model."""

    def __init__(
        self, device: NpuDevice, file: GGUFFile, sizes: Hyperparameters, tokenizer: Tokenizer, context: int,
        budget: MemoryBudget,
    ) -> None:  # fmt: skip
        self.device = device
        self._path, self._sizes, self._context, self._budget = file.path, sizes, context, budget
        self._bits = ACTIVATION_BITS.get(device.activations)  # None: nothing to learn
        sample = tokenizer.encode(SAMPLE) if self._bits else []
        self._sample = np.array(sample[: max(device.buckets)], np.int32)
        with file.path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        key = (digest, context, sizes.kv_bits, device.fingerprint(), _own_sources())
        self._cache = CompiledCache(device.cache, repr(key))
        self._program = self._build(file)
        self._program.forget_weights()
        assert self._program.embedding is not None
        self._memory = budget.reserve(
            self._program.embedding.matrix.parts[0][0].nbytes + sum(t.nbytes for t in self._program.turns),
            f"embeddings of {file.path.name} for {device.name}",
        )
        self._loaded: dict[Shape, Graphs] = {}  # who was loaded first leaves first
        self._loading = threading.Lock()
        self._closed = False
        self._epoch = device.epoch  # of the device, when they were loaded
        self._token_s = 0.0  # running mean; 0 before the first chunk

    # In a job.

    async def read(self, sequence: Sequence, tokens: list[int], following_s: float) -> ReadingTimes:
        """Put keys and values of `tokens` behind what the sequence holds, on the NPU; then go back to the
        device that the job came from. What comes then is predicted to take `following_s`. The sequence has
        room for them, and is pinned.

        If the NPU fails, the sequence holds fewer of them: who decodes reads the rest.
        """
        home, before_s = current_job().worker.name, current_job().kernel_s
        try:
            await move_to(self.device.name)
            await self._read(sequence, tokens, following_s)
        except DeviceLost as lost:
            if lost.device != self.device.name:
                raise
        await move_to(home)
        return ReadingTimes(current_job().kernel_s - before_s)

    async def _read(self, sequence: Sequence, tokens: list[int], following_s: float) -> None:
        job, at = current_job(), 0
        while at < len(tokens):
            start, left = len(sequence.tokens), len(tokens) - at
            shape = self.shape(start, left)
            job.predict(left * self._token_s + following_s)
            graphs = self._loaded.get(shape) if self._epoch == self.device.epoch else None
            if graphs is None:  # it may take seconds: not here, where others wait for the device
                graphs = await on_host(self._load_beside, shape)
                if self._epoch != self.device.epoch:  # lost meanwhile, and back
                    continue
            taken = min(left, shape.tokens)
            before = job.entry.served_s
            with self._budget.reserve(self._step_bytes(shape), f"a step of {shape.tokens} tokens"):
                await prefill(self, Chunk(tokens[at : at + taken], start, sequence.table, graphs))
            self._token_s += ((job.entry.served_s - before) / taken - self._token_s) * _NEWEST
            sequence.extend(tokens[at : at + taken])
            self.device.counts.tokens += taken
            at += taken

    def shape(self, start: int, left: int) -> Shape:
        """What the next chunk of `left` tokens is read with, from position `start` on."""
        buckets = self.device.buckets
        past = FIRST_PAST if start else 0
        while past < start:
            past *= 2
        return Shape(next((size for size in buckets if size >= left), buckets[-1]), past)

    async def _load_beside(self, shape: Shape) -> Graphs:
        return await anyio.to_thread.run_sync(self.load, shape, abandon_on_cancel=True)

    # In the worker's thread.

    def advance(self, device: NpuDevice, chunk: Chunk, job: Job[Any], slice_s: float) -> bool:
        """Run layer groups of a chunk until it is done, or the device is wanted by others."""
        shape, groups = chunk.graphs.shape, chunk.graphs.groups
        count, kv = len(chunk.tokens), self._sizes.kv
        began = perf_counter()
        if chunk.hidden is None:
            chunk.inputs = self._program.inputs(shape, chunk.start, count)
            assert self._program.embedding is not None
            chunk.hidden = np.zeros((shape.tokens, self._sizes.hidden), np.float32)
            chunk.hidden[:count] = self._program.embedding(np.array(chunk.tokens, np.int32))
        while chunk.done < len(groups):
            layers, session = groups[chunk.done]
            fed = chunk.inputs | {"in.HIDDEN": chunk.hidden}
            if shape.past:
                for layer in layers:
                    k = np.zeros((shape.past, kv.heads, kv.head_size), np.float16)
                    v = np.zeros_like(k)
                    kv_arrays.read(kv, chunk.table, layer, chunk.start, k, v)
                    fed |= {f"past_k.{layer}": k, f"past_v.{layer}": v}
            outputs = device.run(session, fed, lambda: job.cancelled is not None and not job.winding_up)
            if outputs is None:
                return False
            device.check_numbers(outputs.get("HIDDEN", outputs[f"v.{layers[-1]}"])[:count])
            for layer in layers:
                k, v = outputs[f"k.{layer}"][:count], outputs[f"v.{layer}"][:count]
                kv_arrays.write(kv, chunk.table, layer, chunk.start, k, v)
            chunk.hidden = outputs.get("HIDDEN", chunk.hidden)
            chunk.done += 1
            over = device.preempt_requested() or perf_counter() - began >= slice_s
            if over and chunk.done < len(groups):
                return False
        return True

    # Compiling and loading, in threads of their own.

    def prepare(self) -> None:
        """Compile the graphs for the beginnings of prompts, and load the largest."""
        for tokens in self.device.buckets:
            shape = Shape(tokens, 0)
            if self._cache.get(shape) is None:
                self._compile(shape)
        self.load(Shape(self.device.buckets[-1], 0))

    def load(self, shape: Shape) -> Graphs:
        """A shape's graphs, compiled if they have not been yet. Raises DeviceError, MemoryBudgetExceeded,
        OSError.
        """
        with self._loading:
            if self._epoch != self.device.epoch:
                self._epoch = self.device.epoch
                while self._loaded:
                    self._unload_oldest()
            graphs = self._loaded.pop(shape, None)
            if graphs is None:
                files = self._cache.get(shape) or self._compile(shape)
                while len(self._loaded) >= KEPT_SHAPES:
                    self._unload_oldest()
                memory = self._reserve(sum(group.nbytes for _, group in files), shape)
                try:
                    groups = [(range(g.first, g.stop), self.device.open(path)) for path, g in files]
                except BaseException:
                    memory.release()
                    self._cache.drop(shape)  # sound files that the provider does not take: make them anew
                    raise
                graphs = Graphs(shape, groups, memory)
            self._loaded[shape] = graphs
        if self._closed:
            self.close()
        return graphs

    def close(self) -> None:
        """Give everything back; a thread that still loads does so when it is done. No job reads any more."""
        self._closed = True
        self._memory.release()
        if self._loading.acquire(blocking=False):
            try:
                while self._loaded:
                    self._unload_oldest()
            finally:
                self._loading.release()

    def _reserve(self, nbytes: int, shape: Shape) -> Reservation:
        while True:
            try:
                return self._budget.reserve(nbytes, f"graphs of {self._path.name} for {shape}")
            except MemoryBudgetExceeded:
                if not self._loaded:
                    raise
                self._unload_oldest()

    def _unload_oldest(self) -> None:
        """Forget a shape's graphs; a launch under way keeps them until it is done."""
        self._loaded.pop(next(iter(self._loaded))).memory.release()

    def _compile(self, shape: Shape) -> list[Any]:
        with open_gguf(self._path) as file:
            program = self._build(file)
            numbers = Numbers(FORMS[FORMS.index(self.device.weights)])
            if self._bits is not None:
                numbers = Numbers(numbers.weights, self._ranges(program, numbers), self._bits)

            def compile(layers: range, path: Path) -> None:
                graph = layer_group(program, layers, shape, numbers)
                self.device.compile(graph.SerializeToString(), path)

            return self._cache.put(shape, self._spans(program, shape, numbers), compile)

    def _spans(self, program: NpuProgram, shape: Shape, numbers: Numbers) -> list[range]:
        """Layers in groups that run for about the device's quantum, by the time that the first one takes."""
        graph = layer_group(program, range(1), shape, numbers).SerializeToString()
        session = self.device.open(graph)
        fed = {
            each.name: np.zeros(each.shape, np.float16 if "16" in each.type else np.float32)
            for each in session.inputs
        }
        times = []
        for _ in range(3):
            began = perf_counter()
            self.device.run(session, fed)
            times.append(perf_counter() - began)
        fitting = max(1, min(int(self.device.quantum_s / min(times)), LARGEST_GROUP // len(graph)))
        total = len(program.layers)
        return [range(first, min(first + fitting, total)) for first in range(0, total, fitting)]

    def _ranges(self, program: NpuProgram, numbers: Numbers) -> dict[int, float]:
        """The largest magnitude that each product reads while the sample is read in float32."""
        shape = Shape(len(self._sample), 0)
        fed: dict[str, Any] = dict(program.inputs(shape, 0, len(self._sample)))
        assert program.embedding is not None
        fed["in.HIDDEN"] = program.embedding(self._sample)
        found: dict[int, float] = {}
        watching = Numbers(numbers.weights, observe=True)
        for layer in range(len(program.layers)):
            graph = layer_group(program, range(layer, layer + 1), shape, watching)
            outputs = self.device.run(self.device.open(graph.SerializeToString()), fed)
            assert outputs is not None
            fed["in.HIDDEN"] = outputs.get("HIDDEN")
            found |= {int(n.removeprefix("range")): float(v) for n, v in outputs.items() if n[:5] == "range"}
        return found

    def _build(self, file: GGUFFile) -> NpuProgram:
        program = NpuProgram()
        build(file, self._sizes, self._context, program)
        return program

    def _step_bytes(self, shape: Shape) -> int:
        """Rows of the widest kind, scores, and the keys and values that a group is fed with."""
        h, length = self._sizes, shape.tokens + shape.past
        rows = shape.tokens * (4 * h.hidden + 3 * h.feed_forward + (h.heads + 2 * h.kv_heads) * h.head_size)
        scores = 2 * h.heads * shape.tokens * length
        return 4 * (rows + scores + 4 * h.kv_heads * h.head_size * length)


def load(
    device: Device, file: GGUFFile, sizes: Hyperparameters, tokenizer: Tokenizer, context: int,
    budget: MemoryBudget,
) -> NpuReader:  # fmt: skip
    """What reads prompts of the model in a file, its first graphs compiled. Raises what `build` does, and
    DeviceError.
    """
    if not isinstance(device, NpuDevice):
        raise UnsupportedModel(f"prompts can be read for another device on an NPU, not on {device.name!r}")
    reader = NpuReader(device, file, sizes, tokenizer, context, budget)
    try:
        reader.prepare()
    except BaseException:
        reader.close()
        raise
    return reader


def _own_sources() -> str:
    """A hash of the code that makes graphs: another version's graphs do not fit."""
    from coro_rt.devices.npu import graph, program
    from coro_rt.kernels import requantized

    digest = hashlib.sha256()
    for module in (graph, program, requantized):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
