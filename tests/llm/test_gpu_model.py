"""A language model on the device `gpu`: what people call, and the default model beside llama.cpp's tokens."""

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from tiny import Tiny

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.dispatch import When
from coro_rt.devices.gpu.pages import ALWAYS
from coro_rt.errors import DeviceError, MemoryBudgetExceeded
from coro_rt.llm.architecture import Hyperparameters
from coro_rt.llm.decoder import Model
from coro_rt.llm.gguf_file import open_gguf
from coro_rt.llm.model import LLM
from coro_rt.llm.step import step

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

DATA = Path(__file__).parent.parent / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "smollm2-greedy.json").read_text())["cases"]
UNROUNDED: list[list[int]] = json.loads((DATA / "smollm2-unrounded.json").read_text())["best"]


async def ids(llm: LLM, prompt: str | list[int] = "hello", **options: object) -> list[int]:
    async with llm.generate(prompt, **{"max_tokens": 12, "ignore_eos": True} | options) as stream:
        return [token.id async for token in stream]


def dispatches(model: Model) -> int:
    """Of a step whose contexts are short."""
    return sum(each.when in (When.ALWAYS, When.TOGETHER) for each in model.program.dispatches)


def gpu_of(runtime: Runtime) -> GpuDevice:
    return next(device for device in runtime.devices if isinstance(device, GpuDevice))


@pytest.mark.anyio
async def test_it_generates_chats_and_scores_as_on_the_cpu(tmp_path: Path) -> None:
    path = Tiny(form="F16").write(tmp_path / "m.gguf")  # no rounding to int8 that could go the other way
    async with open_runtime(devices=["cpu", "gpu"]) as runtime:
        async with (
            await runtime.load_model(path, device="cpu") as cpu,
            await runtime.load_model(path, device="gpu") as gpu,
        ):
            before = runtime.memory.used
            for options in ({}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}, {"repetition_penalty": 1.3}):
                assert await ids(gpu, **options) == await ids(cpu, **options)
            text = list(range(40))
            np.testing.assert_allclose(await gpu.score(text), await cpu.score(text), atol=0.02)
            chats = []
            for llm in (gpu, cpu):
                with llm.conversation() as talk:
                    for question in ("hello", "and then?"):
                        async with talk.ask(question, max_tokens=8, ignore_eos=True) as stream:
                            chats.append([token.id async for token in stream])
            assert chats[:2] == chats[2:]
            assert runtime.memory.used == before, "a job kept memory"
        assert runtime.memory.used == 0


@pytest.mark.anyio
async def test_no_step_of_a_model_on_it_runs_elsewhere(tiny_path: Path) -> None:
    async with open_runtime(devices=["gpu"]) as runtime, await runtime.load_model(tiny_path) as llm:
        counts, model = gpu_of(runtime).counts, llm._open()
        await ids(llm, [1, 2, 3], max_tokens=5)
        assert counts.dispatches == 5 * dispatches(model)
        assert counts.submissions >= 5
        assert counts.busy_s > 0


@pytest.mark.anyio
async def test_company_and_urgency_do_not_change_its_tokens(tiny_path: Path) -> None:
    async with open_runtime(devices=["gpu"]) as runtime, await runtime.load_model(tiny_path) as llm:
        prompts = [list(range(n, n + 20 * n)) for n in range(1, 5)]
        alone = [await ids(llm, prompt) for prompt in prompts]
        together: dict[int, list[int]] = {}

        async def ask(n: int) -> None:
            with qos(list(QoS)[n % len(QoS)]):
                together[n] = await ids(llm, prompts[n])

        async with anyio.create_task_group() as group:
            for n in range(len(prompts)):
                group.start_soon(ask, n)
        assert [together[n] for n in range(len(prompts))] == alone


@pytest.mark.anyio
async def test_keys_and_values_in_int8_take_half_the_memory_and_are_those_of_the_cpu(tmp_path: Path) -> None:
    path = Tiny(form="F16", context=1024).write(tmp_path / "m.gguf")
    text = [7 * at % 250 for at in range(200)]
    async with open_runtime(devices=["cpu", "gpu"]) as runtime:
        used, scores = [], []
        for device, bits in (("gpu", 16), ("gpu", 8), ("cpu", 8)):
            async with await runtime.load_model(path, device=device, kv_bits=bits) as llm:
                before = runtime.memory.used
                async with llm.generate([1] * 600, max_tokens=9, ignore_eos=True) as stream:
                    await anext(stream)
                    used.append(runtime.memory.used - before)
                    assert len([token async for token in stream]) == 8
                assert runtime.memory.used == before
                scores.append(await llm.score(text))
    with open_gguf(path) as file:
        page = Hyperparameters.from_gguf(file).kv.page_bytes
    assert used[0] - used[1] > 0.45 * page * ALWAYS  # as many again, of which half is not there
    exact, ours, theirs = scores
    assert 0 < np.abs(ours - exact).mean() < 0.05
    np.testing.assert_allclose(ours, theirs, atol=0.05)


@pytest.mark.anyio
@pytest.mark.parametrize("kv_bits", [8, 16])
async def test_cancelled_halfway_it_gives_everything_back(kv_bits: int, tiny_path: Path) -> None:
    async with (
        open_runtime(devices=["gpu"]) as runtime,
        await runtime.load_model(tiny_path, kv_bits=kv_bits) as llm,
    ):
        before = runtime.memory.used
        for after in range(3):
            async with llm.generate("hello", max_tokens=100, ignore_eos=True) as stream:
                for _ in range(after):
                    await anext(stream)
        assert runtime.memory.used == before
        assert len(await ids(llm)) == 12


