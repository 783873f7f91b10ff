"""A prompt that is read on a GPU and gone on from on the CPU: read once, and handed over."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tiny import TINIES

from coro_rt import (
    DeviceError,
    DeviceLost,
    JobCancelled,
    MemoryBudgetExceeded,
    QoS,
    Runtime,
    current_job,
    open_runtime,
    qos,
)
from coro_rt.devices.cpu import CpuDevice
from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.pages import GpuPages
from coro_rt.kernels.workspace import Workspace
from coro_rt.llm.chooser import Chooser, Place, Wanted
from coro_rt.llm.generate import Token
from coro_rt.llm.gpu import GpuStep
from coro_rt.llm.measured import Measured
from coro_rt.llm.model import LLM
from coro_rt.memory.residency import Residency
from coro_rt.schedulers.pace import Pace

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu", "step_by_step"), pytest.mark.anyio]

DATA = Path(__file__).parent.parent / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "smollm2-greedy.json").read_text())["cases"]
PROMPT = [3 + number % 240 for number in range(150)]  # two chunks, three pages
COUNT = 6


class Rows:
    """How many tokens each step on the CPU, and on the GPU, had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu: list[int] = []
        self.gpu: list[int] = []
        begin, go = Workspace.begin, GpuStep.go

        def on_cpu(workspace: Workspace, tokens: Any, *args: Any, **options: Any) -> None:
            self.cpu.append(len(tokens))
            begin(workspace, tokens, *args, **options)

        def on_gpu(step: GpuStep, device: Any, program: Any, workspace: Any, slice_s: float) -> bool:
            if workspace.at == 0:
                self.gpu.append(workspace.step_rows)
            return go(step, device, program, workspace, slice_s)

        monkeypatch.setattr(Workspace, "begin", on_cpu)
        monkeypatch.setattr(GpuStep, "go", on_gpu)


@pytest.fixture
def anyio_backend() -> str:
    """The host makes no difference to what is read where."""
    return "trio"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(monkeypatch)


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    devices = [CpuDevice(threads=1), GpuDevice()]
    for device in devices:
        device.pauses_s = (0.0,) * 100  # what was lost comes back
    async with open_runtime(devices=devices) as runtime:
        yield runtime
    assert runtime.stats().memory.held == 0


async def said(llm: LLM, prompt: list[int] = PROMPT, **options: Any) -> list[Token]:
    async with llm.generate(prompt, **{"max_tokens": COUNT, "ignore_eos": True} | options) as stream:
        tokens = [token async for token in stream]
        assert stream.job is not None
        assert stream.job.worker.name == "cpu"
    memory = llm._runtime.stats().memory
    assert (memory.pages, memory.workspaces) == (0, 0)
    return tokens


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def tiny_of(arch: str, tmp_path: Path) -> Path:
    return TINIES[arch](form="F16").write(tmp_path / "m.gguf")  # no rounding to int8 that could go either way


@pytest.mark.parametrize("arch", TINIES)
async def test_a_text_goes_on_as_if_the_cpu_had_read_it(
    runtime: Runtime, arch: str, tmp_path: Path, rows: Rows
) -> None:
    path = tiny_of(arch, tmp_path)
    async with await runtime.load_model(path, device="cpu", prefix_reuse=False) as llm:
        expected = [await said(llm, PROMPT[:count]) for count in (2, 65, 150)]
    rows.cpu.clear()
    async with await runtime.load_model(path, device="cpu", prefill_on="gpu") as llm:
        found = [await said(llm, PROMPT[:count]) for count in (2, 65, 150)]
    assert list(map(ids, found)) == list(map(ids, expected))
    for one, other in zip(found, expected, strict=True):
        assert [token.logprob for token in one] == pytest.approx([token.logprob for token in other], abs=0.01)
    assert rows.gpu == [1, 64, 128, 21]
    assert rows.cpu == [1] * 3 * COUNT, "the last token's logits are the CPU's, and nothing is read twice"


