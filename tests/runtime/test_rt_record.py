"""Recording, replaying, and simulating what was recorded."""

import gzip
import inspect
import json
import logging
import random
import threading
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from rt_tools import PATIENCE_S, check_waits, opened, simulated, until

import coro_rt
from coro_rt import QoS, TraceFileError
from coro_rt.schedulers import POLICIES, Scheduler, simulate
from coro_rt.testing import SimDevice, sim_work
from coro_rt.trace import writer
from coro_rt.trace.calls import ASKING, CALLS
from coro_rt.trace.reader import Trace
from coro_rt.trace.recorded import Recorded
from coro_rt.trace.replay import replay

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The host makes no difference to what is recorded."""
    return "trio"


async def answer(seconds: float, pause: float) -> None:
    """A job with some work, a pause, and as much work again."""
    coro_rt.current_job().predict(2 * seconds)
    await sim_work(seconds)
    await coro_rt.sleep(pause)
    await sim_work(seconds)


async def locked(lock: coro_rt.Lock, seconds: float) -> None:
    """A job that holds a lock while it works."""
    async with lock:
        await sim_work(seconds)


async def users(seed: int, count: int = 120, changed: float = 0.1) -> None:
    """A job that starts others as time goes by: at all levels, some over a lock, some cancelled."""
    choose = random.Random(seed)
    lock, jobs = coro_rt.Lock(), []
    for _ in range(count):
        await coro_rt.sleep(choose.expovariate(1 / 0.05))
        with coro_rt.qos(choose.choice(list(QoS)), within_s=choose.choice([None, 1.0])):
            if choose.random() < 0.2:
                jobs.append(coro_rt.spawn(locked, lock, choose.expovariate(1 / 0.03)))
            else:
                jobs.append(coro_rt.spawn(answer, choose.expovariate(1 / 0.02), choose.expovariate(1 / 0.1)))
        if choose.random() < changed:
            choose.choice(jobs).cancel()
        if choose.random() < changed:
            choose.choice(jobs).set_qos(choose.choice(list(QoS)))
    for job in jobs:
        with suppress(coro_rt.JobCancelled):
            await job


async def record(path: Path, *arguments: float, **options: object) -> None:
    """A busy runtime in virtual time, recorded."""
    async with simulated(record=path, **options) as (runtime, _):
        await until(lambda: all(worker.idle for worker in runtime._engine.workers.values()))
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            await runtime.run(users, *(arguments or [1]))  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, read: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in read))
    return path


def test_every_public_call_of_the_scheduler_is_in_the_table_with_its_parameters() -> None:
    found = {
        name: tuple(inspect.signature(method).parameters)[1:]
        for name, method in inspect.getmembers(Scheduler, inspect.isfunction)
        if not name.startswith("_") and name not in ASKING
    }
    assert dict(CALLS) == found


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_replay_decides_exactly_as_recorded(tmp_path: Path, policy: str) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path, policy=policy)
    found = replay(Trace(path))
    assert not found
    assert found.complete
    assert found.calls == len(lines(path)) - 2
    assert found.decisions > 500


async def test_replay_notices_an_altered_decision_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path)
    read = lines(path)
    where = [i for i, line in enumerate(read) if line.get("call") == "next" and line.get("answer")][50]
    read[where]["answer"]["entry"] += 1
    found = replay(Trace(write(path, read)))
    assert found
    assert [difference.line for difference in found.first] == [where + 1]
    assert found.first[0].call == "next"
    assert f"line {where + 1}" in str(found.first[0])


async def test_replay_notices_an_altered_input_and_that_what_follows_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path)
    read = lines(path)
    where = next(i for i, line in enumerate(read) if i > 200 and line["call"] == "submit")
    read[where]["qos"] = "BACKGROUND" if read[where]["qos"] != "BACKGROUND" else "USER_INTERACTIVE"
    assert replay(Trace(write(path, read)))


async def test_moves_between_devices_are_replayed(tmp_path: Path) -> None:
    async def wanders() -> None:
        for device in ("far", "near") * 3:
            await sim_work(0.01)
            await coro_rt.move_to(device)

    async def all_of_them() -> None:
        for job in [coro_rt.spawn(wanders) for _ in range(5)]:
            await job

    devices = [SimDevice("near"), SimDevice("far")]
    async with simulated(record=tmp_path / "trace", devices=devices) as (runtime, _):
        await runtime.run(all_of_them)
        busy = runtime.stats().device_busy_s
    assert not replay(Trace(tmp_path / "trace"))
    spans = Recorded(Trace(tmp_path / "trace"), spans=True).outcome.spans
    for device in ("near", "far"):
        took = sum(span.end_s - span.begin_s for span in spans if span.device == device)
        assert took == pytest.approx(busy[device])


async def test_replay_under_another_policy_differs(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path)
    assert replay(Trace(path), "fifo")


async def test_a_policy_of_ones_own_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path, policy=Longest())
    assert Trace(path).header.policy == f"{__name__}:Longest"
    assert not replay(Trace(path), Longest)


class Longest(coro_rt.Policy):
    """The longest job first."""

    def key(self, job: object, now: float) -> float:
        return -job.predicted_seconds_left  # type: ignore[attr-defined, no-any-return]


class Sluggish(coro_rt.Policy):
    """First come, first served, but for one call that takes far too long."""

    def __init__(self) -> None:
        self.calls = 0
        self.took = 0.0

    def key(self, job: object, now: float) -> float:
        self.calls += 1
        if self.calls == 50:
            self.took += 1.0
        return job.submitted_at  # type: ignore[attr-defined, no-any-return]


class Erratic(Sluggish):
    """The same, but that one call raises."""

    def key(self, job: object, now: float) -> float:
        self.calls += 1
        if self.calls == 50:
            raise ValueError("no")
        return job.submitted_at  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("policy", [Sluggish, Erratic])
async def test_a_policy_that_was_ejected_is_ejected_at_the_same_place_in_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: type[Sluggish]
) -> None:
    path = tmp_path / "trace.jsonl"
    used = policy()
    monkeypatch.setattr("coro_rt.engine.perf_counter", lambda: used.took)
    async with simulated(record=path, policy=used) as (runtime, _):
        await runtime.run(users, 1)
        assert runtime._engine.scheduler.policy.name == "dynamic"
    assert [line["slow"] for line in lines(path) if "slow" in line] == [1] * (policy is Sluggish)
    assert not replay(Trace(path), policy)
    if policy is Sluggish:
        read = lines(path)
        for line in read:
            line.pop("slow", None)
        assert replay(Trace(write(path, read)), policy)


async def test_a_change_of_policy_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with simulated(record=path) as (runtime, clock), anyio.create_task_group() as group:
        with clock.hold():
            group.start_soon(runtime.run, users, 3)
            await anyio.wait_all_tasks_blocked()
            runtime.set_policy("fair")
    assert "set_policy" in {line.get("call") for line in lines(path)}
    assert not replay(Trace(path))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_simulated_waits_are_within_fifteen_percent_of_the_recorded_ones(
    tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "trace.jsonl"
    # A change made at a time may come just before or just after a job's end: here are none. And quanta that
    # do not divide a slice, or rounding would double every second slice.
    await record(path, seed, 300, 0.0, devices=[SimDevice(quantum_s=0.0003)])
    recorded = Recorded(Trace(path))
    outcome = simulate(recorded.workload, "dynamic")
    check_waits(outcome, recorded.outcome)
    assert outcome.service_s == pytest.approx(recorded.outcome.service_s)


async def test_a_task_that_asks_again_when_it_has_its_answer_does_so_when_simulated(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"

    async def asks(runtime: coro_rt.Runtime, times: int) -> None:
        for _ in range(times):
            await runtime.run(answer, 0.01, 0.05)

    async with simulated(record=path, policy="fifo") as (runtime, clock), anyio.create_task_group() as group:
        with clock.hold():
            for times in (1, 5):
                group.start_soon(asks, runtime, times)
            await anyio.wait_all_tasks_blocked()
    submits = [line for line in lines(path) if line.get("call") == "submit"]
    chain = [line for line in submits if "after" in line]
    assert len(chain) == 4
    assert len({line["after"] for line in chain} | {chain[-1]["entry"]}) == 5

    recorded = Recorded(Trace(path))
    for policy in ("fifo", "dynamic"):
        outcome = simulate(recorded.workload, policy)
        for asked in recorded.workload.jobs:
            if asked.after is not None:
                number = recorded.workload.jobs.index(asked)
                was, now = recorded.outcome.jobs, outcome.jobs
                pause_s = was[number].arrived_s - was[asked.after.job].ended_s
                assert now[number].arrived_s - now[asked.after.job].ended_s == pytest.approx(pause_s)


async def test_what_became_of_the_jobs_is_what_the_ledgers_say(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with simulated(record=path) as (runtime, _), runtime.start(users, 5) as job:
        await job.result()
        ledger = job.ledger
    stats = runtime.stats()
    outcome = Recorded(Trace(path)).outcome
    assert sum(job.served_s for job in outcome.jobs) == pytest.approx(ledger.device_s)
    assert sum(job.waited_s for job in outcome.jobs) == pytest.approx(ledger.waiting_s)
    assert (outcome.switches, outcome.preemptions) == (stats.switches, stats.preemptions)
    assert outcome.decisions == stats.decisions


async def test_a_lock_is_waited_for_until_the_job_that_had_it_got_so_far(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"

    async def both() -> None:
        lock = coro_rt.Lock()
        with coro_rt.qos(QoS.BACKGROUND):
            first = coro_rt.spawn(locked, lock, 0.5)
            await coro_rt.sleep(0.1)
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            await coro_rt.spawn(locked, lock, 0.1)
        await first

    async with simulated(record=path) as (runtime, _):
        await runtime.run(both)
    _, holder, urgent = Recorded(Trace(path)).workload.jobs
    waits = [step for step in urgent.steps if isinstance(step, coro_rt.schedulers.Wait)]
    assert [wait.on for wait in waits] == [1]
    assert waits[0].until is not None
    assert waits[0].until.job == 1
    assert waits[0].until.served_s == pytest.approx(0.5)
    assert holder.after is not None


async def test_a_cancelled_recording_is_closed_and_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    async with simulated(record=path) as (runtime, clock), anyio.create_task_group() as group:
        with clock.hold():
            group.start_soon(runtime.run, users, 1)
            await anyio.wait_all_tasks_blocked()
        while clock.now() < 1:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    found = replay(Trace(path))
    assert found.complete
    assert not found


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
async def test_a_trace_that_breaks_off_is_read_up_to_its_last_whole_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    await record(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    trace = Trace(path)
    found = replay(trace)
    assert not found
    assert not found.complete
    assert found.calls > 100
    recorded = Recorded(trace)
    assert not recorded.complete
    assert len(simulate(recorded.workload).jobs) == len(recorded.workload.jobs)


async def test_compressed_is_the_same_in_fewer_bytes(tmp_path: Path) -> None:
    await record(tmp_path / "trace.jsonl")
    await record(tmp_path / "trace.jsonl.gz")
    with gzip.open(tmp_path / "trace.jsonl.gz") as file:
        plain = [json.loads(line).get("call") for line in file]
    assert plain == [line.get("call") for line in lines(tmp_path / "trace.jsonl")]
    assert (tmp_path / "trace.jsonl.gz").stat().st_size < (tmp_path / "trace.jsonl").stat().st_size / 5


async def test_a_runtime_that_does_not_record_has_the_scheduler_itself() -> None:
    async with simulated() as (runtime, _):
        assert type(runtime._engine.scheduler) is Scheduler
        assert all(
            worker._scheduler is runtime._engine.scheduler for worker in runtime._engine.workers.values()
        )


async def test_a_trace_that_cannot_be_written_is_an_error_at_opening(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with opened(devices=["sim"], record=tmp_path / "no" / "trace.jsonl"):
            pass


async def test_a_disk_that_fails_ends_the_recording_and_not_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.jsonl"

    class Failing(writer.FileIO):
        written = 0

        def write(self, data: object) -> int:  # type: ignore[override]
            self.written += 1
            if self.written > 1:
                raise OSError(28, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "FileIO", Failing)
    with caplog.at_level(logging.WARNING, "coro_rt"):
        await record(path)
    assert [entry.getMessage() for entry in caplog.records] == [
        f"the recording in {path} has ended before its runtime: No space left on device"
    ]
    assert not replay(Trace(path)).complete


async def test_calls_that_cannot_be_kept_end_the_recording_with_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.jsonl"
    monkeypatch.setattr(writer, "MOST_NOTES", 100)
    monkeypatch.setattr(writer, "GATHER_S", 3600.0)
    with caplog.at_level(logging.WARNING, "coro_rt"):
        await record(path)
    assert "100 calls could not be written in time" in caplog.text
    found = replay(Trace(path))
    assert (found.calls, found.complete, bool(found)) == (100, False, False)


def test_a_recording_that_is_closed_as_its_writer_stops_gathering_ends(tmp_path: Path) -> None:
    """The one moment when the writer could miss it: it has looked, and has not gone back to sleep."""

    class Closing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            seen = super().wait(timeout)
            if not seen:
                closer.start()
                assert super().wait(PATIENCE_S)
                assert trace._some.wait(PATIENCE_S)
            return seen

    trace = writer.TraceWriter(tmp_path / "trace.jsonl", lambda note: {"call": note[0]})
    trace._closing = Closing()
    closer = threading.Thread(target=trace.close, daemon=True)
    trace.open({})
    trace.note(("one",))
    trace._thread.join(PATIENCE_S)
    assert not trace._thread.is_alive()
    closer.join(PATIENCE_S)
    assert lines(tmp_path / "trace.jsonl") == [{}, {"call": "one"}, {"end": 1}]


@pytest.mark.parametrize(
    ("line", "change", "said"),
    [
        (1, {"version": 9}, "line 1: the trace is of version 9"),
        (1, {"format": "x"}, "line 1: this is no trace"),
        (1, {"max_wait_s": []}, "line 1: the header's 'max_wait_s' is a number of seconds, not"),
        (3, {"call": "sumbit"}, "line 3: there is no call 'sumbit'"),
        (3, {"entry": "one"}, "line 3: 'entry' is the number of an entry, not 'one'"),
        (3, {"qos": "URGENT"}, "line 3: 'qos' is one of BACKGROUND"),
        (3, {"now": None}, "line 3: 'now' is a number of seconds, not None"),
        (3, {"deadline": "soon"}, "line 3: 'deadline' is a number of seconds, not 'soon'"),
        (3, {"by": 77}, "line 3: submit is about entry 77, which was never submitted"),
        (3, {"after": 77}, "line 3: submit is about entry 77, which was never submitted"),
    ],
)
async def test_what_cannot_be_in_a_trace_is_an_error_with_its_line(
    tmp_path: Path, line: int, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path)
    read = lines(path)
    assert read[2]["call"] == "submit"
    read[line - 1] |= change
    with pytest.raises(TraceFileError, match=said):
        replay(Trace(write(path, read)))


@pytest.mark.parametrize("data", [b"", b"[1]\n", b"\x00\xff\n", b"\x1f\x8bnonsense", b"{}\n"])
def test_a_file_that_is_no_trace_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(data)
    with pytest.raises(TraceFileError, match=r"trace\.jsonl"):
        Trace(path)


async def test_real_time_is_recorded_and_replayed_too(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    opening = opened(devices=["cpu"], threads=1, record=path)
    async with opening as runtime, anyio.create_task_group() as group:
        for level in QoS:
            with coro_rt.qos(level):
                group.start_soon(runtime.run, steps)
    found = replay(Trace(path))
    assert found.complete
    assert not found
    assert len(Recorded(Trace(path)).workload.jobs) == 5


async def steps() -> None:
    """A job with many points to switch at."""
    for _ in range(200):
        await coro_rt.checkpoint()
