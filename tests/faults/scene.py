"""Two devices in virtual time, of which the first fails; and jobs to see what comes of it."""

from contextlib import AsyncExitStack
from typing import Any

import coro_rt
from coro_rt import DeviceLost, JobHandle, QoS, Runtime, current_job, move_to
from coro_rt.kernel import Kernel
from coro_rt.testing import Fault, FaultInjection, SimDevice, sim_work

LIMIT_S = 0.5
"""What a quantum may take."""

NOTICED_S = LIMIT_S + 0.1
"""When it is noticed that a call hangs, if its job is alone: its slice is 0.1 s."""

poke: Kernel[[], None] = Kernel("poke", sim=lambda device, launch, slice_s: True)
"""A kernel of no length."""


def failing(*faults: Fault, pauses_s: tuple[float, ...] = ()) -> tuple[list[SimDevice], FaultInjection]:
    """The devices "near", which fails, and comes back only if it has pauses, and "far"."""
    near = SimDevice("near", watchdog_s=LIMIT_S)
    near.pauses_s = pauses_s
    return [near, SimDevice("far")], FaultInjection(near, *faults)


async def elsewhere(log: list[str], seconds: float = 1.0, there_s: float | None = None) -> str:
    """A job that goes on where it can; gives the name of the device where it ended."""
    try:
        await sim_work(seconds)
    except DeviceLost as lost:
        log.append(lost.reason)
        await move_to("far")
        await sim_work(seconds if there_s is None else there_s)
    return current_job().worker.name


async def started(
    stack: AsyncExitStack,
    runtime: Runtime,
    fn: Any,
    *args: Any,
    qos: QoS = QoS.DEFAULT,
    device: str | None = None,
) -> JobHandle[Any]:
    """Submit a job, under `clock.hold()`; it ends with the stack at the latest."""
    with coro_rt.qos(qos):
        handle: JobHandle[Any] = await stack.enter_async_context(runtime.start(fn, *args, device=device))
    return handle