async def test_an_int8_cache_is_handed_over_as_well(runtime: Runtime, tmp_path: Path, rows: Rows) -> None:
    path = tiny_of("llama", tmp_path)
    answers = []
    for options in ({"prefix_reuse": False}, {"prefill_on": "gpu"}):
        async with await runtime.load_model(path, device="cpu", kv_bits=8, **options) as llm:
            rows.cpu.clear()
            answers.append(await said(llm))
    assert ids(answers[0]) == ids(answers[1])
    for one, other in zip(*answers, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=0.05)
    assert rows.cpu == [1] * COUNT


async def test_a_conversations_next_turn_reads_only_what_is_new(
    runtime: Runtime, tmp_path: Path, rows: Rows
) -> None:
    path = tiny_of("llama", tmp_path)
    answers = []
    for options in ({"prefix_reuse": False}, {"prefill_on": "gpu"}):
        async with await runtime.load_model(path, device="cpu", **options) as llm:
            rows.cpu.clear()
            with llm.conversation() as talk:
                for question in ("hello hello", "hell", "he"):
                    async with talk.ask(question, max_tokens=COUNT, ignore_eos=True) as stream:
                        answers.append([token.id async for token in stream])
    assert answers[:3] == answers[3:]
    assert set(rows.cpu) == {1}
    assert 0 < sum(rows.gpu) < stream.usage.prompt_tokens, "each token of the whole text at most once"


async def test_others_share_its_steps_there(runtime: Runtime, tmp_path: Path) -> None:
    async with await runtime.load_model(tiny_of("llama", tmp_path), device="cpu", prefill_on="gpu") as llm:
        alone = [ids(await said(llm, PROMPT[number:])) for number in range(6)]
        answers: dict[int, list[int]] = {}

        async def ask(number: int) -> None:
            with qos(QoS(number % 5)):
                async with llm.generate(PROMPT[number:], max_tokens=COUNT, ignore_eos=True) as stream:
                    answers[number] = [token.id async for token in stream]

        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(ask, number)
        assert [answers[number] for number in range(6)] == alone


class ReadThere(Chooser):
    """Writes on the CPU, and reads on whatever else can."""

    def begin(self, wanted: Wanted, places: Any, readers: Any) -> tuple[str, str | None]:
        return "cpu", readers[0] if readers else None


@pytest.mark.parametrize("prefix_reuse", [True, False])
async def test_a_chooser_may_send_a_prompt_there_and_gets_what_it_took(
    runtime: Runtime, tmp_path: Path, rows: Rows, *, prefix_reuse: bool
) -> None:
    took: list[tuple[str, int]] = []

    class Listens(ReadThere):
        def took(self, device: str, text: int, behind: int, seconds: float, tokens: int) -> None:
            if text - behind > 1:
                took.append((device, text))

        def handed(self, device: str, tokens: int, seconds: float) -> None:
            assert seconds > 0
            took.append(("handed", tokens))

    path = tiny_of("llama", tmp_path)
    async with await runtime.load_model(path, prefix_reuse=prefix_reuse) as llm:
        assert llm.places.names == ["cpu", "gpu"]
        llm.places.chooser = Chooser()
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
            alone = [token.id async for token in stream]
        llm.places.chooser = Listens()
        rows.cpu.clear()
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
            assert [token.id async for token in stream] == alone
        assert took == [("gpu", 149), ("handed", 149)]
        assert rows.cpu == [1] * COUNT


