"""A prompt that is read on an NPU and gone on from on the CPU."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra is not installed: pip install 'coro-rt[npu]'")

import onnx
from onnx import TensorProto, helper
from tiny import TINIES, Tiny

from coro_rt import (
    DeviceError,
    DeviceLost,
    JobCancelled,
    MemoryBudgetExceeded,
    QoS,
    UnsupportedModel,
    open_runtime,
    qos,
)
from coro_rt.devices.npu import NpuDevice
from coro_rt.kernels.workspace import Workspace
from coro_rt.llm import npu as npu_module
from coro_rt.llm.chooser import Chooser

pytestmark = pytest.mark.npu

Make = Callable[..., NpuDevice]
TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 250, 150)]
FLOAT_BOUND = 2e-3  # of the logits' standard deviation, as for the CPU: float16 may round the other way
REQUANTIZED_BOUND = 0.5  # weights in int8 by row: 1/254 of a row's largest, in every product of two layers


@pytest.fixture
def cpu_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each step on the CPU had."""
    rows: list[int] = []
    begin = Workspace.begin

    def spy(self: Workspace, tokens: Any, *args: Any, **options: Any) -> None:
        rows.append(len(tokens))
        begin(self, tokens, *args, **options)

    monkeypatch.setattr(Workspace, "begin", spy)
    return rows


async def first_token(
    path: Path, device: NpuDevice, prompt: list[int], *, count: int = 1, **options: Any
) -> list[Any]:
    async with (
        open_runtime(devices=["cpu", device], threads=1) as runtime,
        await runtime.load_model(path, prefill_on="npu", **options) as llm,
        llm.generate(prompt, max_tokens=count, ignore_eos=True) as stream,
    ):
        return [token async for token in stream]


def expected(tiny: Tiny, prompt: list[int], token: int) -> tuple[float, float]:
    """NumPy's log-probability of a token after a prompt, and how far the logits spread."""
    logits = tiny.logits(prompt)[-1]
    return float(logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()), logits.std()


@pytest.mark.parametrize("arch", TINIES)
@pytest.mark.parametrize("count", [2, 17, 66, 150])
def test_every_architecture_is_read_as_numpy_reads_it(
    arch: str, count: int, make_npu: Make, tmp_path: Path, cpu_rows: list[int]
) -> None:
    tiny = TINIES[arch]()
    device = make_npu(weights="float32", activations="float32")
    (token,) = anyio.run(first_token, tiny.write(tmp_path / "tiny.gguf"), device, TOKENS[:count])
    want, spread = expected(tiny, TOKENS[:count], token.id)
    assert abs(token.logprob - want) <= 2 * FLOAT_BOUND * spread
    assert device.counts.tokens == count - 1  # the last one's logits are the CPU's to make
    assert cpu_rows == [1]


@pytest.mark.parametrize("form", ["F32", "Q8_0", "Q4_1", "Q6_K"])
@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_requantized_weights_change_the_answer_by_no_more_than_their_bound(
    form: str, weights: str, make_npu: Make, tmp_path: Path
) -> None:
    tiny = Tiny(form=form)
    device = make_npu(weights=weights)
    (token,) = anyio.run(first_token, tiny.write(tmp_path / "tiny.gguf"), device, TOKENS)
    want, spread = expected(tiny, TOKENS, token.id)
    assert abs(token.logprob - want) <= REQUANTIZED_BOUND * spread


@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_integer_activations_learn_their_ranges_when_the_model_is_loaded(
    activations: str, make_npu: Make, tmp_path: Path
) -> None:
    tiny = Tiny(form="Q8_0")
    device = make_npu(weights="int8", activations=activations)
    (token,) = anyio.run(first_token, tiny.write(tmp_path / "tiny.gguf"), device, TOKENS)
    want, spread = expected(tiny, TOKENS, token.id)
    assert abs(token.logprob - want) <= REQUANTIZED_BOUND * spread


