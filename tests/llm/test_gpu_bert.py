"""An encoder on the device `gpu`: against plain NumPy in every format, beside the CPU, cancelled halfway."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import trio
from test_bert import FLOAT_BOUND, INTEGER_BOUND, TEXTS, check
from tiny_bert import TinyBert

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.dispatch import When
from coro_rt.errors import MemoryBudgetExceeded, UnsupportedModel
from coro_rt.kernels.formats import Format
from coro_rt.llm.model import LLM

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu"), pytest.mark.anyio]

alone = pytest.mark.parametrize("anyio_backend", ["trio"])


@pytest.fixture(scope="module")
def bert_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyBert(form="Q4_1").write(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    async with open_runtime(devices=["cpu", "gpu"]) as runtime:
        yield runtime


@pytest.fixture
async def encoder(runtime: Runtime, bert_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(bert_path, device="gpu") as llm:
        weights = runtime.memory.used
        yield llm
        assert runtime.memory.used == weights, "a job kept memory"
    assert runtime.memory.used == 0


def gpu_of(runtime: Runtime) -> GpuDevice:
    return next(device for device in runtime.devices if isinstance(device, GpuDevice))


@alone
@pytest.mark.parametrize("form", list(Format.known))
async def test_an_encoder_computes_what_the_architecture_says(form: str, tmp_path: Path) -> None:
    bound = INTEGER_BOUND if Format.known[form].quantized else FLOAT_BOUND
    await check(TinyBert(form=form), tmp_path / "m.gguf", bound=bound, device="gpu")


@alone
@pytest.mark.parametrize("options", [{"heads": 1}, {"layers": 5}, {"hidden": 96, "heads": 3}], ids=str)
async def test_other_shapes_compute_what_the_architecture_says(options: Any, tmp_path: Path) -> None:
    await check(TinyBert(**options), tmp_path / "m.gguf", bound=FLOAT_BOUND * 2, device="gpu")


@alone
async def test_the_first_row_alone_is_pooled_where_the_file_says_so(tmp_path: Path) -> None:
    tiny, path = TinyBert(), tmp_path / "m.gguf"
    await check(tiny, path, bound=FLOAT_BOUND, pooled=1, device="gpu", bert__pooling_type=2)


async def test_an_embedding_is_the_cpus_and_does_not_depend_on_company(
    runtime: Runtime, encoder: LLM, bert_path: Path
) -> None:
    each = np.concatenate([await encoder.embed([text]) for text in TEXTS])
    assert np.array_equal(await encoder.embed(TEXTS), each)
    assert np.array_equal(await encoder.embed(TEXTS[::-1] * 3), np.tile(each[::-1], (3, 1)))
    async with await runtime.load_model(bert_path, device="cpu") as other:
        assert np.abs(await other.embed(TEXTS) - each).max() < INTEGER_BOUND


@alone
async def test_no_step_of_it_runs_elsewhere(bert_path: Path) -> None:
    async with open_runtime(devices=["gpu"]) as runtime, await runtime.load_model(bert_path) as encoder:
        counts = gpu_of(runtime).counts
        assert counts.dispatches == 0
        await encoder.embed(TEXTS)
        model: Any = encoder._loaded()
        step = [each for each in model.program.dispatches if each.when in (When.ALWAYS, When.TOGETHER)]
        assert counts.dispatches == len(step)


async def test_an_urgent_embedding_goes_before_a_long_one_and_both_are_right(encoder: LLM) -> None:
    want = await encoder.embed(TEXTS)
    ended: list[str] = []

    async def background() -> None:
        with qos(QoS.BACKGROUND):
            assert np.array_equal(await encoder.embed(TEXTS * 20), np.tile(want, (20, 1)))
        ended.append("long")

    async with anyio.create_task_group() as group:
        group.start_soon(background)
        for _ in range(2):
            await anyio.sleep(0.002)
            with qos(QoS.USER_INTERACTIVE):
                assert np.array_equal(await encoder.embed(TEXTS), want)
            ended.append("short")
    assert ended[0] == "short"


@alone
async def test_a_cancelled_embedding_leaves_nothing_in_memory_or_on_the_device(
    runtime: Runtime, encoder: LLM, monkeypatch: pytest.MonkeyPatch
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
    held, loop, run = runtime.memory.used, trio.lowlevel.current_trio_token(), GpuDevice.run
    for last in (1, 3):
        steps: list[None] = []
        scope = anyio.CancelScope()

        def running(*args: Any, steps: list[None] = steps, last: int = last, **options: Any) -> bool:
            steps.append(None)
            if len(steps) == last:
                loop.run_sync_soon(scope.cancel)  # noqa: B023 (it is over when the next begins)
            return run(*args, **options)

        monkeypatch.setattr(GpuDevice, "run", running)
        with scope:
            await encoder.embed(TEXTS * 200)
        assert scope.cancelled_caught
        assert runtime.memory.used == held
    assert made
    assert {id(buffer) for buffer in made} <= {id(buffer) for buffer in destroyed}
    assert np.isfinite(await encoder.embed(TEXTS)).all()


@alone
async def test_it_keeps_to_the_memory_budget(anyio_backend: object, bert_path: Path) -> None:
    async with open_runtime(devices=["gpu"], memory=1_800_000) as runtime:
        async with await runtime.load_model(bert_path) as llm:
            with pytest.raises(MemoryBudgetExceeded, match="a step of"):
                await llm.embed(TEXTS * 20)
            await llm.embed(["the cat"])
        assert runtime.memory.used == 0


@alone
async def test_an_encoder_cannot_generate_there_either(encoder: LLM) -> None:
    with pytest.raises(UnsupportedModel, match="is an encoder"):
        encoder.generate("hello")