@pytest.mark.anyio
async def test_closed_it_leaves_nothing_on_the_device(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = pytest.importorskip("wgpu.backends.wgpu_native")
    made: list[Any] = []
    destroyed: list[Any] = []
    make, destroy = GpuDevice.buffer, native.GPUBuffer.destroy

    def making(device: GpuDevice, nbytes: int) -> Any:
        made.append(make(device, nbytes))
        return made[-1]

    def destroying(buffer: Any) -> None:
        destroyed.append(buffer)
        destroy(buffer)

    monkeypatch.setattr(GpuDevice, "buffer", making)
    monkeypatch.setattr(native.GPUBuffer, "destroy", destroying)
    async with open_runtime(devices=["gpu"]) as runtime:
        async with await runtime.load_model(tiny_path) as llm:
            await ids(llm, list(range(200)), max_tokens=20)
            left = llm.generate("hello", max_tokens=100, ignore_eos=True)
            await anext(left)
        assert {id(buffer) for buffer in made} <= {id(buffer) for buffer in destroyed}
        await left.aclose()
    assert len(made) > 50


@pytest.mark.anyio
async def test_weights_are_reserved_before_they_are_uploaded(tiny_path: Path) -> None:
    async with open_runtime(devices=["gpu"], memory="100 KiB") as runtime:
        with pytest.raises(MemoryBudgetExceeded):
            await runtime.load_model(tiny_path)
        assert runtime.memory.used == 0


@pytest.mark.anyio
async def test_what_it_cannot_do_is_said(tiny_path: Path) -> None:
    async with open_runtime(devices=["gpu"]) as runtime:
        with pytest.raises(DeviceError, match="no model can run on 'cpu', and open are: gpu"):
            await runtime.load_model(tiny_path, device="cpu")


async def best_of(model: Model, case: dict[str, Any]) -> list[int]:
    """A job: our best token at each of llama.cpp's positions, fed with llama.cpp's tokens."""
    fed, best = case["prompt_tokens"] + case["tokens"][:-1], list[int]()
    async with model.in_use():
        with model.lend([]) as sequence:
            for start in range(0, len(fed), 32):
                chunk = fed[start : start + 32]
                await sequence.make_room(start + len(chunk), 32, own=True)
                workspace = sequence.workspace
                positions = list(range(start, start + len(chunk)))
                workspace.begin(chunk, positions, [sequence.table] * len(chunk), tail=len(chunk))
                with sequence.pinned():
                    await step(model.program, workspace)
                sequence.extend(chunk)
                best += workspace.summaries[0].tolist()
    return best[len(case["prompt_tokens"]) - 1 :]


async def bests(path: Path, cases: list[dict[str, Any]]) -> list[list[int]]:
    """Of each case."""
    found = []
    async with open_runtime(devices=["gpu"]) as runtime, await runtime.load_model(path, context=512) as llm:
        model = llm._open()
        for case in cases:
            found.append(await runtime.run(best_of, model, case))
        steps = sum(-(-(len(case["prompt_tokens"]) + len(case["tokens"]) - 1) // 32) for case in cases)
        assert gpu_of(runtime).counts.dispatches == steps * dispatches(model)
    return found


@pytest.mark.model
def test_the_default_models_best_token_is_llama_cpps_where_the_margin_is_clear(model_path: Path) -> None:
    short = [CASES[3], CASES[4]]
    for case, best in zip(short, anyio.run(bests, model_path, short), strict=True):
        for ours, wanted, margin in zip(best, case["tokens"], case["margins"], strict=True):
            assert ours == wanted or margin < 0.3


@pytest.mark.model
@pytest.mark.soak
def test_over_all_references_it_disagrees_only_where_llama_cpps_rounding_decided(model_path: Path) -> None:
    """Activations are rounded to int8 on all devices and in llama.cpp. What lies on an edge may go the other
    way when a sum differs in its last bit, and in this model that moves margins by 0.16 (standard deviation),
    on the CPU and on the GPU alike: see docs/design.md. So llama.cpp's token may be the second best of the
    model as it is without rounding, and then ours may be that one's.
    """
    clear = [
        (margin, ours, wanted, unrounded)
        for case, best, other in zip(CASES, anyio.run(bests, model_path, CASES), UNROUNDED, strict=True)
        for margin, ours, wanted, unrounded in zip(case["margins"], best, case["tokens"], other, strict=True)
        if margin >= 0.3
    ]
    assert len(clear) > 300
    assert [one for one in clear if one[1] not in one[2:]] == []
    assert [one for one in clear if one[0] >= 1 and one[1] != one[2]] == []
    assert np.mean([ours == wanted for _, ours, wanted, _ in clear]) >= 0.99


@pytest.mark.model
@pytest.mark.soak
def test_perplexity_is_llama_cpps_within_one_percent(model_path: Path) -> None:
    expected = json.loads((DATA / "smollm2-perplexity.json").read_text())

    async def scores() -> np.ndarray:
        async with open_runtime(devices=["gpu"]) as runtime, await runtime.load_model(model_path) as llm:
            return await llm.score(expected["tokens"])

    assert np.exp(-anyio.run(scores).mean()) == pytest.approx(expected["perplexity"], rel=0.01)


@pytest.mark.model
def test_the_default_model_decodes_greedily_without_reading_logits_back(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = GpuDevice.read

    def counting(device: GpuDevice, buffer: Any, nbytes: int) -> Any:
        read.append(nbytes)
        return original(device, buffer, nbytes)

    monkeypatch.setattr(GpuDevice, "read", counting)

    async def main() -> list[int]:
        async with open_runtime(devices=["gpu"]) as runtime, await runtime.load_model(model_path) as llm:
            return await ids(llm, CASES[3]["prompt_tokens"], max_tokens=4)

    assert anyio.run(main) == CASES[3]["tokens"][:4]
    assert read == [16] * 4
