"""A fenced device is seen: in snapshots, explanations, `coro-rt top`, instruments, both kinds of trace."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rt_tools import simulated
from scene import NOTICED_S, elsewhere, failing, started

import coro_rt
from coro_rt import DeviceLost, Instrument, TraceEvents
from coro_rt.cli.top_view import view
from coro_rt.testing import Fault, sim_work
from coro_rt.trace.reader import Trace
from coro_rt.trace.replay import replay

pytestmark = pytest.mark.anyio


async def test_a_snapshot_says_why_since_when_and_what_comes() -> None:
    devices, _ = failing(Fault("hung"), pauses_s=(1e6,))
    seen = []

    async def look() -> None:
        await coro_rt.sleep(NOTICED_S + 2.0)
        seen.append(runtime.snapshot())
        seen.append(runtime.explain(handle.job))

    async def waits(log: list[str]) -> None:
        with pytest.raises(DeviceLost):
            await sim_work(0.1)
        await coro_rt.sleep(100.0)

    async with simulated(devices=devices) as (runtime, clock), AsyncExitStack() as stack:
        with clock.hold():
            handle = await started(stack, runtime, waits, [])
            looking = await started(stack, runtime, look, device="far")
        await looking.result()
        handle.cancel()
    snapshot, explanation = seen
    near, far = snapshot.devices
    assert near.fenced == "hung since 2.0 s, tried again in 999998.0 s"
    assert far.fenced is None
    assert json.loads(json.dumps(snapshot.as_json()))["devices"][0]["fenced"] == near.fenced
    assert snapshot.stats.device_losses == 1
    assert str(explanation).endswith(f"The device near is fenced: {near.fenced}.")
    assert explanation.as_json()["fenced"] == near.fenced
    shown = Console(width=140)
    with shown.capture() as captured:
        shown.print(view({"snapshot": snapshot.as_json(), "program": "p", "pid": 1}, None))
    assert "hung since 2.0 s" in captured.get()


class Notes(Instrument):
    """What becomes of devices."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def device_fenced(self, device: coro_rt.Device, error: DeviceLost, now: float) -> None:
        self.log.append((now, device.name, error.reason))

    def device_readmitted(self, device: coro_rt.Device, now: float) -> None:
        self.log.append((now, device.name, "sound"))


async def test_instruments_and_the_trace_of_events_hear_of_it(tmp_path: Path) -> None:
    devices, _ = failing(Fault("hung"), pauses_s=(1.0,))
    notes, path = Notes(), tmp_path / "events.json"
    log: list[str] = []
    async with simulated(devices=devices, instruments=[notes, TraceEvents(path)]) as (runtime, _):
        await runtime.run(elsewhere, log, 5.0)
    assert notes.log == [(NOTICED_S, "near", "hung"), (NOTICED_S + 1.0, "near", "sound")]
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("cat") == "device"]
    assert [(event["name"], event["ph"]) for event in events] == [("fenced: hung", "i"), ("readmitted", "i")]
    assert [event["ts"] for event in events] == pytest.approx([NOTICED_S * 1e6, (NOTICED_S + 1.0) * 1e6])


@pytest.mark.parametrize("reason", ["hung", "lost"])
async def test_a_run_with_a_fault_replays_to_the_last_decision(tmp_path: Path, reason: str) -> None:
    devices, _ = failing(Fault(reason, at=7), pauses_s=(1.0,))
    log: list[str] = []
    path = tmp_path / "trace"
    async with simulated(devices=devices, record=path) as (runtime, clock), AsyncExitStack() as stack:
        with clock.hold():
            handles = [await started(stack, runtime, elsewhere, log, 0.3) for _ in range(6)]
        for handle in handles:
            await handle.result()
    assert log
    found = replay(Trace(path))
    assert not found, found.first
    assert found.decisions > 6
