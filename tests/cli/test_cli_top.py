"""`coro-rt top`: finds what can be watched, shows it, and ends with it."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from rich.console import Console

import coro_rt
from coro_rt import QoS, Runtime
from coro_rt.cli.top_view import view
from coro_rt.memory.budget import Kind
from coro_rt.monitor import place

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the sockets are; pytest's own folders have names too long for them."""
    with tempfile.TemporaryDirectory(prefix="rt-") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        monkeypatch.setattr("coro_rt.monitor.client.PATIENCE_S", 300)
        yield Path(name)


async def index() -> None:
    while True:
        await coro_rt.checkpoint()


async def summarise(lock: coro_rt.Lock) -> None:
    async with lock:
        await index()


async def _busy(then: Callable[[Runtime], Awaitable[Any]]) -> Any:
    """A watched runtime with jobs that run, wait and inherit."""
    lock = coro_rt.Lock()

    async def ask() -> None:
        async with lock:  # whose holder may be cancelled before it is
            await index()

    async with (
        coro_rt.open_runtime(devices=["sim"], monitor=True) as runtime,
        anyio.create_task_group() as group,
    ):
        with coro_rt.qos(QoS.BACKGROUND):
            group.start_soon(runtime.run, summarise, lock)
            group.start_soon(runtime.run, index)
        while not lock.locked():
            await anyio.lowlevel.checkpoint()
        with coro_rt.qos(QoS.USER_INITIATED):
            group.start_soon(runtime.run, ask)
        while not runtime.stats().jobs_waiting:
            await anyio.lowlevel.checkpoint()
        try:
            return await then(runtime)
        finally:
            group.cancel_scope.cancel()


def beside_jobs(command: Command, *arguments: str) -> Any:
    """A command, run while the jobs of `_busy` run."""

    async def then(runtime: Runtime) -> Any:
        return await anyio.to_thread.run_sync(partial(command, *arguments))

    return anyio.run(_busy, then)


def test_one_look_shows_devices_and_jobs(coro_rt_cli: Command) -> None:
    ended = beside_jobs(coro_rt_cli, "top", "--once")
    assert (ended.code, ended.err) == (0, "")
    assert f"({os.getpid()})" in ended.out
    assert "policy dynamic" in ended.out
    assert "jobs: 1 running, 1 ready, 1 waiting, 0 ended" in ended.out
    (ask,) = [line for line in ended.out.splitlines() if line.strip().startswith("ask #")]
    assert "waits for a lock from summarise #" in ask
    (holder,) = [line for line in ended.out.splitlines() if line.strip().startswith("summarise #")]
    assert "↑INITIATED" in holder


def test_one_look_as_json_alone_on_standard_output(coro_rt_cli: Command) -> None:
    ended = beside_jobs(coro_rt_cli, "top", "--json", "--once")
    snapshot = json.loads(ended.out)["snapshot"]
    assert {job["name"] for job in snapshot["jobs"]} == {"index", "summarise", "ask"}
    assert snapshot["stats"]["jobs_waiting"] == 1
    assert "policy dynamic" in ended.err


@pytest.mark.parametrize("by", ["pid", "program"])
def test_a_runtime_is_named_by_its_process_or_program(coro_rt_cli: Command, by: str) -> None:
    shown = json.loads(beside_jobs(coro_rt_cli, "top", "--json", "--once").out)
    ended = beside_jobs(coro_rt_cli, "top", str(shown[by]), "--json", "--once")
    assert json.loads(ended.out)["pid"] == os.getpid()


def test_a_job_is_explained(coro_rt_cli: Command) -> None:
    ended = beside_jobs(coro_rt_cli, "top", "--job", "ask", "--json")
    (explanation,) = json.loads(ended.out)["explanations"]
    assert explanation["text"] in ended.err
    assert "is waiting for a lock from summarise #" in explanation["text"]
    assert "raised to USER_INITIATED by ask #" in explanation["text"]
    ended = beside_jobs(coro_rt_cli, "top", "--job", "nobody")
    assert ended.code == 1
    assert ended.err == "error: no job 'nobody' runs or waits there: `coro-rt top --once` lists them\n"


def test_without_a_runtime_it_says_how_to_open_one(coro_rt_cli: Command) -> None:
    ended = coro_rt_cli("top")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert all(how in ended.err for how in ("open_runtime(monitor=True)", "CORO_RT_MONITOR=1", "--monitor"))


def test_of_several_runtimes_one_is_to_be_named(coro_rt_cli: Command) -> None:
    async def two() -> None:
        opened = partial(coro_rt.open_runtime, devices=["sim"], monitor=True)
        async with opened(), opened():
            ended.append(await anyio.to_thread.run_sync(coro_rt_cli, "top"))
            name = f"{os.getpid()}-2"
            ended.append(await anyio.to_thread.run_sync(partial(coro_rt_cli, "top", name, "--once")))

    ended: list[Any] = []
    anyio.run(two)
    which, second = ended
    assert which.code == 2
    assert f"which of these? {os.getpid()} (" in which.err
    assert f"{os.getpid()}-2 (" in which.err
    assert second.code == 0


def test_an_unknown_name_gets_the_list(coro_rt_cli: Command) -> None:
    ended = beside_jobs(coro_rt_cli, "top", "nobody")
    assert ended.code == 2
    assert f"no runtime of 'nobody' can be watched; there are: {os.getpid()} (" in ended.err


def test_a_folder_open_to_others_is_an_error(coro_rt_cli: Command) -> None:
    place.folder(create=True).chmod(0o755)
    ended = coro_rt_cli("top")
    assert ended.code == 1
    assert "is open to others" in ended.err