async def test_where_it_pays_the_prompt_is_read_there(runtime: Runtime, tmp_path: Path) -> None:
    async with await runtime.load_model(tiny_of("llama", tmp_path)) as llm:
        chooser = llm.places.chooser
        assert isinstance(chooser, Measured)
        cpu, gpu = Place("cpu", "cpu", True, Pace()), Place("gpu", "gpu", True, Pace())
        for _ in range(4):
            for text in (50, 100, 200):
                chooser.took("cpu", text, 0, text / 100, 1)
                chooser.took("gpu", text, 0, text / 1000, 1)
                for device, speed in (("cpu", 100), ("gpu", 10)):
                    chooser.took(device, text + 1, text, 5 / speed, 5)
        wanted = Wanted(200, 200, 50)
        with qos(QoS.USER_INITIATED):
            assert chooser.begin(wanted, [cpu, gpu], ["gpu"]) == ("cpu", "gpu")
            for _ in range(4):
                chooser.handed("gpu", 200, 5.0)
            assert chooser.begin(wanted, [cpu, gpu], ["gpu"]) == ("cpu", None)


# What ends early.


class Calls:
    """Has something happen at the n-th step, or at the n-th layer that is handed over, on the GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = {"step": -1, "layer": -1}
        self.happen: Any = lambda: None
        go, read = GpuStep.go, GpuPages.read

        def counted(what: str) -> None:
            self.left[what] -= 1
            if self.left[what] == 0:
                self.happen()

        def stepping(step: GpuStep, *args: Any) -> bool:
            counted("step")
            return go(step, *args)

        def reading(pages: GpuPages, *args: Any) -> Any:
            counted("layer")
            return read(pages, *args)

        monkeypatch.setattr(GpuStep, "go", stepping)
        monkeypatch.setattr(GpuPages, "read", reading)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture
async def llm(runtime: Runtime, tmp_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(tiny_of("llama", tmp_path), device="cpu", prefill_on="gpu") as llm:
        yield llm


WHEN = [("step", 1), ("step", 2), ("layer", 1), ("layer", 2)]


@pytest.mark.parametrize("when", WHEN)
async def test_a_gpu_that_is_lost_leaves_the_prompt_to_the_cpu(
    llm: LLM, calls: Calls, when: tuple[str, int]
) -> None:
    alone = ids(await said(llm))

    def lose() -> None:
        raise DeviceLost("gpu", "lost")

    calls.happen, calls.left[when[0]] = lose, when[1]
    assert ids(await said(llm)) == alone
    assert llm._runtime.stats().device_losses == 1
    while any(device.fenced for device in llm._runtime.devices):  # noqa: ASYNC110
        await anyio.sleep(0.001)
    calls.left = {"step": -1, "layer": -1}
    assert ids(await said(llm)) == alone


@pytest.mark.parametrize("when", WHEN)
async def test_a_job_that_is_cancelled_there_gives_back_what_it_held(
    llm: LLM, calls: Calls, when: tuple[str, int]
) -> None:
    alone = ids(await said(llm))
    calls.happen = lambda: [job.cancel() for job in llm.places.jobs]
    calls.left[when[0]] = when[1]
    with pytest.raises(JobCancelled):
        await said(llm)
    calls.left = {"step": -1, "layer": -1}
    assert ids(await said(llm)) == alone


@pytest.mark.parametrize("when", WHEN[2:])
async def test_it_gives_way_between_two_layers_and_goes_on(
    llm: LLM, calls: Calls, when: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ids(await said(llm))
    gpu = next(each for each in llm._runtime.devices if isinstance(each, GpuDevice))
    calls.happen, calls.left[when[0]] = gpu.preempt, when[1]
    assert ids(await said(llm)) == alone


async def test_where_there_is_no_room_on_the_gpu_the_cpu_reads(
    llm: LLM, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ids(await said(llm))
    rows.cpu.clear()

    def full(pages: GpuPages) -> int:
        raise MemoryBudgetExceeded("there is no room for a page")

    monkeypatch.setattr(GpuPages, "take", full)
    assert ids(await said(llm)) == alone
    assert sum(rows.cpu) == len(PROMPT) + COUNT - 1


async def test_it_never_waits_for_memory_there_as_others_may_want_what_it_holds(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ids(await said(llm))
    asked: list[str] = []
    room = Residency.room

    def noting(residency: Residency, *args: Any) -> Any:
        asked.append(current_job().worker.name)
        return room(residency, *args)

    monkeypatch.setattr(Residency, "room", noting)
    assert ids(await said(llm)) == alone
    assert set(asked) == {"cpu"}


async def test_what_cannot_be_is_an_error_at_loading(runtime: Runtime, tmp_path: Path) -> None:
    path = tiny_of("llama", tmp_path)
    with pytest.raises(DeviceError, match="prompts cannot be read on 'gpu' for 'gpu'"):
        await runtime.load_model(path, device="gpu", prefill_on="gpu")


# A generation that moves takes along what was read.


class Moves(Chooser):
    """Begins on one device, and goes to the other when there are so many tokens."""

    def __init__(self, first: str, at: int) -> None:
        self.first, self.at = first, at

    def begin(self, wanted: Wanted, places: Any, readers: Any) -> tuple[str, str | None]:
        return self.first, None

    def next(self, here: str, wanted: Wanted, places: Any) -> str:
        return {"cpu": "gpu", "gpu": "cpu"}[here] if wanted.text == self.at else here


@pytest.fixture
async def both(runtime: Runtime, tmp_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(tiny_of("llama", tmp_path)) as llm:
        llm.places.chooser = Chooser()
        yield llm


async def moved(llm: LLM, first: str) -> list[int]:
    llm.places.chooser = Moves(first, len(PROMPT) + 3)
    async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
        return [token.id async for token in stream]


@pytest.mark.parametrize("first", ["cpu", "gpu"])
async def test_a_generation_that_moves_reads_nothing_again(both: LLM, rows: Rows, first: str) -> None:
    alone = await moved(both, "cpu" if first == "gpu" else "gpu")
    rows.cpu.clear()
    rows.gpu.clear()
    assert await moved(both, first) == alone
    wrote = rows.cpu if first == "gpu" else rows.gpu
    assert wrote == [1] * (COUNT - 3), "on the second device"


@pytest.mark.parametrize("when", WHEN[2:])
async def test_a_gpu_that_is_lost_while_it_hands_over_costs_no_token(
    both: LLM, calls: Calls, when: tuple[str, int]
) -> None:
    alone = await moved(both, "gpu")

    def lose() -> None:
        raise DeviceLost("gpu", "lost")

    calls.happen, calls.left = lose, {"step": -1, when[0]: when[1]}
    assert await moved(both, "gpu") == alone
    assert both._runtime.stats().device_losses == 1


@pytest.mark.parametrize("when", WHEN[2:])
async def test_who_is_cancelled_while_it_is_handed_over_leaves_nothing_behind(
    both: LLM, calls: Calls, when: tuple[str, int]
) -> None:
    alone = await moved(both, "gpu")
    calls.happen = lambda: [job.cancel() for job in both.places.jobs]
    calls.left = {"step": -1, when[0]: when[1]}
    with pytest.raises(JobCancelled):
        await moved(both, "gpu")
    calls.left = {"step": -1, "layer": -1}
    assert await moved(both, "gpu") == alone


@pytest.mark.model
def test_the_default_model_says_what_llama_cpp_says_until_a_margin_is_small(model_path: Path) -> None:
    async def read_there(case: dict[str, Any]) -> list[int]:
        async with (
            open_runtime(devices=["cpu", "gpu"]) as runtime,
            await runtime.load_model(model_path, context=512, device="cpu", prefill_on="gpu") as llm,
        ):
            return ids(await said(llm, case["prompt_tokens"], max_tokens=10))

    for case in (CASES[3], CASES[4]):
        tokens = anyio.run(read_there, case)
        compared = zip(tokens, case["tokens"], case["margins"], strict=False)
        other = next((margin for token, wanted, margin in compared if token != wanted), 0.0)
        assert other < 0.3
