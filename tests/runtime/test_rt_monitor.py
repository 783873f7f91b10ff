"""Looking into a runtime: snapshots, explanations, and the monitor's socket, which cannot hurt it."""

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from rt_tools import PATIENCE_S, forever, opened, simulated, until, until_state

import coro_rt
from coro_rt import Lock, MonitorError, QoS, Runtime
from coro_rt.monitor import place, server
from coro_rt.monitor.client import Connection, Watchable, find
from coro_rt.monitor.protocol import MAX_REQUEST, VERSION
from coro_rt.schedulers.entry import State
from coro_rt.testing import SimDevice, sim_work

pytestmark = pytest.mark.anyio


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the sockets are; pytest's own folders have names too long for them."""
    with tempfile.TemporaryDirectory(prefix="rt-") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        monkeypatch.setattr("coro_rt.monitor.client.PATIENCE_S", PATIENCE_S)
        yield Path(name)


@asynccontextmanager
async def watched(runtime_dir: Path) -> AsyncIterator[tuple[Runtime, Path]]:
    """A runtime with a monitor, and its socket; afterwards nothing of it is left."""
    async with opened(devices=["sim"], monitor=True) as runtime:
        (path,) = (runtime_dir / "coro_rt").iterdir()
        yield runtime, path
    assert list((runtime_dir / "coro_rt").iterdir()) == []