def _until_it_closes(monkeypatch: pytest.MonkeyPatch, command: Command, *arguments: str) -> Any:
    """A command that shows the view twice before the runtime closes."""
    twice, closed, pauses = threading.Event(), threading.Event(), list[float]()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            twice.set()
            assert closed.wait(300)

    ended: list[Any] = []
    monkeypatch.setattr("coro_rt.cli.top.time.sleep", pause)
    thread = threading.Thread(target=lambda: ended.append(command(*arguments)))

    async def then(runtime: Runtime) -> None:
        thread.start()
        assert await anyio.to_thread.run_sync(twice.wait, 300)

    anyio.run(_busy, then)
    closed.set()
    thread.join()
    assert pauses == [0.5, 0.5]
    return ended[0]


def test_the_view_is_drawn_again_until_the_runtime_closes(
    coro_rt_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = _until_it_closes(monkeypatch, coro_rt_cli, "top", "--every", "0.5")
    assert ended.code == 0
    assert ended.out.count("policy dynamic") == 2
    assert ended.err == "the runtime has closed\n"


def test_on_a_terminal_the_view_has_a_screen_of_its_own(
    coro_rt_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    ended = _until_it_closes(monkeypatch, coro_rt_cli, "top", "--every", "0.5")
    assert ended.code == 0
    assert ended.out.count("\x1b[?1049h") == ended.out.count("\x1b[?1049l") == 1
    assert "summarise #" in ended.out


def test_with_json_there_is_a_line_each_time(coro_rt_cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = _until_it_closes(monkeypatch, coro_rt_cli, "top", "--every", "0.5", "--json")
    first, second = map(json.loads, ended.out.splitlines())
    assert first["snapshot"]["open_s"] < second["snapshot"]["open_s"]
    assert ended.err == "the runtime has closed\n"


@pytest.mark.parametrize("every", ["0", "-1", "nan", "often"])
def test_how_often_is_a_number_of_seconds(coro_rt_cli: Command, every: str) -> None:
    ended = coro_rt_cli("top", "--every", every)
    assert ended.code == 2
    assert "--every" in ended.err


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    async def one() -> dict[str, Any]:
        async with coro_rt.open_runtime(devices=["sim"]) as runtime, anyio.create_task_group() as group:
            index.__qualname__ = "[red]index\x1b[2J"
            try:
                group.start_soon(runtime.run, index)
                while not runtime.stats().jobs_running:
                    await anyio.lowlevel.checkpoint()
            finally:
                index.__qualname__ = "index"
            snapshot = runtime.snapshot().as_json()
            group.cancel_scope.cancel()
            return {"pid": 1, "program": "p\x07", "snapshot": snapshot}

    answer = anyio.run(one)
    console = Console(width=120, force_terminal=False, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view(answer, None))
    console.print(view(answer, answer))
    text = console.export_text()
    assert "[red]index" in text
    assert not {"\x1b", "\x07"} & set(text)
    console.file.close()


def test_memory_is_shown_by_what_it_is_held_for() -> None:
    async def held() -> dict[str, Any]:
        async with coro_rt.open_runtime(devices=["sim"], parking="2MiB", memory="1GiB") as runtime:
            with (
                runtime.memory.reserve("5MiB", "a model", Kind.WEIGHTS),
                runtime.memory.reserve("3MiB", "pages", Kind.PAGES),
                runtime.memory.reserve("1MiB", "buffers", Kind.WORKSPACES),
            ):
                return {"pid": 1, "program": "p", "snapshot": runtime.snapshot().as_json()}

    console = Console(width=140, record=True, file=sys.stderr)
    console.print(view(anyio.run(held), None))
    text = console.export_text()
    assert "memory 11 MiB of 1 GiB" in text
    held_for = "weights 5 MiB, pages in use 3 MiB, workspaces 1 MiB, area for parked pages 2 MiB"
    assert f"memory held: {held_for}\n" in text


@pytest.mark.parametrize(
    ("energy", "said"),
    [
        ((12.34, 0.0), "12.3 J"),
        ((12.34, 12.34), "12.3 J (modelled)"),
        ((12.34, 2.04), "12.3 J (2.0 modelled)"),
    ],
)
def test_joules_that_are_modelled_are_marked_and_the_battery_is_shown(
    energy: tuple[float, float], said: str
) -> None:
    async def one() -> dict[str, Any]:
        async with coro_rt.open_runtime(devices=["sim"]) as runtime:
            runtime.set_power(coro_rt.PowerState(battery=0.4, charging=False, thermal=0.9))
            return runtime.snapshot().as_json()

    snapshot = anyio.run(one)
    for figures in (snapshot["ended"], snapshot["devices"][0]["energy"]):
        figures["joules"], figures["modelled_joules"] = energy
    console = Console(width=160, record=True, file=sys.stderr)
    console.print(view({"pid": 1, "program": "p", "snapshot": snapshot}, None))
    text = console.export_text()
    assert [line.rstrip().endswith(said) for line in text.splitlines()].count(True) == 2
    assert "on battery, battery 40%, 90% of full speed (heat)" in text


def test_rows_beyond_the_screen_are_counted() -> None:
    async def many() -> dict[str, Any]:
        async with coro_rt.open_runtime(devices=["sim"]) as runtime, anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(runtime.run, index)
            while runtime.stats().jobs_ready < 19:
                await anyio.lowlevel.checkpoint()
            snapshot = runtime.snapshot(limit=9).as_json()
            group.cancel_scope.cancel()
            return {"pid": 1, "program": "p", "snapshot": snapshot}

    console = Console(width=120, record=True, file=sys.stderr)
    console.print(view(anyio.run(many), None, rows=4))
    assert "16 more" in console.export_text()
