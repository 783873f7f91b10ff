"""Devices that are lost under a model: whoever generates there goes on elsewhere with the same tokens."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from coro_rt import DeviceLost, QoS, Runtime, open_runtime, qos
from coro_rt.devices.cpu import CpuDevice
from coro_rt.llm.chooser import Chooser
from coro_rt.llm.decoder import Model
from coro_rt.llm.generate import Token
from coro_rt.llm.model import LLM
from coro_rt.llm.step import ModelStep

pytestmark = pytest.mark.anyio

PROMPT = list(range(3, 163))  # two chunks of a prompt
COUNT = 12
DRAWN: dict[str, Any] = {"temperature": 1.1, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 5}


class Faults:
    """Has the steps of devices fail: `left` says how many go well until then. With `late` a step is computed
    first, and what it gave is lost.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: dict[str, int] = {}
        self.late = False
        go = ModelStep.go

        def failing(step: ModelStep, device: Any, *args: Any) -> bool:
            if self.left.get(device.name) == 0:
                if self.late and not go(step, device, *args):
                    return False
                raise DeviceLost(device.name, "lost")
            if device.name in self.left:
                self.left[device.name] -= 1
            return go(step, device, *args)

        monkeypatch.setattr(ModelStep, "go", failing)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    devices = [CpuDevice(name=name, threads=1) for name in "ab"]
    for device in devices:
        device.pauses_s = (0.0,) * 100  # what was lost comes back
    async with open_runtime(devices=devices) as runtime:
        yield runtime
    assert runtime.stats().memory.held == 0


