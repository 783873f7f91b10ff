"""Getting a model ready: fetched if it is missing, loaded on a runtime, with a line for what takes time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

from coro_rt import CoroRtError, Instrument, Runtime, TraceEvents, open_runtime
from coro_rt.cli.options import Settings
from coro_rt.cli.output import Output
from coro_rt.llm.catalog import CATALOG, installed, pull, resolve

if TYPE_CHECKING:
    from coro_rt.llm.model import LLM


@asynccontextmanager
async def opened_model(settings: Settings, output: Output) -> AsyncIterator[tuple[Runtime, LLM]]:
    """A runtime with the model that the options name; both are closed at the end."""
    try:
        path = resolve(settings.model)
    except CoroRtError:
        if settings.model not in CATALOG:
            raise
        path = await fetch(settings.model, output)
    from coro_rt.kernels.jit import cache_folder  # here: it loads numba

    if not cache_folder().exists():
        output.note("compiling the kernels for this CPU: some 15 seconds, only this once ...")
    async with (
        open_runtime(
            policy=settings.policy,
            devices=settings.devices,
            threads=settings.threads,
            monitor=settings.monitor,
            record=settings.record,
            instruments=traced(settings.trace),
        ) as runtime,
        await runtime.load_model(path) as llm,
    ):
        yield runtime, llm


def traced(path: str | None) -> list[Instrument]:
    """The instruments of a runtime whose trace goes to `path`, if anywhere."""
    return [] if path is None else [TraceEvents(path)]


def circumstances(settings: Settings, runtime: Runtime) -> dict[str, Any]:
    """How a result came about, for JSON."""
    from coro_rt.devices.cpu import CpuDevice  # here: it loads numpy

    return {
        "model": settings.model,
        "backend": settings.backend,
        "policy": settings.policy,
        "devices": [device.name for device in runtime.devices],
        "threads": next((cpu.threads for cpu in runtime.devices if isinstance(cpu, CpuDevice)), None),
    }


async def fetch(name: str, output: Output) -> Path:
    """Pull a model of the catalogue, showing how far it is. What is there already is only checked."""
    if name not in CATALOG:
        return pull(name)  # which says what names there are
    entry = CATALOG[name]
    if entry not in installed():
        output.note(f"fetching {name}: {entry.download_size / 1e6:.0f} MB, {entry.licence} ...")
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    progress = output.progress(*columns)
    bar = progress.add_task(name, total=entry.download_size)

    def report(done: int, total: int) -> None:
        anyio.from_thread.check_cancelled()
        progress.update(bar, completed=done, total=total, refresh=True)

    with progress:
        return await anyio.to_thread.run_sync(partial(pull, name, progress=report))