def test_an_int8_cache_is_filled_as_well(make_npu: Make, tmp_path: Path) -> None:
    tiny = Tiny()
    device = make_npu(weights="float32", activations="float32")
    path = tiny.write(tmp_path / "tiny.gguf")
    (token,) = anyio.run(lambda: first_token(path, device, TOKENS, kv_bits=8))
    want, spread = expected(tiny, TOKENS, token.id)
    assert (
        abs(token.logprob - want) <= 0.1 * spread
    )  # int8 keys and values: 1/254 of the largest in each head


class Impatient(NpuDevice):
    """Somebody is always more urgent: every launch is suspended after each group."""

    def preempt_requested(self) -> bool:
        return True


def test_a_suspended_prefill_goes_on_where_it_was(tiny_path: Path, npu_cache: Path) -> None:
    options: dict[str, Any] = {"provider": "cpu", "cache": npu_cache, "buckets": (64,), "threads": 1}
    options |= {"quantum_s": 1e-9}  # one layer to a group
    anyio.run(first_token, tiny_path, NpuDevice(**options), TOKENS)  # from now on, graphs are in the cache
    steady, impatient = NpuDevice(**options), Impatient(**options)
    runs = [anyio.run(lambda d=d: first_token(tiny_path, d, TOKENS, count=8)) for d in (steady, impatient)]
    assert runs[0] == runs[1]
    assert steady.counts.runs == impatient.counts.runs
    assert impatient.counts.runs == 6  # three chunks of two layers


async def turns(path: Path, device: NpuDevice | None) -> list[str]:
    devices = ["cpu"] if device is None else ["cpu", device]
    async with (
        open_runtime(devices=devices, threads=1) as runtime,
        await runtime.load_model(path, prefill_on=device and "npu") as llm,
    ):
        talk, answers = llm.conversation(), []
        for text in ("hello hello", "he"):
            async with talk.ask(text, max_tokens=6, ignore_eos=True) as stream:
                answers.append("".join([str(token) async for token in stream]))
        return answers


def test_a_conversations_next_turn_reads_only_what_is_new(tmp_path: Path, make_npu: Make) -> None:
    device = make_npu(weights="float32", activations="float32")
    path = Tiny().write(tmp_path / "tiny.gguf")
    assert anyio.run(turns, path, device) == anyio.run(turns, path, None)
    assert 0 < device.counts.tokens < 120


async def beside_others(path: Path, device: NpuDevice) -> list[list[int]]:
    async with (
        open_runtime(devices=["cpu", device], threads=1) as runtime,
        await runtime.load_model(path, prefill_on="npu") as llm,
    ):
        answers: dict[int, list[int]] = {}

        async def ask(number: int) -> None:
            with qos(QoS(number % 5)):
                async with llm.generate(TOKENS[number:], max_tokens=5, ignore_eos=True) as stream:
                    answers[number] = [token.id async for token in stream]

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ask, number)
        return [answers[number] for number in range(10)]


def test_answers_do_not_depend_on_who_else_reads(tiny_path: Path, make_npu: Make) -> None:
    together = anyio.run(beside_others, tiny_path, make_npu())
    alone = [
        anyio.run(lambda n=n: first_token(tiny_path, make_npu(), TOKENS[n:], count=5)) for n in range(10)
    ]
    assert together == [[token.id for token in tokens] for tokens in alone]


# What ends early.


class Watched(NpuDevice):
    """Calls `at_run` in the middle of the n-th run."""

    at_run: tuple[int, Callable[[], object]] = (0, lambda: None)

    def run(self, *args: Any, **options: Any) -> Any:
        self.at_run = (self.at_run[0] - 1, self.at_run[1])
        if self.at_run[0] == 0:
            self.at_run[1]()
        return super().run(*args, **options)


async def cancelled(path: Path, device: Watched, nth: int) -> tuple[int, list[int]]:
    async with (
        open_runtime(devices=["cpu", device], threads=1) as runtime,
        await runtime.load_model(path, prefill_on="npu") as llm,
    ):
        async with llm.generate(TOKENS[:60], max_tokens=1, ignore_eos=True) as warm:
            _ = [token async for token in warm]
        before = runtime.stats().memory_used
        stream = llm.generate(TOKENS, max_tokens=5, ignore_eos=True)
        device.at_run = (nth, lambda: [job.cancel() for job in llm._open().jobs])
        with pytest.raises(JobCancelled):
            async with stream:
                _ = [token async for token in stream]
        left = runtime.stats().memory_used - before
        async with llm.generate(TOKENS, max_tokens=5, ignore_eos=True) as again:
            return left, [token.id async for token in again]