@pytest.fixture
async def llm(runtime: Runtime, tiny_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(tiny_path, devices=["a", "b"], prefix_reuse=False) as llm:
        yield llm
        use = runtime.stats().memory
        assert (use.pages, use.cached, use.workspaces) == (0, 0, 0)


async def all_are_back(llm: LLM) -> None:
    while any(device.fenced for device in llm._runtime.devices):  # noqa: ASYNC110
        await anyio.sleep(0.001)


async def said(llm: LLM, prompt: list[int] = PROMPT, **options: Any) -> list[Token]:
    async with llm.generate(prompt, **{"max_tokens": COUNT, "ignore_eos": True} | options) as stream:
        tokens = [token async for token in stream]
    assert stream.usage.prompt_tokens == len(prompt)
    assert stream.usage.completion_tokens == len(tokens)
    assert stream.usage.reused_tokens == 0
    return tokens


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("options", [{}, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, COUNT])
async def test_lost_at_any_step_it_goes_on_elsewhere_with_the_same_tokens(
    llm: LLM, faults: Faults, steps: int, options: dict[str, Any], late: bool
) -> None:
    alone = await said(llm, **options)  # two steps for the prompt, then one for each token but the last
    weights = llm._runtime.stats().memory.weights
    faults.left, faults.late = {"a": steps}, late
    assert await said(llm, **options) == alone
    assert faults.left == {"a": 0}
    assert llm._runtime.stats().memory.weights == weights, "the lost one's are kept"
    await all_are_back(llm)
    assert [place.loaded for place in llm.places.open()] == [False, True]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
async def test_lost_in_the_middle_of_a_burst_nothing_is_said_twice(
    llm: LLM, faults: Faults, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = await said(llm, max_tokens=60)
    monkeypatch.setattr("coro_rt.llm.turnaround.USUAL_S", 0.0005)
    faults.late = late
    for steps in range(2, 6):
        await all_are_back(llm)
        faults.left = {"a": steps}
        assert await said(llm, max_tokens=60) == alone
        assert faults.left == {"a": 0}


@pytest.mark.parametrize("first", ["a", "b"])
async def test_lost_while_it_is_loaded_the_model_is_loaded_elsewhere(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    alone = await said(llm)
    build = Model.build

    def failing(model: Model) -> Any:
        if model.device.name == first:
            raise DeviceLost(first, "memory")
        return build(model)

    monkeypatch.setattr(Model, "build", failing)

    class There(Chooser):
        def begin(self, wanted: Any, places: Any, readers: Any) -> tuple[str, None]:
            names = [place.name for place in places]
            return (first if first in names else names[0]), None

    llm.places.chooser = There()
    llm._open().unload()
    assert await said(llm) == alone


async def test_a_device_that_is_lost_while_a_model_is_opened_leaves_it_to_the_others(
    runtime: Runtime, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, lost = Model.build, {"a"}

    def failing(model: Model) -> Any:
        if model.device.name in lost:
            raise DeviceLost(model.device.name, "memory")
        return build(model)

    monkeypatch.setattr(Model, "build", failing)
    async with await runtime.load_model(tiny_path, devices=["a", "b"]) as llm:
        assert [place.loaded for place in llm.places.open()] == [False, True]
        assert len(await said(llm)) == COUNT
    for options in {"device": "a"}, {"devices": ["a", "b"]}:
        with pytest.raises(DeviceLost, match="nowhere else"):
            await runtime.load_model(tiny_path, **options)
        lost.add("b")


async def test_it_goes_back_there_when_the_device_is_back(runtime: Runtime, llm: LLM, faults: Faults) -> None:
    alone = await said(llm)
    device = runtime.devices[0]
    device.pauses_s = ()  # it stays out
    faults.left = {"a": 1}
    assert await said(llm) == alone
    assert [place.name for place in llm.places.open()] == ["b"]
    before = runtime.stats().device_busy_s["a"]
    assert await said(llm) == alone
    assert runtime.stats().device_busy_s["a"] == before
    with pytest.raises(DeviceLost):
        await said(llm, device="a")
    faults.left = {}
    worker = runtime._engine.workers["a"]
    runtime._engine.tried(worker, sound=True, failure=None)
    assert await said(llm) == alone
    assert runtime.stats().device_busy_s["a"] > before


async def test_all_that_work_there_go_on_elsewhere(llm: LLM, faults: Faults) -> None:
    prompts = [list(range(n, n + 30 * n)) for n in range(1, 6)]
    alone = [await said(llm, prompt, **options) for prompt in prompts for options in ({}, DRAWN)]
    faults.left = {"a": 20}
    together: dict[int, list[Token]] = {}

    async def ask(nth: int) -> None:
        with qos(QoS(nth % len(QoS))):
            together[nth] = await said(llm, prompts[nth // 2], **({}, DRAWN)[nth % 2])

    async with anyio.create_task_group() as group:
        for nth in range(len(alone)):
            group.start_soon(ask, nth)
    assert [together[nth] for nth in range(len(alone))] == alone
    assert faults.left == {"a": 0}


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("steps", [(0, 0), (1, 1), (2, 0), (5, 1), (5, 4)], ids=str)
async def test_with_nowhere_left_the_task_is_told_and_has_what_was_written(
    llm: LLM, faults: Faults, steps: tuple[int, int]
) -> None:
    alone = await said(llm)
    faults.left = dict(zip("ab", steps, strict=True))
    got: list[Token] = []

    async def read() -> None:
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
            async for token in stream:
                got.append(token)

    with pytest.raises(DeviceLost, match=r"'b' is lost: and tiny can go on nowhere else") as lost:
        await read()
    assert (lost.value.device, lost.value.reason) == ("b", "lost")
    assert got == alone[: len(got)]
    assert len(got) == max(0, steps[0] - 1) + max(0, steps[1] - 1)
    faults.left = {}
    await all_are_back(llm)
    assert await said(llm) == alone


async def test_what_was_pinned_to_a_device_ends_with_it(llm: LLM, faults: Faults) -> None:
    faults.left = {"a": 1}
    with pytest.raises(DeviceLost, match="named as the one to run on"):
        await said(llm, device="a")


@pytest.mark.usefixtures("step_by_step")
async def test_cancelled_while_it_reads_elsewhere_nothing_is_left(
    runtime: Runtime, llm: LLM, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = ModelStep.go

    def watched(step: ModelStep, device: Any, *args: Any) -> bool:
        if device.name == "b":
            for launch in step.members:
                launch.job.cancel()
        return go(step, device, *args)

    monkeypatch.setattr(ModelStep, "go", watched)
    for steps in range(4):
        await all_are_back(llm)
        faults.left = {"a": steps}
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
            with pytest.raises(Exception, match="cancelled"):
                _ = [token async for token in stream]
        assert runtime.stats().memory.pages == 0


async def test_scores_are_read_again_elsewhere(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from coro_rt.llm import step

    alone = await llm.score(PROMPT)
    implementation, left = step.step.implementation("cpu"), {"a": 2}

    def failing(device: Any, launch: Any, slice_s: float) -> bool:
        if device.name in left:
            if not left[device.name]:
                raise DeviceLost(device.name, "hung")
            left[device.name] -= 1
        return implementation(device, launch, slice_s)

    monkeypatch.setitem(step.step._implementations, "cpu", failing)
    np.testing.assert_array_equal(await llm.score(PROMPT), alone)
    await all_are_back(llm)
    left["b"] = 0
    with pytest.raises(DeviceLost, match="nowhere else"):
        await llm.score(PROMPT)


async def test_a_conversation_goes_on_elsewhere_and_keeps_what_was_said(llm: LLM, faults: Faults) -> None:
    device = llm._runtime.devices[0]

    async def talked(lost_at: int | None) -> tuple[list[list[int]], list[int]]:
        answers, reused = [], []
        with llm.conversation(system="hello") as talk:
            for turn, question in enumerate(("hello", "hell", "hello hello")):
                if turn == lost_at:
                    faults.left = {"a": 0}
                async with talk.ask(question, max_tokens=9, ignore_eos=True) as stream:
                    answers.append([token.id async for token in stream])
                reused.append(stream.usage.reused_tokens)
        return answers, reused

    alone, _ = await talked(None)
    device.pauses_s = ()  # it stays out
    for lost_at in range(3):
        answers, reused = await talked(lost_at)
        faults.left = {}
        llm._runtime._engine.tried(llm._runtime._engine.workers["a"], sound=True, failure=None)
        assert answers == alone
        assert [n > 0 for n in reused] == [turn not in (0, lost_at) for turn in range(3)]


async def test_an_idle_conversation_whose_device_was_lost_reads_its_text_again(
    llm: LLM, faults: Faults
) -> None:
    with llm.conversation() as talk:
        async with talk.ask("hello", max_tokens=9, ignore_eos=True) as stream:
            _ = [token async for token in stream]
        faults.left = {"a": 0}
        assert len(await said(llm)) == COUNT  # another one loses the device
        faults.left = {}
        messages = [*talk.messages, {"role": "user", "content": "hell"}]
        async with talk.ask("hell", max_tokens=9, ignore_eos=True) as stream:
            answer = [token.id async for token in stream]
        assert stream.usage.reused_tokens == 0
        async with llm.chat(messages, max_tokens=9, ignore_eos=True) as fresh:
            assert [token.id async for token in fresh] == answer
