"""What a model has on a device that fails: given back, read anew when the device is back, never mixed up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rt_tools import opened, until
from tiny import Tiny
from tiny_bert import TinyBert

from coro_rt import DeviceLost, JobCancelled, sleep
from coro_rt.devices.gpu import GpuDevice
from coro_rt.faults import REASONS
from coro_rt.llm.gpu import GpuEncoder
from coro_rt.llm.model import LLM
from coro_rt.llm.places import Chooser
from coro_rt.testing import Fault, FaultInjection

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu"), pytest.mark.anyio]

PROMPT = list(range(20, 60))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: devices fail alike on all of them, and these take their time."""
    return "trio", {}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without weights that round one way on one device and the other on another."""
    return Tiny(form="F16").write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def quick(**options: Any) -> GpuDevice:
    device = GpuDevice(**options)
    device.pauses_s = (0.001,) * 100
    return device


async def ids(llm: LLM, prompt: list[int] = PROMPT, **options: Any) -> list[int]:
    async with llm.generate(prompt, max_tokens=8, ignore_eos=True, **options) as stream:
        return [token.id async for token in stream]


async def test_what_nobody_uses_is_given_back_at_once_and_loaded_again_when_it_is_wanted(path: Path) -> None:
    device = quick()
    device.pauses_s = (1e6,)
    async with opened(devices=["cpu", device]) as runtime:
        before = runtime.memory.used
        async with await runtime.load_model(path, device="gpu") as llm:
            first = await ids(llm)
            loaded = runtime.memory.used
            device.lose("lost", "says the test")
            await until(lambda: runtime.memory.used < loaded)
            with pytest.raises(DeviceLost):
                await ids(llm)
            worker = runtime._engine.workers["gpu"]
            assert worker.fence is not None
            worker.fence.next_try = 0.0  # it has rested
            worker.parker.unpark()
            await until(lambda: device.fenced is None)
            assert await ids(llm) == first
            assert runtime.memory.used == loaded
        assert runtime.memory.used == before


async def test_a_conversation_reads_again_what_was_said_before_the_device_failed(path: Path) -> None:
    device = quick()
    async with (
        opened(devices=["cpu", device]) as runtime,
        await runtime.load_model(path, device="gpu") as llm,
    ):
        said = []
        for fails in (False, True):
            with llm.conversation() as talk:
                for question in ("hello", "and then?"):
                    async with talk.ask(question, max_tokens=6, ignore_eos=True) as stream:
                        said.append([token.id async for token in stream])
                    if fails:
                        epoch = device.epoch
                        device.lose("lost", "says the test")
                        await until(lambda epoch=epoch: device.epoch > epoch and device.fenced is None)
        assert said[:2] == said[2:]


@pytest.mark.parametrize("reason", ["lost", "memory", "nan"])
@pytest.mark.parametrize("at", [1, 4])
async def test_a_text_on_no_other_device_ends_with_the_error_and_leaves_no_memory(
    path: Path, reason: str, at: int
) -> None:
    device = quick()
    faults = FaultInjection(device)
    async with opened(devices=["cpu", device]) as runtime:
        async with await runtime.load_model(path, device="gpu") as llm:
            first, used = await ids(llm), runtime.memory.used
            faults.add(Fault(reason, at), from_now=True)
            with pytest.raises(DeviceLost) as caught:
                await ids(llm)
            assert caught.value.reason == reason
            await until(lambda: device.fenced is None)
            assert await ids(llm) == first
            assert runtime.memory.used == used
        assert runtime.memory.used == 0


async def test_a_text_that_is_cancelled_in_that_moment_leaves_no_memory_either(path: Path) -> None:
    device = quick()
    faults = FaultInjection(device)
    async with opened(devices=["cpu", device]) as runtime:
        async with await runtime.load_model(path, devices=["gpu", "cpu"]) as llm:
            llm.places.chooser = Chooser()  # stays where it is
            await ids(llm)
            faults.add(Fault("lost", 4), from_now=True)
            stream = llm.generate(PROMPT, max_tokens=200, ignore_eos=True)
            with pytest.raises(JobCancelled):  # noqa: PT012
                async for _ in stream:
                    if faults.happened:
                        assert stream.job is not None
                        stream.job.cancel()
            await stream.aclose()
            await until(lambda: device.fenced is None)
            assert await ids(llm)
        assert runtime.memory.used == 0


async def test_a_text_that_loses_its_device_goes_on_at_another_with_the_same_tokens(path: Path) -> None:
    device = quick()
    faults = FaultInjection(device)
    async with opened(devices=["cpu", device]) as runtime:
        async with await runtime.load_model(path, devices=["gpu", "cpu"]) as llm:
            llm.places.chooser = Chooser()  # stays where it is
            first = await ids(llm)
            for reason in ("lost", "memory", "nan"):
                faults.add(Fault(reason, 3), from_now=True)
                assert await ids(llm) == first
                assert faults.happened[-1].reason == reason
                await until(lambda: device.fenced is None)
        assert runtime.memory.used == 0


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("at", [1, 2])  # a step; reading what it gave
async def test_embeddings_end_with_the_error_and_are_what_they_were_when_it_is_back(
    tmp_path: Path, reason: str, at: int
) -> None:
    device, texts = quick(quantum_s=1e3), ["the cat", "sat. " * 20, ""] * 12  # a step is one submission
    faults = FaultInjection(device, hurry=True)
    async with opened(devices=["cpu", device]) as runtime:
        async with await runtime.load_model(TinyBert().write(tmp_path / "m.gguf"), device="gpu") as llm:
            first, used = await llm.embed(texts), runtime.memory.used
            faults.add(Fault(reason, at), from_now=True)
            with pytest.raises(DeviceLost) as caught:
                await llm.embed(texts)
            assert caught.value.reason == reason
            await until(lambda: device.fenced is None)
            assert np.array_equal(await llm.embed(texts), first)
            assert runtime.memory.used == used
        assert runtime.memory.used == 0


async def test_embeddings_that_wait_while_the_device_fails_and_comes_back_do_not_use_what_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = quick()
    async with opened(devices=["cpu", device]) as runtime:
        async with await runtime.load_model(TinyBert().write(tmp_path / "m.gguf"), device="gpu") as llm:
            first = await llm.embed(["the cat"])
            buffers = GpuEncoder.buffers

            @asynccontextmanager
            async def slow(*args: Any) -> AsyncIterator[Any]:
                epoch = device.epoch
                async with buffers(*args) as made:
                    device.lose("lost", "says the test")
                    while device.epoch == epoch or device.fenced is not None:
                        await sleep(0.001)
                    yield made

            monkeypatch.setattr(GpuEncoder, "buffers", slow)
            with pytest.raises(DeviceLost, match="what it held of m is gone"):
                await llm.embed(["the cat"])
            monkeypatch.undo()
            assert np.array_equal(await llm.embed(["the cat"]), first)
        assert runtime.memory.used == 0