@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_prefill_that_is_cancelled_gives_back_what_it_held(
    nth: int, tiny_path: Path, npu_cache: Path
) -> None:
    device = Watched(provider="cpu", cache=npu_cache, buckets=(64,), threads=1, quantum_s=1e-9)
    left, after = anyio.run(cancelled, tiny_path, device, nth)
    undisturbed = anyio.run(lambda: first_token(tiny_path, device, TOKENS, count=5))
    assert after == [token.id for token in undisturbed]
    later_graphs = 10**6  # those for 256 earlier positions, loaded if it got so far
    assert left < later_graphs


def test_a_long_run_ends_from_within_when_its_job_is_cancelled(npu: NpuDevice) -> None:
    shape = [400, 400]
    nodes = [helper.make_node("MatMul", [f"v{n}", "v0"], [f"v{n + 1}"]) for n in range(2000)]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("v0", "v2000")]
    graph = helper.make_graph(nodes, "long", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    began, given_up = threading.Event(), threading.Event()

    def abandoned() -> bool:
        began.set()
        return given_up.is_set()

    def give_up() -> None:
        began.wait()
        given_up.set()
        npu.preempt()

    other, before = threading.Thread(target=give_up), npu.counts.ended_early
    other.start()
    fed = {"v0": np.zeros(shape, np.float32)}
    assert npu.run(npu.open(model.SerializeToString()), fed, abandoned) is None
    other.join()
    assert npu.counts.ended_early == before + 1


# Compiled graphs on disk.


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are compiled."""
    made: list[Path] = []
    compile = NpuDevice.compile

    def spy(self: NpuDevice, model: bytes, path: Path) -> None:
        made.append(path)
        compile(self, model, path)

    monkeypatch.setattr(NpuDevice, "compile", spy)
    return made


def test_graphs_are_compiled_once_for_a_model(tiny_path: Path, tmp_path: Path, compiled: list[Path]) -> None:
    options: dict[str, Any] = {"provider": "cpu", "cache": tmp_path, "buckets": (16, 64)}
    answers = [anyio.run(first_token, tiny_path, NpuDevice(**options), TOKENS[:20]) for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(compiled) >= 2
    count = len(compiled)
    other = NpuDevice(**options, weights="int8")  # another way to keep numbers is another key
    anyio.run(first_token, tiny_path, other, TOKENS[:20])
    assert len(compiled) > count
    assert not list(tmp_path.glob("*/making-*"))


def damaged(folder: Path) -> Iterator[Callable[[], object]]:
    def graph() -> Path:
        return next(folder.glob("*/16+0/0.onnx"))

    yield lambda: graph().write_bytes(graph().read_bytes()[:-5])
    yield lambda: graph().write_bytes(b"")
    yield lambda: graph().unlink()
    yield lambda: (graph().parent / "manifest.json").write_text("{")
    yield lambda: (graph().parent / "manifest.json").write_text('{"groups": [{"first": 0}]}')
    yield lambda: (graph().parent / "manifest.json").write_text("[]")


@pytest.mark.parametrize("nth", range(6))
def test_what_is_damaged_in_the_cache_is_made_anew(
    nth: int, tiny_path: Path, tmp_path: Path, compiled: list[Path]
) -> None:
    def ask() -> Any:
        device = NpuDevice(provider="cpu", cache=tmp_path, buckets=(16,))
        return anyio.run(first_token, tiny_path, device, TOKENS[:12])

    answer = ask()
    count = len(compiled)
    list(damaged(tmp_path))[nth]()
    assert ask() == answer
    assert len(compiled) == 2 * count
    assert ask() == answer
    assert len(compiled) == 2 * count


def test_a_compile_that_fails_leaves_nothing_behind(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: NpuDevice, model: bytes, path: Path) -> None:
        path.write_bytes(b"half")
        raise DeviceError("the driver is out of sorts")

    async def load() -> int:
        async with open_runtime(devices=["cpu", NpuDevice(provider="cpu", cache=tmp_path)]) as runtime:
            with pytest.raises(DeviceError, match="out of sorts"):
                await runtime.load_model(tiny_path, prefill_on="npu")
            return runtime.stats().memory_used

    monkeypatch.setattr(NpuDevice, "compile", fail)
    assert anyio.run(load) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Memory, and what is refused.


async def loaded_and_closed(path: Path, device: NpuDevice, memory: int) -> tuple[int, int, int]:
    async with open_runtime(devices=["cpu", device], memory=memory) as runtime:
        async with await runtime.load_model(path) as llm:
            plain = runtime.stats().memory_used
        async with await runtime.load_model(path, prefill_on="npu") as llm:
            with_graphs = runtime.stats().memory_used
            async with llm.generate(TOKENS, max_tokens=2, ignore_eos=True) as stream:
                assert [token async for token in stream]
        return plain, with_graphs, runtime.stats().memory_used


def test_graphs_count_in_the_memory_budget_and_leave_with_the_model(tiny_path: Path, make_npu: Make) -> None:
    plain, with_graphs, after = anyio.run(loaded_and_closed, tiny_path, make_npu(), 10**9)
    assert with_graphs > plain
    assert after == 0
    with pytest.raises(MemoryBudgetExceeded, match=r"graphs of tiny\.gguf for 64 tokens"):
        anyio.run(loaded_and_closed, tiny_path, make_npu(), (plain + with_graphs) // 2)


def test_only_so_many_shapes_stay_loaded(
    tiny_path: Path, make_npu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npu_module, "KEPT_SHAPES", 1)
    once = anyio.run(lambda: first_token(tiny_path, make_npu(), TOKENS, count=4))
    monkeypatch.undo()
    assert once == anyio.run(lambda: first_token(tiny_path, make_npu(), TOKENS, count=4))


async def refused(path: Path, devices: list[Any], prefill_on: str, **options: Any) -> None:
    async with open_runtime(devices=devices) as runtime:
        await runtime.load_model(path, prefill_on=prefill_on, **options)


def test_prompts_are_read_on_an_open_npu_for_a_cpu_alone(tiny_path: Path, make_npu: Make) -> None:
    for devices, name in ((["cpu"], "npu"), (["cpu", "sim"], "sim"), (["cpu", make_npu()], "cpu")):
        with pytest.raises(DeviceError, match=f"prompts cannot be read on '{name}' for 'cpu'.*open are: cpu"):
            anyio.run(refused, tiny_path, devices, name)
    with pytest.raises(DeviceError, match="no model can run on 'npu'"):
        anyio.run(lambda: refused(tiny_path, ["cpu", make_npu()], "npu", device="npu"))


def test_an_encoder_has_no_prompts(tmp_path: Path, make_npu: Make) -> None:
    from tiny_bert import TinyBert

    path = TinyBert().write(tmp_path / "bert.gguf")
    with pytest.raises(UnsupportedModel, match="no prompts to read"):
        anyio.run(refused, path, ["cpu", make_npu()], "npu")


# The default model.

DATA = Path(__file__).parent.parent / "data"
EVERY = 8  # of a case's positions, the first included


async def forced(path: Path, device: NpuDevice, cases: list[Any]) -> list[tuple[Any, ...]]:
    wrong = []
    async with (
        open_runtime(devices=["cpu", device]) as runtime,
        await runtime.load_model(path, prefill_on="npu") as llm,
    ):
        for case in cases:
            for at in range(0, len(case["tokens"]), EVERY):
                prompt = case["prompt_tokens"] + case["tokens"][:at]
                async with llm.generate(prompt, max_tokens=1, ignore_eos=True) as stream:
                    (token,) = [token async for token in stream]
                if case["margins"][at] >= 0.3 and token.id != case["tokens"][at]:
                    wrong.append((case["prompt"], at, case["tokens"][at], token.id))
    return wrong


@pytest.mark.model
def test_the_default_model_read_on_an_npu_agrees_with_llama_cpp_wherever_the_margin_is_clear(
    model_path: Path, tmp_path: Path, cpu_rows: list[int]
) -> None:
    cases = json.loads((DATA / "smollm2-greedy.json").read_text())["cases"]
    device = NpuDevice(provider="cpu", buckets=(64,), cache=tmp_path)
    assert anyio.run(forced, model_path, device, cases) == []
    prompts = [len(c["prompt_tokens"]) + at for c in cases for at in range(0, len(c["tokens"]), EVERY)]
    assert device.counts.tokens == sum(prompts) - len(prompts)
    assert cpu_rows == [1] * len(prompts)


# An NPU that is lost, or chosen.


async def read_and_lost(path: Path, device: Watched, nth: int) -> tuple[list[int], int]:
    async with (
        open_runtime(devices=["cpu", device], threads=1) as runtime,
        await runtime.load_model(path, prefill_on="npu") as llm,
    ):

        def lost() -> None:
            raise DeviceLost("npu", "lost")

        device.at_run = (nth, lost)
        async with llm.generate(TOKENS, max_tokens=5, ignore_eos=True) as stream:
            tokens = [token.id async for token in stream]
        assert stream.usage.prompt_tokens == len(TOKENS)
        use = runtime.stats().memory
        assert (use.pages, use.workspaces) == (0, 0)
        return tokens, device.counts.tokens


@pytest.mark.parametrize(("nth", "read"), [(1, 0), (2, 0), (3, 64), (5, 128)])
def test_what_an_npu_has_not_read_when_it_is_lost_the_cpu_reads(
    nth: int, read: int, npu_cache: Path, tmp_path: Path, cpu_rows: list[int]
) -> None:
    options: dict[str, Any] = {"provider": "cpu", "cache": npu_cache, "buckets": (64,), "threads": 1}
    options |= {"weights": "float32", "activations": "float32", "quantum_s": 1e-9}  # one layer to a group
    path = Tiny().write(tmp_path / "tiny.gguf")
    alone = anyio.run(lambda: first_token(path, NpuDevice(**options), TOKENS, count=5))
    cpu_rows.clear()
    tokens, on_npu = anyio.run(read_and_lost, path, Watched(**options), nth)
    assert tokens == [token.id for token in alone]
    assert on_npu == read
    rest = len(TOKENS) - read
    assert rest < sum(cpu_rows) <= rest + 4  # and bursts of the other tokens


class Reading(Chooser):
    """Has prompts read on the NPU."""

    def begin(self, wanted: Any, places: Any, readers: Any) -> tuple[str, str | None]:
        return places[0].name, readers[0]


def test_an_npu_reads_where_the_chooser_says_so_and_its_pages_are_not_shared(
    tmp_path: Path, make_npu: Make
) -> None:
    device = make_npu(weights="float32", activations="float32")
    path = Tiny().write(tmp_path / "tiny.gguf")

    async def main() -> list[list[int]]:
        async with (
            open_runtime(devices=["cpu", device], threads=1) as runtime,
            await runtime.load_model(path) as llm,
        ):
            answers = []
            for chooser in (Reading(), Chooser(), Reading()):
                llm.places.chooser = chooser
                async with llm.generate(TOKENS, max_tokens=5, ignore_eos=True) as stream:
                    answers.append([token.id async for token in stream])
                assert stream.usage.reused_tokens == 0
            return answers

    answers = anyio.run(main)
    assert answers[0] == answers[1] == answers[2]
    assert device.counts.tokens == 2 * (len(TOKENS) - 1)


def test_an_npu_that_cannot_read_a_model_is_done_without(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: NpuDevice, model: bytes, path: Path) -> None:
        raise DeviceError("the driver is out of sorts")

    monkeypatch.setattr(NpuDevice, "compile", fail)
    device = NpuDevice(provider="cpu", cache=tmp_path, buckets=(16,))

    async def main() -> int:
        async with (
            open_runtime(devices=["cpu", device], threads=1) as runtime,
            await runtime.load_model(tiny_path) as llm,
        ):
            llm.places.chooser = Reading()
            for _ in range(2):
                async with llm.generate(TOKENS, max_tokens=5, ignore_eos=True) as stream:
                    assert len([token async for token in stream]) == 5
            return runtime.stats().memory.other

    assert anyio.run(main) > 0
