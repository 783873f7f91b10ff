"""Generations go where they were measured to be done first. (Two devices on the CPU stand for two kinds.)"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.devices.cpu import CpuDevice
from coro_rt.llm.chooser import Chooser, Place, Wanted
from coro_rt.llm.measured import Measured
from coro_rt.llm.model import LLM
from coro_rt.schedulers import Curve
from coro_rt.schedulers.pace import Pace
from coro_rt.testing import SimDevice
from coro_rt.trace.reader import Trace
from coro_rt.trace.replay import replay

pytestmark = pytest.mark.anyio

PROMPT = list(range(3, 163))
COUNT = 12
A, B = Place("a", "cpu", True, Pace()), Place("b", "cpu", True, Pace())


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    devices = [CpuDevice(name="a", threads=1), CpuDevice(name="b", threads=1), SimDevice("npu")]
    async with open_runtime(devices=devices) as runtime:
        yield runtime
    assert runtime.memory.used == 0


@pytest.fixture
async def llm(runtime: Runtime, tiny_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(tiny_path, devices=["a", "b"], prefix_reuse=False) as llm:
        llm.places.chooser = Measured.of(runtime._engine, llm.places.first)
        yield llm


def chooser_of(llm: LLM) -> Measured:
    assert isinstance(llm.places.chooser, Measured)
    return llm.places.chooser


def teach(llm: LLM, **tokens_per_s: tuple[float, float]) -> None:
    """Each device reads and writes so many tokens a second."""
    chooser = chooser_of(llm)
    for _ in range(4):
        for device, (reads, writes) in tokens_per_s.items():
            for text in (50, 100, 200):
                chooser.took(device, text, 0, text / reads, 1)
                chooser.took(device, text + 1, text, 5 / writes, 5)


def curves(llm: LLM, runtime: Runtime) -> dict[tuple[str, str], Curve]:
    """By what is done, and where."""
    profile = runtime._engine.scheduler.placement.profile
    return {(kernel.partition(" ")[0], device): curve for kernel, device, curve in profile}


async def said(llm: LLM, **options: Any) -> tuple[list[int], str]:
    """The tokens, and where the job was at its end."""
    async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True, **options) as stream:
        tokens = [token.id async for token in stream]
        assert stream.job is not None
        return tokens, stream.job.worker.name


async def test_what_is_read_and_written_alone_is_learned(llm: LLM, runtime: Runtime) -> None:
    await said(llm, device="b")
    found = curves(llm, runtime)
    assert found.keys() == {("read", "b"), ("write", "b")}
    assert found["read", "b"].samples == 1
    assert 1 <= found["write", "b"].samples < COUNT


async def test_what_ran_in_company_is_not(llm: LLM, runtime: Runtime) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(lambda: said(llm, device="a"))
    learned = sum(curve.samples for curve in curves(llm, runtime).values())
    assert learned < 4 * COUNT


async def test_who_is_cancelled_while_it_is_measured_leaves_nothing_behind(
    llm: LLM, runtime: Runtime
) -> None:
    with anyio.move_on_after(0.005):
        await said(llm)
    assert runtime.stats().memory.pages == 0
    assert len((await said(llm))[0]) == COUNT


async def test_somebody_urgent_goes_where_it_is_done_first(llm: LLM) -> None:
    expected, _ = await said(llm, device="a")
    teach(llm, a=(100.0, 10.0), b=(1000.0, 100.0))
    with qos(QoS.USER_INTERACTIVE):
        assert await said(llm) == (expected, "b")
        assert await said(llm, device="a") == (expected, "a")


async def test_background_tries_the_device_that_nobody_knows(llm: LLM, runtime: Runtime) -> None:
    with qos(QoS.BACKGROUND):
        places = [(await said(llm))[1] for _ in range(8)]
    assert set(places) == {"a", "b"}
    assert curves(llm, runtime).keys() == {(what, where) for what in ("read", "write") for where in "ab"}


async def test_weights_that_are_not_there_have_to_be_loaded(llm: LLM) -> None:
    teach(llm, a=(1000.0, 100.0), b=(1100.0, 110.0))
    wanted = Wanted(100, 100, 10)
    with qos(QoS.USER_INITIATED):
        assert chooser_of(llm).begin(wanted, [A, B], []) == ("b", None)
        chooser_of(llm)._amounts.nbytes = 2_000_000_000
        assert chooser_of(llm).begin(wanted, [A, Place("b", "gpu", False, Pace())], []) == ("a", None)


async def test_a_prompt_is_read_elsewhere_where_that_pays(llm: LLM) -> None:
    wanted, chooser = Wanted(100, 100, 10), chooser_of(llm)
    with qos(QoS.USER_INITIATED):
        assert chooser.begin(wanted, [A], []) == ("a", None)
        teach(llm, a=(1000.0, 100.0), npu=(5000.0, 1.0))
        assert chooser.begin(wanted, [A], ["npu"]) == ("a", "npu")
        assert chooser.begin(wanted, [Place("a", "gpu", True, Pace())], ["npu"]) == ("a", None)
        teach(llm, npu=(500.0, 1.0))
        teach(llm, npu=(500.0, 1.0))
        assert chooser.begin(wanted, [A], ["npu"]) == ("a", None)


async def test_a_slow_writer_that_reads_fast_is_for_long_prompts(llm: LLM) -> None:
    teach(llm, a=(100.0, 100.0), b=(1000.0, 10.0))
    with qos(QoS.USER_INITIATED):
        assert chooser_of(llm).begin(Wanted(200, 200, 2), [A, B], [])[0] == "b"
        assert chooser_of(llm).begin(Wanted(20, 20, 100), [A, B], [])[0] == "a"


@pytest.mark.parametrize("pays", [True, False])
async def test_a_generation_moves_when_that_pays(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, *, pays: bool
) -> None:
    expected, _ = await said(llm, device="a")
    monkeypatch.setattr("coro_rt.llm.measured.LOOK_S", 0.0)
    monkeypatch.setattr("coro_rt.llm.turnaround.USUAL_S", 0.0)
    monkeypatch.setattr("coro_rt.llm.turnaround.PART", 0)
    teach(llm, a=(1e4, 1.0), b=(1e4 if pays else 0.1, 100.0))
    monkeypatch.setattr(Measured, "begin", Chooser.begin)  # at the first place
    monkeypatch.setattr(Measured, "took", Chooser.took)
    with qos(QoS.USER_INTERACTIVE):
        assert await said(llm) == (expected, "b" if pays else "a")


async def test_choices_of_generations_are_replayed(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    devices = [CpuDevice(name=name, threads=1) for name in "ab"]
    async with (
        open_runtime(devices=devices, record=path) as runtime,
        await runtime.load_model(tiny_path, devices=["a", "b"]) as llm,
    ):
        llm.places.chooser = Measured.of(runtime._engine, llm.places.first)
        for _ in range(4):
            await said(llm)
    text = path.read_text()
    assert '"call":"place"' in text
    assert '"call":"measured"' in text
    found = replay(Trace(path))
    assert not found, found
