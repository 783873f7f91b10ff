"""Where coroutines lose: a job that runs Python for long, with no point to switch at.

A background job runs `STEP_S` of pure Python at a time, then one kernel; beside it somebody asks for one
short kernel. A worker cannot take a coroutine off in the middle of its Python; threads it takes off, every
`sys.getswitchinterval()`.
"""

from __future__ import annotations

import time

import anyio

import coro_rt
from coro_rt import QoS, qos
from coro_rt.compare.hosts import run_on
from coro_rt.compare.statistics import Figures, Noise
from coro_rt.compare.work import spin_kernel, turns
from coro_rt.devices.cpu import CpuDevice

WHAT = "a short ask beside long Python steps"
OURS, THREADS = "coro_rt", "a thread per task"
STEP_S = 0.02
KERNEL_S = 50e-6


def measure(figures: Figures, asks: int, repeat: int, noise: Noise) -> None:
    """Milliseconds of an ask, each ask a sample."""
    for _ in range(repeat):
        noise.look()
        run_on("trio", _one, figures, asks, OURS, ["thread-1"])
        run_on("trio", _one, figures, asks, THREADS, ["thread-1", "thread-2"])


async def _one(figures: Figures, asks: int, who: str, names: list[str]) -> None:
    length = turns(KERNEL_S)

    async def ask() -> None:
        await spin_kernel(length)

    async def hog() -> None:
        while True:
            end = time.perf_counter() + STEP_S
            while time.perf_counter() < end:
                pass
            await spin_kernel(length)

    devices = [CpuDevice(name=name, threads=1) for name in names]
    async with coro_rt.open_runtime(devices=devices) as runtime:
        with qos(QoS.BACKGROUND):
            background = runtime.start(hog, device=names[-1])
        async with background:
            await anyio.sleep(2 * STEP_S)
            with qos(QoS.USER_INTERACTIVE):
                for _ in range(asks):
                    began = time.perf_counter()
                    await runtime.run(ask, device=names[0])
                    figures.add(WHAT, who, "ms", (time.perf_counter() - began) * 1e3)
                    await anyio.sleep(0.003)
