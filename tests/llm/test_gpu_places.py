"""One model on the CPU and on a GPU: texts go from one to the other, and on where one is lost."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from choosers import Sent
from tiny import Tiny

from coro_rt import DeviceLost, ModelError, Runtime, open_runtime
from coro_rt.devices.cpu import CpuDevice
from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.workspace import GpuWorkspace
from coro_rt.llm.chooser import Chooser
from coro_rt.llm.generate import Token
from coro_rt.llm.gpu import GpuStep
from coro_rt.llm.model import LLM
from coro_rt.llm.step import ModelStep

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu", "step_by_step"), pytest.mark.anyio]

DATA = Path(__file__).parent.parent / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "smollm2-greedy.json").read_text())["cases"]
PROMPT = list(range(3, 83))
COUNT = 8
OPTIONS: list[dict[str, Any]] = [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}]


class From(Sent):
    """Begins on one device, and goes to the other when there are so many tokens."""

    def __init__(self, first: str, at: int = 0) -> None:
        super().__init__(lambda text: text == at, first)


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    devices = [CpuDevice(threads=1), GpuDevice()]
    for device in devices:
        device.pauses_s = (0.0,) * 100  # what was lost comes back
    async with open_runtime(devices=devices) as runtime:
        yield runtime
    assert runtime.stats().memory.held == 0


@pytest.fixture
async def llm(runtime: Runtime, tmp_path: Path) -> AsyncIterator[LLM]:
    path = Tiny(form="F16").write(tmp_path / "m.gguf")  # no rounding to int8 that could go the other way
    async with await runtime.load_model(path, prefix_reuse=False) as llm:
        assert llm.places.names == ["cpu", "gpu"]
        llm.places.chooser = Chooser()
        yield llm
        assert (runtime.stats().memory.pages, runtime.stats().memory.workspaces) == (0, 0)


async def said(llm: LLM, prompt: list[int] = PROMPT, **options: Any) -> list[int]:
    async with llm.generate(prompt, **{"max_tokens": COUNT, "ignore_eos": True} | options) as stream:
        tokens: list[Token] = [token async for token in stream]
    assert stream.usage.completion_tokens == len(tokens)
    return [token.id for token in tokens]


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "drawn"])
@pytest.mark.parametrize("first", ["cpu", "gpu"])
async def test_a_text_goes_on_as_it_would_have(llm: LLM, first: str, options: dict[str, Any]) -> None:
    alone = await said(llm, **options)
    for stayed in range(1, COUNT, 2):
        llm.places.chooser = From(first, len(PROMPT) + stayed)
        assert await said(llm, **options) == alone


@pytest.mark.parametrize("first", ["cpu", "gpu"])
async def test_with_keys_and_values_in_int8_it_goes_from_one_to_the_other_too(
    runtime: Runtime, first: str, tmp_path: Path
) -> None:
    path = Tiny(form="F16").write(tmp_path / "m.gguf")
    counts = next(device for device in runtime.devices if isinstance(device, GpuDevice)).counts
    async with await runtime.load_model(path, kv_bits=8) as llm:
        assert llm.places.names == ["cpu", "gpu"]
        llm.places.chooser = From(first, len(PROMPT) + 3)
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
            assert len([token async for token in stream]) == COUNT
        assert stream.job is not None
        assert stream.job.worker.name != first
        assert counts.dispatches > 0


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "drawn"])
@pytest.mark.parametrize("first", ["cpu", "gpu"])
async def test_a_device_that_is_lost_costs_no_token(
    llm: LLM, first: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = await said(llm, **options)
    left = 0

    def failing(kind: type[ModelStep]) -> None:
        go = kind.go

        def counted(step: Any, device: Any, *args: Any) -> bool:
            nonlocal left
            if device.name == first:
                left -= 1
                if left < 0:
                    raise DeviceLost(first, "lost")
            return go(step, device, *args)

        monkeypatch.setattr(kind, "go", counted)

    failing(GpuStep if first == "gpu" else ModelStep)
    llm.places.chooser = From(first)
    for steps in (0, 4):
        while any(device.fenced for device in llm._runtime.devices):  # noqa: ASYNC110
            await anyio.sleep(0.001)
        left = steps
        assert await said(llm, **options) == alone
        assert left < 0


@pytest.mark.parametrize("pause_s", [0.0, None], ids=["back", "gone"])
async def test_a_gpu_that_went_away_while_nobody_used_it_costs_no_token(
    llm: LLM, pause_s: float | None
) -> None:
    alone = await said(llm)
    llm.places.chooser = From("gpu")
    assert await said(llm) == alone
    gpu = next(device for device in llm._runtime.devices if isinstance(device, GpuDevice))
    if pause_s is None:
        gpu.pauses_s = ()
    gpu.device.destroy()
    assert gpu.fenced is None, "nobody has looked"
    assert await said(llm) == alone
    assert llm._runtime.stats().device_losses == 1
    assert await said(llm) == alone


async def test_a_conversation_that_rests_on_a_gpu_that_went_away_goes_on(llm: LLM) -> None:
    answers: list[list[int]] = []
    for lost in (False, True):
        llm.places.chooser = From("gpu")
        with llm.conversation() as talk:
            for question in ("hello", "he"):
                async with talk.ask(question, max_tokens=6, ignore_eos=True) as stream:
                    answers.append([token.id async for token in stream])
                if lost and question == "hello":
                    gpu = next(each for each in llm._runtime.devices if isinstance(each, GpuDevice))
                    gpu.pauses_s = ()
                    gpu.device.destroy()
    assert answers[:2] == answers[2:]


async def test_what_is_no_number_is_computed_elsewhere_before_it_counts(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = await said(llm)
    logprob, calls = GpuWorkspace.logprob, 0

    def spoiled(self: GpuWorkspace, row: int, token: int) -> float:
        nonlocal calls
        calls += 1
        return float("nan") if calls == 4 else logprob(self, row, token)

    monkeypatch.setattr(GpuWorkspace, "logprob", spoiled)
    llm.places.chooser = From("gpu")
    assert await said(llm) == alone
    assert calls == 4


async def test_what_is_no_number_on_the_cpu_is_the_models_fault(
    runtime: Runtime, llm: LLM, tmp_path: Path
) -> None:
    tiny = Tiny(form="F16")
    tiny.weights["output_norm.weight"][:] = float("nan")
    async with await runtime.load_model(tiny.write(tmp_path / "nan.gguf")) as broken:
        for first in "cpu", "gpu":
            broken.places.chooser = From(first)
            with pytest.raises(ModelError, match="not numbers"):
                await said(broken)


async def test_a_conversation_goes_to_the_gpu_and_back(llm: LLM) -> None:
    answers = []
    for devices in (["cpu"] * 4, ["cpu", "gpu", "gpu", "cpu"]):
        with llm.conversation() as talk:
            for question, device in zip(("hello", "hell", "he", "hello he"), devices, strict=True):
                async with talk.ask(question, max_tokens=6, ignore_eos=True, device=device) as stream:
                    answers.append([token.id async for token in stream])
                assert (stream.usage.reused_tokens > 0) == (
                    question != "hello" and device == devices[len(talk.messages) // 2 - 2]
                )
    assert answers[:4] == answers[4:]


@pytest.mark.model
@pytest.mark.parametrize("first", ["cpu", "gpu"])
def test_the_default_model_says_what_llama_cpp_says_until_a_margin_is_small(
    model_path: Path, first: str
) -> None:
    async def moved(case: dict[str, Any]) -> list[int]:
        async with (
            open_runtime(devices=["cpu", "gpu"]) as runtime,
            await runtime.load_model(model_path, context=512) as llm,
        ):
            prompt = case["prompt_tokens"]
            llm.places.chooser = From(first, len(prompt) + 3)
            tokens = await said(llm, prompt, max_tokens=10)
            assert all(runtime.stats().device_busy_s.values())
            return tokens

    for case in (CASES[3], CASES[4]):
        tokens = anyio.run(moved, case)
        compared = zip(tokens, case["tokens"], case["margins"], strict=False)
        other = next((margin for token, wanted, margin in compared if token != wanted), 0.0)
        assert other < 0.3
