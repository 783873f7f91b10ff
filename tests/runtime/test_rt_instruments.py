"""Instruments see what happens, in order; one that fails does no harm; a runtime without them has no tap."""

import json
import logging
from itertools import pairwise

import pytest
from rt_tools import simulated, until_state

import coro_rt
from coro_rt import Instrument, QoS, TraceEvents
from coro_rt.schedulers.entry import State
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.testing import sim_work

pytestmark = pytest.mark.anyio


class Notes(Instrument):
    """Writes everything down."""

    def __init__(self):
        self.log = []

    def runtime_opened(self, runtime):
        self.log.append("opened")

    def runtime_closed(self):
        self.log.append("closed")

    def job_submitted(self, job, now):
        self.log.append((now, "submitted", job.name))

    def job_runs(self, job, now):
        self.log.append((now, "runs", job.name))

    def job_gives_way(self, job, now):
        self.log.append((now, "gives way", job.name))

    def job_waits(self, job, now):
        self.log.append((now, "waits", job.name))

    def job_wakes(self, job, now):
        self.log.append((now, "wakes", job.name))

    def job_ended(self, job, now):
        self.log.append((now, "ended", job.name))

    def launch_began(self, job, launch, now):
        self.log.append((now, "began", launch.kernel.name))

    def launch_left(self, job, launch, now):
        self.log.append((now, "left", launch.kernel.name))


async def work_and_sleep():
    await sim_work(0.5)
    await coro_rt.sleep(2.0)


async def test_an_instrument_is_told_what_happens_in_order():
    notes = Notes()
    async with simulated(instruments=[notes]) as (runtime, _):
        await runtime.run(work_and_sleep)
    name = "work_and_sleep"
    assert notes.log[:4] == [
        "opened",
        (0.0, "submitted", name),
        (0.0, "runs", name),
        (0.0, "began", "sim_work"),
    ]
    assert {entry[1:] for entry in notes.log[4:-5]} == {("left", "sim_work"), ("began", "sim_work")}  # slices
    assert notes.log[-6] == (pytest.approx(0.5), "left", "sim_work")
    assert notes.log[-5:] == [
        (pytest.approx(0.5), "waits", name), (pytest.approx(2.5), "wakes", name),
        (pytest.approx(2.5), "runs", name), (pytest.approx(2.5), "ended", name), "closed",
    ]  # fmt: skip


async def test_a_job_that_is_cancelled_halfway_wakes_and_ends():
    notes = Notes()
    async with (
        simulated(instruments=[notes]) as (runtime, _),
        runtime.start(sleeps) as job,
    ):
        await until_state(job, State.WAITING)
        job.cancel()
    assert [entry[1] for entry in notes.log if isinstance(entry, tuple)] == [
        "submitted", "runs", "waits", "wakes", "runs", "ended",
    ]  # fmt: skip


async def sleeps():
    await coro_rt.sleep(float("inf"))


async def test_giving_way_to_somebody_more_urgent_is_seen():
    notes = Notes()

    async def parent():
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            child = coro_rt.spawn(work_and_sleep)
        await sim_work(0.5)
        await child

    async with simulated(instruments=[notes]) as (runtime, _):
        with coro_rt.qos(QoS.BACKGROUND):
            await runtime.run(parent)
    seen = [entry[1] for entry in notes.log if isinstance(entry, tuple)]
    assert "gives way" in seen
    assert seen.count("runs") == seen.count("gives way") + seen.count("waits") + seen.count("ended")


async def test_an_instrument_that_raises_is_taken_out_and_the_others_go_on(caplog):
    class Broken(Instrument):
        def job_runs(self, job, now):
            raise ValueError("broken on purpose")

        def job_ended(self, job, now):
            raise AssertionError("it was taken out")

    notes = Notes()
    with caplog.at_level(logging.ERROR, logger="coro_rt"):
        async with simulated(instruments=[Broken(), notes]) as (runtime, _):
            await runtime.run(work_and_sleep)
    (record,) = caplog.records
    assert "is taken out: its hook job_runs failed" in record.message
    assert notes.log[-1] == "closed"


async def test_what_an_instrument_raises_at_the_opening_is_raised_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        async with simulated(instruments=[TraceEvents(tmp_path / "nowhere" / "trace.json")]):
            pass


async def test_without_instruments_the_scheduler_itself_decides():
    async with simulated() as (runtime, _):
        assert type(runtime._engine.scheduler) is Scheduler


def test_something_that_is_no_instrument_is_refused():
    with pytest.raises(TypeError, match=r"subclasses of coro_rt\.Instrument"):
        coro_rt.open_runtime(instruments=[Notes])  # the class, not an object of it


def events_of(path):
    read = json.loads(path.read_text())
    assert read["otherData"]["complete"]
    assert all({"ph", "pid", "tid", "name"} <= set(event) for event in read["traceEvents"])
    return read["traceEvents"]


def check(events):
    """What every trace must be: arrows have two ends, lives end, and a device does one thing at a time."""
    assert [e["id"] for e in events if e["ph"] == "s"] == sorted(e["id"] for e in events if e["ph"] == "s")
    assert {e["id"] for e in events if e["ph"] == "f"} <= {e["id"] for e in events if e["ph"] == "s"}
    assert sorted(e["id"] for e in events if e["ph"] == "b") == sorted(
        e["id"] for e in events if e["ph"] == "e"
    )
    for category in ("job", "kernel"):
        spans = sorted((e["ts"], e["dur"]) for e in events if e["ph"] == "X" and e.get("cat") == category)
        for (begin, length), (following, _) in pairwise(spans):
            assert begin + length <= following + 0.002  # rounded to nanoseconds
    ready = [e["args"]["jobs"] for e in events if e["ph"] == "C" and e["name"].startswith("ready")]
    assert min(ready) >= 0
    assert ready[-1] == 0


async def test_a_trace_has_a_track_for_each_device_arrows_counters_and_lives(tmp_path):
    path = tmp_path / "trace.json"

    async def parent():
        children = [coro_rt.spawn(work_and_sleep) for _ in range(3)]
        for child in children:
            await child

    async with simulated(instruments=[TraceEvents(path)]) as (runtime, _):
        await runtime.run(parent)
    events = events_of(path)
    check(events)
    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names == {"coro_rt", "host", "device sim"}
    kernels = [e for e in events if e.get("cat") == "kernel"]
    assert sum(e["dur"] for e in kernels) == pytest.approx(1.5e6, rel=1e-3)
    assert len([e for e in events if e["ph"] == "b"]) == 4


async def test_a_trace_of_jobs_that_are_cancelled_halfway_is_whole(tmp_path):
    path = tmp_path / "trace.json"

    async def parent():
        for _ in range(3):
            coro_rt.spawn(work_and_sleep)
        await sim_work(0.75)  # and ends, which cancels them

    async with simulated(instruments=[TraceEvents(path)]) as (runtime, _):
        await runtime.run(parent)
    events = events_of(path)
    check(events)
    assert "Cancelled" in {e["args"]["error"] for e in events if e["ph"] == "e"}


async def test_a_trace_that_grows_too_large_breaks_off_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("coro_rt.trace.events.MOST_EVENTS", 3)
    path = tmp_path / "trace.json"
    async with simulated(instruments=[TraceEvents(path)]) as (runtime, _):
        await runtime.run(work_and_sleep)
    assert json.loads(path.read_text())["otherData"]["complete"] is False
    assert "breaks off" in caplog.text