def connected(path: Path) -> socket.socket:
    """A plain connection."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE_S)
    connection.connect(str(path))
    return connection


def line(**message: Any) -> bytes:
    """A request."""
    return json.dumps({"coro_rt": VERSION, **message}).encode() + b"\n"


async def in_thread(fn: Any, *args: Any) -> Any:
    """What blocks is called beside the loop."""
    return await anyio.to_thread.run_sync(fn, *args)


def ask(path: Path, **request: Any) -> dict[str, Any]:
    """One request on a connection of its own."""
    with Connection(path) as connection:
        return connection.ask(**request)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    found = b""
    while read := connection.recv(1 << 16):
        found += read
    return found


# Snapshots and explanations.


async def working(seconds: float) -> None:
    await sim_work(seconds)


async def test_a_snapshot_says_who_runs_who_is_ready_and_who_waits() -> None:
    lock = Lock()

    async def holder() -> coro_rt.Snapshot:
        async with lock:
            await sim_work(1.0)
            with coro_rt.qos(QoS.USER_INTERACTIVE, within_s=5000):
                waiter = coro_rt.spawn(asking)
            while waiter.state is not State.WAITING:
                await coro_rt.sleep(0.001)
            for _ in range(3):
                coro_rt.spawn(working, 0.5)
            return runtime.snapshot()

    async def asking() -> None:
        async with lock:
            pass

    async with simulated(devices=["sim", SimDevice("idle")], memory="1GiB") as (runtime, _):
        with runtime.memory.reserve(1 << 20, "a test"), coro_rt.qos(QoS.BACKGROUND, tenant="mail"):
            snapshot = await runtime.run(holder)
    sim, idle = snapshot.devices
    by_state = {state: [job for job in snapshot.jobs if job.state is state] for state in State}
    (running,) = by_state[State.RUNNING]
    (waiting,) = by_state[State.WAITING]
    assert running.name == "holder"
    assert (running.qos, running.effective_qos) == (QoS.BACKGROUND, QoS.USER_INTERACTIVE)
    assert running.tenant == "mail"
    assert waiting.why == f"waits for a lock from holder #{running.id}"
    assert waiting.deadline_in_s is not None
    assert waiting.since_s >= 0
    assert [job.id for job in by_state[State.READY]] == list(sim.queue)
    assert [job.why for job in by_state[State.READY]] == [
        f"it is next, after holder #{running.id}",
        "1 ready before it",
        "2 ready before it",
    ]
    assert (sim.running, sim.ready, sim.kind) == (running.id, 3, "sim")
    assert (idle.running, idle.ready, idle.queue, idle.running_for_s) == (None, 0, (), 0.0)
    assert 0.9 < sim.busy_share <= 1.0
    assert idle.busy_s == 0.0
    assert snapshot.jobs_left_out == 0
    assert (snapshot.stats.jobs_running, snapshot.stats.jobs_ready, snapshot.stats.jobs_waiting) == (1, 3, 1)
    assert (snapshot.stats.memory_used, snapshot.stats.memory_budget) == (1 << 20, 1 << 30)
    assert snapshot.policy == "dynamic"
    plain = json.loads(json.dumps(snapshot.as_json(), allow_nan=False))
    assert [job["state"] for job in plain["jobs"]] == ["running", "ready", "ready", "ready", "waiting"]
    assert plain["jobs"][0]["effective_qos"] == "USER_INTERACTIVE"


async def test_what_ended_jobs_used_is_summed_up_with_their_children() -> None:
    async def parent() -> None:
        await coro_rt.spawn(working, 2.0)
        await sim_work(1.0)

    async with simulated() as (runtime, _):
        await runtime.run(parent)
        await runtime.run(working, 3.0)
        snapshot = runtime.snapshot()
    assert snapshot.ended.device_s == pytest.approx(6.0)
    assert snapshot.devices[0].busy_s == pytest.approx(6.0)
    assert snapshot.stats.jobs_done == 3
    assert snapshot.jobs == ()


async def test_of_very_many_jobs_some_are_named_and_the_rest_counted() -> None:
    async def sleeper() -> None:
        await coro_rt.sleep(1000.0)

    async def crowd() -> list[coro_rt.Snapshot]:
        sleepers = [coro_rt.spawn(sleeper) for _ in range(5)]
        while any(job.state is not State.WAITING for job in sleepers):
            await coro_rt.checkpoint()
            await sim_work(0.01)
        for _ in range(2000):
            coro_rt.spawn(working, 1.0)
        return [runtime.snapshot(limit=limit) for limit in (0, 3, 64)]

    async with simulated() as (runtime, _):
        none, few, more = await runtime.run(crowd)
    assert [len(snapshot.jobs) for snapshot in (none, few, more)] == [1, 1 + 3 + 3, 1 + 64 + 5]
    assert [snapshot.jobs_left_out for snapshot in (none, few, more)] == [2005, 1999, 1936]
    assert few.devices[0].ready == 2000
    assert len(few.devices[0].queue) == 3


async def test_a_job_names_the_task_that_asked_for_it() -> None:
    async def parent() -> None:
        await coro_rt.spawn(forever)

    async def summarise_inbox() -> None:
        await runtime.run(parent)

    async with opened(devices=["sim"]) as runtime, anyio.create_task_group() as tg:
        tg.start_soon(summarise_inbox)
        await until(lambda: len(runtime._engine.jobs) == 2)
        for job in runtime.snapshot().jobs:
            assert job.task.endswith("summarise_inbox")
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("limit", [-1, True, 2.5, "3"])
async def test_a_limit_is_a_whole_number(limit: Any) -> None:
    async with simulated() as (runtime, _):
        with pytest.raises(ValueError, match="limit"):
            runtime.snapshot(limit=limit)


async def test_an_explanation_says_who_ran_instead_since_when() -> None:
    found: list[coro_rt.Explanation] = []

    async def waiting() -> None:
        pass

    async def long(seconds: float, *, explains: bool) -> None:
        await sim_work(seconds)
        if explains:
            (job,) = runtime.jobs("waiting")
            found.append(runtime.explain(job))

    async def explaining() -> None:
        await long(0.3, explains=True)

    async def before() -> None:
        await long(0.2, explains=False)

    async with simulated(policy="fifo") as (runtime, clock), anyio.create_task_group() as tg:
        with clock.hold():
            for count, fn in enumerate((before, explaining, waiting), 1):
                tg.start_soon(runtime.run, fn)
                await until(lambda count=count: runtime.stats().jobs_ready == count)
    (explanation,) = found
    assert [ran.name.partition(" ")[0] for ran in explanation.ran] == ["explaining", "before"]
    assert [ran.seconds for ran in explanation.ran] == pytest.approx([0.3, 0.2])
    assert explanation.ran[0].last_s == pytest.approx(0.3)
    assert explanation.since_s == explanation.ran_s == pytest.approx(0.5)
    assert explanation.running is not None
    assert explanation.running.startswith("explaining #")
    assert explanation.running_for_s == pytest.approx(0.3)
    text = str(explanation)
    assert "ran explaining #" in text
    assert "since 0.500 s under fifo: it is next, because the policy put it first" in text


async def test_an_explanation_names_what_a_job_waits_for() -> None:
    event, gate = coro_rt.Event(), anyio.Event()

    async def sleeps() -> None:
        await coro_rt.sleep(50.0)

    async def waits() -> None:
        await event.wait()

    async def joins() -> None:
        await coro_rt.spawn(sleeps)

    async def hosted() -> None:
        await coro_rt.on_host(gate.wait)

    async def yields() -> AsyncIterator[int]:
        while True:
            yield 1

    async with opened(devices=["sim"]) as runtime:
        said = {}
        for fn in (sleeps, waits, joins, hosted):
            async with runtime.start(fn) as job:
                await until_state(job, State.WAITING)
                said[fn.__name__] = str(runtime.explain(job))
        async with runtime.stream(yields, buffer=2) as stream:
            await until_state(stream, State.WAITING)
            said["yields"] = str(runtime.explain(stream))
    assert "is waiting for the end of sleep(50) since" in said["sleeps"]
    assert "is waiting for an event since" in said["waits"]
    assert "is waiting for a result from sleeps #" in said["joins"]
    assert "is waiting for the end of sleep(50)" in said["joins"]
    assert "is waiting for on_host(Event.wait)" in said["hosted"]
    assert "is waiting for room in its stream's buffer" in said["yields"]


async def test_jobs_are_found_by_name_and_id() -> None:
    async with opened(devices=["sim"]) as runtime, anyio.create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(runtime.run, forever)
        await until(lambda: len(runtime._engine.jobs) == 3)
        jobs = runtime.jobs("forever")
        assert len(jobs) == 3
        assert runtime.jobs("forever", limit=2) == jobs[:2]
        assert runtime.jobs(str(jobs[1].entry.id)) == [jobs[1]]
        assert runtime.jobs("nobody") == []
        tg.cancel_scope.cancel()


# The socket.


async def test_no_runtime_is_watched_unless_asked_for(runtime_dir: Path) -> None:
    async with opened(devices=["sim"]):
        assert find() == []
        assert not os.listdir(runtime_dir)


async def test_the_folder_and_the_socket_are_the_users_alone(runtime_dir: Path) -> None:
    before = os.umask(0)
    try:
        async with watched(runtime_dir) as (_, path):
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert path.stat().st_uid == os.geteuid()
    finally:
        os.umask(before)


async def test_a_snapshot_and_an_explanation_come_through_the_socket(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (runtime, path), anyio.create_task_group() as tg:
        tg.start_soon(runtime.run, forever)
        tg.start_soon(runtime.run, forever)
        await until(lambda: len(runtime._engine.jobs) == 2)
        answer = await in_thread(lambda: ask(path, get="snapshot", limit=64))
        assert (answer["coro_rt"], answer["pid"]) == (VERSION, os.getpid())
        assert [job["name"] for job in answer["snapshot"]["jobs"]] == ["forever", "forever"]
        answer = await in_thread(lambda: ask(path, get="explain", job="forever"))
        assert all("forever #" in one["text"] for one in answer["explanations"])
        assert len(answer["explanations"]) == 2
        tg.cancel_scope.cancel()


async def test_a_watcher_asks_again_and_again_while_jobs_are_cancelled(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (runtime, path):
        with Connection(path) as connection:
            for _ in range(5):
                async with anyio.create_task_group() as tg:
                    for _ in range(20):
                        tg.start_soon(runtime.run, forever)
                    answer = await in_thread(lambda: connection.ask(get="snapshot", limit=64))
                    assert len(answer["snapshot"]["jobs"]) <= 20
                    tg.cancel_scope.cancel()
            answer = await in_thread(lambda: connection.ask(get="snapshot", limit=64))
            assert answer["snapshot"]["jobs"] == []


GARBAGE = {
    "not JSON": b"GET / HTTP/1.0\r\n",
    "not an object": b"[1]\n",
    "not text": b"\xff\xfe\n",
    "an empty line": b"\n",
    "another version": b'{"coro_rt": 99, "get": "hello"}\n',
    "an unknown request": line(get="secrets"),
    "no request": line(),
    "a limit that is none": line(get="snapshot", limit="all"),
    "a limit too large": line(get="snapshot", limit=10**9),
    "brackets without an end": b"[" * 4000 + b"\n",
    "two at once": line(get="hello") * 2,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_gets_an_error_and_the_connection_is_closed(runtime_dir: Path, garbage: bytes) -> None:
    async with watched(runtime_dir) as (_, path):
        with connected(path) as connection:
            connection.sendall(garbage)
            (answer,) = (await in_thread(received, connection)).splitlines()
            assert json.loads(answer)["error"]
        await in_thread(lambda: ask(path, get="hello"))  # others are served


async def test_a_line_without_end_is_cut_off(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (_, path), anyio.create_task_group() as tg:
        with connected(path) as connection:
            connection.sendall(b"x" * (MAX_REQUEST + 1))
            assert await in_thread(lambda: _closed(connection))
        await in_thread(lambda: ask(path, get="hello"))
        tg.cancel_scope.cancel()


def _closed(connection: socket.socket) -> bool:
    try:
        return received(connection) == b""
    except ConnectionResetError:
        return True


async def test_a_client_that_goes_away_in_the_middle_of_a_line_is_forgotten(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (_, path):
        for part in (b"", b'{"coro_rt"', line(get="snapshot", limit=64)):
            with connected(path) as connection:
                connection.sendall(part)
        answer = await in_thread(lambda: ask(path, get="hello"))
        assert answer["pid"] == os.getpid()


async def test_a_client_that_reads_nothing_holds_up_nobody(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (runtime, path), anyio.create_task_group() as tg:
        for _ in range(200):
            tg.start_soon(runtime.run, forever)
        await until(lambda: len(runtime._engine.jobs) == 200)
        with connected(path) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            await in_thread(_asks_until_nothing_goes, deaf)
            answer = await in_thread(lambda: ask(path, get="snapshot", limit=1000))
            assert len(answer["snapshot"]["jobs"]) == 200
        tg.cancel_scope.cancel()


def _asks_until_nothing_goes(deaf: socket.socket) -> None:
    """Requests with long answers, none of which is read."""
    deaf.setblocking(False)
    try:
        for _ in range(100_000):
            deaf.send(line(get="snapshot", limit=1000))
    except OSError:
        pass


async def test_of_too_many_connections_the_one_that_was_silent_longest_is_dropped(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (_, path):
        connections = []
        try:
            for _ in range(50):
                connection = connected(path)
                connections.append(connection)
                connection.sendall(line(get="hello"))
                assert await in_thread(connection.recv, 4096)
            kept = connections[-server.MAX_CLIENTS :]
            for connection in connections[: -server.MAX_CLIENTS]:
                assert await in_thread(connection.recv, 4096) == b""
            for connection in kept:
                connection.sendall(line(get="hello"))
                assert await in_thread(connection.recv, 4096)
        finally:
            for connection in connections:
                connection.close()


async def test_closing_the_runtime_closes_the_connections(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (_, path):
        idle = connected(path)
        connection = Connection(path)
        await in_thread(lambda: connection.ask(get="hello"))
    with pytest.raises(ConnectionError):
        await in_thread(lambda: connection.ask(get="hello"))
    assert await in_thread(idle.recv, 100) == b""
    idle.close()
    connection.close()
    with pytest.raises(ConnectionError, match="has closed"):
        Connection(path)


async def test_closing_waits_for_no_client_that_reads_nothing(runtime_dir: Path) -> None:
    async with watched(runtime_dir) as (runtime, path), anyio.create_task_group() as tg:
        for _ in range(200):
            tg.start_soon(runtime.run, forever)
        await until(lambda: len(runtime._engine.jobs) == 200)
        deaf = connected(path)
        deaf.sendall(line(get="snapshot", limit=1000))
        half = connected(path)
        half.sendall(b'{"coro_rt"')
        await in_thread(lambda: ask(path, get="hello"))  # the one before was answered, as far as it goes
        tg.cancel_scope.cancel()
    deaf.close()
    assert await in_thread(lambda: _closed(half))
    half.close()


async def test_the_socket_goes_however_the_runtime_is_left(runtime_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with watched(runtime_dir):
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with watched(runtime_dir) as (runtime, path), anyio.create_task_group() as tg:
            tg.start_soon(runtime.run, forever)
            await in_thread(lambda: ask(path, get="snapshot", limit=1))
            scope.cancel()
            await anyio.sleep(60)
    assert scope.cancelled_caught
    assert find() == []


async def test_a_runtime_that_cannot_be_opened_leaves_no_socket(runtime_dir: Path) -> None:
    class Broken(SimDevice):
        def start(self) -> None:
            raise coro_rt.DeviceError("broken")

    with pytest.raises(coro_rt.DeviceError, match="broken"):
        async with opened(devices=[Broken()], monitor=True):
            raise AssertionError
    assert find() == []


async def test_a_process_with_several_runtimes_has_a_socket_for_each(runtime_dir: Path) -> None:
    async with opened(devices=["sim"], monitor=True), opened(devices=["sim"], monitor=True):
        found = await in_thread(find)
        assert [one.name for one in found] == [str(os.getpid()), f"{os.getpid()}-2"]
        assert {one.pid for one in found} == {os.getpid()}
    assert find() == []


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


async def test_sockets_of_dead_processes_are_removed(runtime_dir: Path) -> None:
    program = (
        "import anyio, coro_rt, os\n"
        "async def main():\n"
        "    async with coro_rt.open_runtime(devices=['sim'], monitor=True): os._exit(0)\n"
        "anyio.run(main)"
    )
    await in_thread(_run, [sys.executable, "-c", program])
    folder = runtime_dir / "coro_rt"
    (left,) = folder.iterdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "strange.sock").write_text("mine")
    async with opened(devices=["sim"], monitor=True):
        found = await in_thread(find)
        assert [one.pid for one in found] == [os.getpid()]
    assert not left.exists()
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "strange.sock"]


async def test_a_name_left_by_a_dead_process_of_the_same_id_is_taken_over(runtime_dir: Path) -> None:
    folder = runtime_dir / "coro_rt"
    folder.mkdir(mode=0o700)
    path = folder / f"{os.getpid()}-1.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    async with watched(runtime_dir) as (_, now):
        assert now == path
        await in_thread(lambda: ask(path, get="hello"))


async def test_the_environment_opens_a_monitor(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORO_RT_MONITOR", "1")
    async with opened(devices=["sim"]):
        assert len(await in_thread(find)) == 1
    async with opened(devices=["sim"], monitor=False):
        assert find() == []
    monkeypatch.setenv("CORO_RT_MONITOR", "0")
    async with opened(devices=["sim"]):
        assert find() == []
    monkeypatch.setenv("CORO_RT_MONITOR", "maybe")
    with pytest.raises(MonitorError, match="CORO_RT_MONITOR is 1 or 0, not 'maybe'"):
        coro_rt.open_runtime()


async def test_a_folder_that_is_open_to_others_is_not_used(runtime_dir: Path) -> None:
    folder = runtime_dir / "coro_rt"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(MonitorError, match="is open to others"):
        async with opened(devices=["sim"], monitor=True):
            raise AssertionError
    with pytest.raises(MonitorError, match="is open to others"):
        find()
    folder.rmdir()
    folder.symlink_to("/tmp")
    with pytest.raises(MonitorError, match="is to be a folder"):
        find()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(MonitorError, match="folder"):
        async with opened(devices=["sim"], monitor=True):
            raise AssertionError


async def test_a_path_that_is_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with pytest.raises(MonitorError, match="too long"):
        async with opened(devices=["sim"], monitor=True):
            raise AssertionError


async def test_somebody_elses_connection_is_closed(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(socket, "SO_PEERCRED"):
        pytest.skip("this system does not tell")
    async with watched(runtime_dir) as (_, path):
        with monkeypatch.context() as patch:
            patch.setattr(server.os, "geteuid", lambda: -1)
            with connected(path) as connection:
                assert await in_thread(connection.recv, 100) == b""
        await in_thread(lambda: ask(path, get="hello"))


async def test_a_stopped_process_is_listed_and_does_not_hold_up_the_watcher(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coro_rt.monitor.client.PATIENCE_S", 0.05)
    folder = place.folder(create=True)
    path = folder / f"{os.getpid()}-7.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(path))
        silent.listen()
        assert find() == [Watchable(f"{os.getpid()}-7", os.getpid(), "", path)]
        with Connection(path) as connection, pytest.raises(MonitorError, match="is it stopped"):
            connection.ask(get="hello")
