"""What an urgent job needs and a background job is just making: the pages of a prefix, a model. The one waits
for the piece, and lends its urgency to the other; if that one gives up, it makes the piece itself.

The steps of the background job are held up by a third job that goes before it, so that the order is certain.
"""

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tiny import Tiny

import coro_rt
from coro_rt import JobHandle, QoS, Runtime, open_runtime, qos
from coro_rt.llm.model import LLM, load_model
from coro_rt.schedulers import Scheduler
from coro_rt.schedulers.entry import State

pytestmark = pytest.mark.anyio

PAGE = 64
SHARE = 0.01  # background's
SYSTEM = [5 + nth * 7 % 200 for nth in range(6 * PAGE)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Tiny(form="Q4_1", context=512).write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


class Crowd:
    """A job of the default level that is always ready: background work gets its small share beside it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __aenter__(self) -> JobHandle[None]:
        self._handle = self._runtime.start(self._spin)
        return await self._handle.__aenter__()

    async def __aexit__(self, *_: object) -> None:
        self._handle.cancel()
        await self._handle.__aexit__(None, None, None)

    @staticmethod
    async def _spin() -> None:
        while True:
            await coro_rt.checkpoint()


async def until(condition: Any) -> None:
    with anyio.fail_after(300):
        while not condition():  # noqa: ASYNC110 (nobody sets an event for this)
            await anyio.sleep(0.0002)


async def answer(llm: LLM, prompt: list[int]) -> tuple[list[Any], int]:
    async with llm.generate(prompt, max_tokens=5, ignore_eos=True) as stream:
        return [token async for token in stream], stream.usage.reused_tokens


@pytest.mark.parametrize("ends", ["goes on", "is cancelled"])
async def test_a_prefix_that_is_being_read_is_waited_for_with_inheritance(
    anyio_backend: object, path: Path, ends: str
) -> None:
    prompt = [*SYSTEM, 3]
    async with open_runtime(threads=1, background_share=SHARE) as runtime:
        async with await load_model(runtime, path, prefix_reuse=False) as llm:
            alone, _ = await answer(llm, prompt)
        async with await load_model(runtime, path) as llm, Crowd(runtime):
            with qos(QoS.BACKGROUND):
                reader = llm.generate([*SYSTEM, 4], max_tokens=100, ignore_eos=True)
                await reader.__aenter__()
            assert reader.job is not None
            tree = llm._open().prefixes
            assert tree is not None
            await until(lambda: tree.root.children)
            assert reader.job.entry.effective_qos is QoS.BACKGROUND
            found: list[tuple[list[Any], int]] = []

            async def ask() -> None:
                with qos(QoS.USER_INTERACTIVE):
                    found.append(await answer(llm, prompt))

            levels = set()
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                if ends == "is cancelled":
                    await until(lambda: reader.job.entry.waiters or found)
                    reader.job.cancel()
                while not found:
                    levels.add(reader.job.entry.effective_qos)
                    await anyio.lowlevel.checkpoint()
            if ends == "goes on":
                assert reader.job.state is not State.DONE
                assert found == [(alone, 6 * PAGE)]
                assert reader.job.entry.effective_qos is QoS.BACKGROUND
            else:  # what it had read by then is there; the rest the other has read itself
                assert found[0][0] == alone
            await reader.aclose()


async def test_without_inheritance_who_needs_a_prefix_that_is_being_read_waits_for_the_crowd(
    anyio_backend: object, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has background's share of the device and no more, however urgent the one is that waits."""
    monkeypatch.setattr("coro_rt.engine.Scheduler", partial(Scheduler, inheritance=False))
    async with (
        open_runtime(threads=1, background_share=SHARE) as runtime,
        await load_model(runtime, path) as llm,
        Crowd(runtime) as crowd,
    ):
        with qos(QoS.BACKGROUND):
            reader = llm.generate([*SYSTEM, 4], max_tokens=100, ignore_eos=True)
            await reader.__aenter__()
        tree = llm._open().prefixes
        assert tree is not None
        await until(lambda: tree.root.children)
        before = reader.ledger.device_s, crowd.ledger.device_s
        with qos(QoS.USER_INTERACTIVE):
            _, reused = await answer(llm, [*SYSTEM, 3])
        assert reused == 6 * PAGE
        assert reader.job is not None
        assert reader.job.entry.effective_qos is QoS.BACKGROUND
        read_s, others_s = reader.ledger.device_s - before[0], crowd.ledger.device_s - before[1]
        assert others_s > 0.5 * read_s / SHARE
        await reader.aclose()


async def test_models_that_do_not_fit_together_take_turns(anyio_backend: object, path: Path) -> None:
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        alone, size = await answer(llm, SYSTEM[:8]), runtime.memory.used
    async with open_runtime(threads=1, memory=int(1.9 * size)) as runtime:
        first, second = [await load_model(runtime, path) for _ in range(2)]
        for _ in range(3):
            for llm in (first, second):
                assert await answer(llm, SYSTEM[:8]) == alone
        assert runtime._residency.unloads >= 5
        with second.conversation() as conversation:  # which keeps its model
            async with conversation.ask("hello", max_tokens=2) as stream:
                async for _ in stream:
                    pass
            with pytest.raises(coro_rt.MemoryBudgetExceeded, match="the model tiny"):
                await answer(first, SYSTEM[:8])
        assert await answer(first, SYSTEM[:8]) == alone
        for llm in (first, second):
            await llm.aclose()
        assert runtime.memory.used == 0


async def test_who_needs_a_model_that_is_being_loaded_waits_and_lends_urgency(
    anyio_backend: object, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        alone = await answer(llm, SYSTEM[:8])
        for ends in ("goes on", "is cancelled"):
            model = llm._open()
            if model.prefixes is not None:
                model.prefixes.clear()
            model.unload()
            loads, open_gate = [], anyio.Event()
            build = model.build

            def slowly(build: Any = build, loads: Any = loads, gate: Any = open_gate) -> Any:
                loads.append(None)
                if len(loads) == 1:
                    anyio.from_thread.run(gate.wait)
                return build()

            monkeypatch.setattr(model, "build", slowly)
            found: list[Any] = []

            async def ask(found: list[Any] = found) -> None:
                with qos(QoS.USER_INTERACTIVE):
                    found.append(await answer(llm, SYSTEM[:8]))

            async with anyio.create_task_group() as group:
                with qos(QoS.BACKGROUND):
                    loader = llm.generate(SYSTEM[10:20], max_tokens=3, ignore_eos=True)
                    await loader.__aenter__()
                await until(lambda: loads)  # noqa: B023
                group.start_soon(ask)
                assert loader.job is not None
                await until(lambda: loader.job.entry.effective_qos is QoS.USER_INTERACTIVE)  # noqa: B023
                if ends == "is cancelled":
                    loader.job.cancel()
                open_gate.set()
            assert found == [alone]
            assert len(loads) == (1 if ends == "goes on" else 2)
            await loader.aclose()
            monkeypatch.undo()
