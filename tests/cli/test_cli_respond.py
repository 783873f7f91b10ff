"""`coro-rt bench respond` plays one scene on every side and says what it saw and what was promised. No figure
is judged."""

import json
import os
import threading
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path

import anyio
import pytest
import trio
from trio.testing import MockClock

from coro_rt.bench import scene
from coro_rt.bench.decisions import Decisions
from coro_rt.bench.measure import Row, p99
from coro_rt.bench.prompts import Prompts
from coro_rt.bench.respond import Wanted, measure
from coro_rt.bench.scene import Answer, Ask, Count, Script, Seen, Window, busy, idle
from coro_rt.bench.server import Server
from coro_rt.errors import CoroRtError
from coro_rt.schedulers import Entry, Scheduler

PROMPTS = Prompts(range(1000, 2000), 500, seed=3)

# A stand-in for the wheel, a server with slots: it checks what it is asked for, and writes at once.
XLLAMACPP = """
from threading import Semaphore
from types import SimpleNamespace
llama_flash_attn_type = SimpleNamespace()
def get_system_info(): return "AVX2 = 1 |  REPACK = 1"
class CommonParams(SimpleNamespace):
    def __init__(self):
        super().__init__(model=SimpleNamespace(), cpuparams=SimpleNamespace(), n_batch=2048, n_ubatch=512,
                         cpuparams_batch=SimpleNamespace())
class Server:
    def __init__(self, params):
        print("noise on standard output")
        assert params.n_parallel == 4 and params.n_ctx == 4096 and not params.cache_prompt
        assert (params.n_batch, params.n_ubatch) in ((2048, 512), (64, 64))
        if "missing" in params.model.path: raise ValueError("no such file")
        self.slots = Semaphore(4)
    def handle_completions(self, request, on_chunk):
        prompt, n = request["prompt"], request["n_predict"]
        assert request["ignore_eos"] and request["stream"] and not request["cache_prompt"]
        if prompt[0] == 999_999: raise ValueError("no such token")
        with self.slots:
            for nth in range(n):
                if on_chunk({"choices": [{"finish_reason": None}]}):
                    return
        timings = {"predicted_n": n, "prompt_n": len(prompt)}
        on_chunk({"choices": [{"finish_reason": "length"}], "timings": timings})
"""


@pytest.fixture
def _stand_in(tmp_path, monkeypatch):
    (tmp_path / "xllamacpp.py").write_text(XLLAMACPP)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")
    monkeypatch.setattr("coro_rt.bench.wheel.available", lambda: True)


@pytest.fixture
def _short(monkeypatch):
    """Shorter texts and pauses: a tiny model needs no more."""
    for module in ("scene", "assistant"):
        monkeypatch.setattr(f"coro_rt.bench.{module}.READ", 60)
        monkeypatch.setattr(f"coro_rt.bench.{module}.WRITE", 20)
    monkeypatch.setattr("coro_rt.bench.respond.GAP_S", 0.01)
    monkeypatch.setattr("coro_rt.bench.respond.IDLE_GAP_S", 0.01)
    monkeypatch.setattr("coro_rt.bench.respond.ALONE_S", 1.0)
    monkeypatch.setattr("coro_rt.bench.respond.REST_S", 0.0)


class Played:
    """A side in virtual time: an answer takes 2 s, and the background writes a token every 10 ms."""

    name = "played"

    def __init__(self):
        self.asked_at: list[float] = []
        self.in_background = False

    async def ask(self, ids):
        self.asked_at.append(trio.current_time())
        await anyio.sleep(2)
        return Answer([1.0, 2.0], reading=0)

    @asynccontextmanager
    async def background(self):
        began = trio.current_time()

        async def counted():
            passed = trio.current_time() - began
            return Count(passed, 0, int(passed * 100), begun=min(3, int(passed)))

        self.in_background = True
        try:
            yield counted
        finally:
            self.in_background = False


def in_virtual_time(fn, *args):
    trio.run(fn, *args, clock=MockClock(autojump_threshold=0))


def asks(*gaps_s):
    return [Ask(gap_s, [nth]) for nth, gap_s in enumerate(gaps_s)]


def test_an_ask_comes_a_pause_after_the_answer_to_the_one_before():
    async def main():
        side, seen, done = Played(), Seen(), count()
        await idle(side, asks(1, 5, 3), seen, lambda: next(done))
        assert side.asked_at == [1, 8, 13]
        assert len(seen.idle) == 2, "the first is for warming up"
        assert next(done) == 3

    in_virtual_time(main)


def test_the_background_is_watched_alone_and_then_beside_the_asks_once_all_its_jobs_write():
    async def main():
        side, seen = Played(), Seen()
        await busy(side, asks(1, 1), seen, lambda: None, alone_s=5)
        (alone,), (beside,) = seen.alone, seen.beside
        assert side.asked_at[0] == pytest.approx(3 + 5 + 1, abs=2 * scene.POLL_S)
        assert (alone.seconds, alone.asks) == (pytest.approx(5), 0)
        assert (beside.seconds, beside.asks) == (pytest.approx(6), 2)
        assert beside.written_per_s == pytest.approx(100, rel=0.01)
        assert not side.in_background

    in_virtual_time(main)


def test_a_scene_that_is_cancelled_halfway_ends_its_background():
    async def main():
        side, seen = Played(), Seen()
        with anyio.move_on_after(9) as scope:
            await busy(side, asks(1, 1, 1), seen, lambda: None, alone_s=2)
        assert scope.cancelled_caught
        assert (len(seen.loaded), len(seen.beside)) == (1, 0)
        assert not side.in_background

    in_virtual_time(main)


def test_rates_count_what_the_asks_got_with_what_the_background_did():
    window = Window.between(Count(1.0, 100, 10, 3), Count(3.0, 700, 110, 3, 0.5, 7), asks=2)
    assert (window.read_per_s, window.written_per_s) == (300, 50)
    assert window.answered_per_s == scene.ANSWER
    assert window.all_written_per_s == 50 + scene.ANSWER
    assert window.all_per_s == 350 + scene.PROMPT + scene.ANSWER
    assert (window.deciding_s, window.decisions) == (0.5, 7)


def test_no_two_prompts_begin_alike_and_each_is_the_same_at_every_call():
    script = Script(PROMPTS, seed=3)
    of_asks = [ask.ids for ask in script.asks(100, 0.4) + script.asks(100, 0.1)]
    of_background = [PROMPTS.take(number, scene.READ) for number in range(1, 200, 2)]
    firsts = [ids[0] for ids in of_asks + of_background]
    assert len(set(firsts)) == len(firsts)
    assert {len(ids) for ids in of_asks} == {scene.PROMPT}
    assert {len(ids) for ids in of_background} == {scene.READ}
    assert [ask.ids for ask in Script(PROMPTS, seed=3).asks(100, 0.4)] == of_asks[:100]


def test_pauses_are_exponential_around_their_mean():
    gaps = [ask.gap_s for ask in Script(PROMPTS, seed=3).asks(2000, 0.4)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.4, rel=0.1)
    assert deviation == pytest.approx(mean, rel=0.1), "as of an exponential distribution"


def test_a_watched_scheduler_decides_as_before_and_every_call_is_counted():
    scheduler = Scheduler("dynamic")
    watched = Decisions(scheduler)
    first, second = Entry(1), Entry(2)
    scheduler.submit(first, 0.0)
    assert scheduler.next("cpu", 1.0).entry is first
    with pytest.raises(AssertionError):
        scheduler.submit(first, 1.0)
    scheduler.park(first, 1.0)
    scheduler.expedite(first, 1.0)  # which wakes it: part of the same call
    scheduler.submit(second, 1.0)
    assert scheduler.ready("cpu") == 2
    assert watched.calls == 7
    assert watched.seconds > 0


def test_a_row_says_the_figure_that_it_was_asked_for():
    times = [float(one) for one in range(1, 101)]
    row = Row(
        "first token, P99", "ms", times, [10 * one for one in times], less_is_better=True, statistic=p99
    )
    found = row.as_json()
    assert (found["ours"], found["peer"]) == (pytest.approx(99.01), pytest.approx(990.1))
    assert found["ratio"] == pytest.approx(10)
    assert Row("rate", "tokens/s", [3.0], [0.0]).as_json()["ratio"] is None


KEYS = {
    "what", "model", "format", "threads", "context", "ours", "peer", "ratio", "unit", "limit", "of_limit",
    "spread", "samples",
}  # fmt: skip
CLAIM = {"what", "found", "bound", "at_least", "unit", "held"}


@pytest.mark.usefixtures("_short")
def test_alone_it_says_what_the_background_costs_and_what_it_keeps(coro_rt_cli, tiny_file):
    ended = coro_rt_cli(
        "bench", "respond", "--model", str(tiny_file), "--asks", "3", "--threads", "1", "--json"
    )
    assert ended.code == 0, ended.err
    assert "dynamic: 3 asks on each, some 1 min" in ended.err
    found = json.loads(ended.out)
    assert all(set(row) == KEYS for row in found["rows"])
    assert all(set(claim) == CLAIM for claim in found["claims"])
    rows = {row["what"]: row for row in found["rows"]}
    for what in (
        "first token, idle, P99",
        "first token, loaded, median",
        "from submit to the first grant, loaded, P99",
    ):
        assert len(rows[what]["samples"]["ours"]) == 3
        assert (rows[what]["unit"], rows[what]["model"], rows[what]["threads"]) == ("ms", "tiny", 1)
    assert len(rows["between tokens, loaded, P99"]["samples"]["ours"]) == 3 * (scene.ANSWER - 1)
    assert rows["tokens written by the background, alone"]["ours"] > 0
    assert 0 < rows["time in the scheduler, loaded"]["ours"] < 100
    assert [row["what"] for row in found["rows"] if row["peer"] is not None] == [
        "first token, loaded, median, beside fifo",
        "tokens written by all, loaded, beside fifo",
        "tokens read and written by all, loaded, beside fifo",
    ]
    assert len(found["claims"]) == 9


@pytest.mark.usefixtures("_short")
def test_a_trace_shows_the_asks_and_the_background(coro_rt_cli, tiny_file, tmp_path):
    path = tmp_path / "trace.json"
    ended = coro_rt_cli(
        "bench", "respond", "--model", str(tiny_file), "--asks", "1", "--threads", "1", "--trace", str(path)
    )
    assert ended.code == 0, ended.err
    events = json.loads(path.read_text())["traceEvents"]
    levels = {event["args"]["qos"] for event in events if event["ph"] == "b"}
    assert {"BACKGROUND", "USER_INTERACTIVE"} <= levels


@pytest.mark.usefixtures("_short", "_stand_in")
def test_beside_both_servers_there_are_rows_and_claims_for_each(coro_rt_cli, tiny_file):
    ended = coro_rt_cli(
        "bench", "respond", "--model", str(tiny_file), "--asks", "2", "--threads", "1", "--policy", "fair",
        "--peer", "llama.cpp", "--json", "-",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    for name in ("llama.cpp", "llama.cpp (batch 64)"):
        (row,) = (row for row in found["rows"] if row["what"] == f"first token, loaded, P99, beside {name}")
        assert len(row["samples"]["peer"]) == 2
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert f"{name}: AVX2 = 1 | REPACK = 1" in found["notes"]
    better = [claim["bound"] for claim in found["claims"] if "times better than" in claim["what"]]
    assert better == [3, 15, 50, 20]
    assert "policy fair" in ended.err


@pytest.mark.parametrize("after", [5, 12], ids=["ours", "the server"])
@pytest.mark.usefixtures("_short", "_stand_in")
def test_cancelled_beside_the_background_it_leaves_neither_jobs_nor_processes(tiny_file, after):
    async def main():
        with anyio.CancelScope() as scope:

            def progress(done, total):
                if done == after:
                    scope.cancel()

            wanted = Wanted(tiny_file, 3, threads=1, peer=True)
            await measure(wanted, say=lambda line: None, progress=progress)
        assert scope.cancelled_caught

    anyio.run(main)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("coro_rt")]
    assert not left


@pytest.mark.usefixtures("_stand_in")
def test_a_server_answers_through_its_pipe_and_renews_its_background():
    async def main():
        with closing(Server(Path("a.gguf"), PROMPTS, threads=2, batch=64)) as server:
            assert await server.open() == "AVX2 = 1 | REPACK = 1"
            assert len((await server.ask(PROMPTS.take(0, scene.PROMPT))).arrivals_s) == scene.ANSWER
            async with server.background() as counted:
                with anyio.fail_after(300):
                    while (found := await counted()).read < 6 * scene.READ:
                        pass
            assert found.begun == 3
            assert found.written > 2 * scene.WRITE

    anyio.run(main)


@pytest.mark.usefixtures("_stand_in")
def test_a_server_that_cannot_load_the_model_says_why():
    async def main():
        server = Server(Path("missing.gguf"), PROMPTS, threads=2, batch=None)
        with closing(server), pytest.raises(CoroRtError, match="no such file"):
            await server.open()

    anyio.run(main)


@pytest.mark.usefixtures("_stand_in")
def test_an_error_in_the_servers_background_is_told_by_the_next_count():
    bad = Prompts(PROMPTS.text, 10**6, seed=999_998)  # the background's first begins with 999,999

    async def watch(server):
        async with server.background() as counted:
            while await counted():
                pass

    async def main():
        with closing(Server(Path("a.gguf"), bad, threads=2, batch=None)) as server, anyio.fail_after(300):
            await server.open()
            with pytest.raises(CoroRtError, match="no such token"):
                await watch(server)

    anyio.run(main)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--asks", "0"], "--asks"),
        (["--threads", "0"], "--threads"),
        (["--seed", "-1"], "--seed"),
        (["--policy", "fastest"], "dynamic, edf, eevdf, fair, fifo, laxity, mlfq, powersave, strict"),
        (["--peer", "ollama"], "--peer"),
        (["--repeat", "3"], "--repeat"),
        (["--model", "missing.gguf"], "missing.gguf"),
    ],
)
def test_what_cannot_be_right_is_said_in_one_line(coro_rt_cli, arguments, said):
    ended = coro_rt_cli("bench", "respond", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_peer_that_is_not_installed_is_an_error_that_says_how_to_get_it(
    coro_rt_cli, tiny_file, monkeypatch
):
    monkeypatch.setattr("coro_rt.bench.wheel.available", lambda: False)
    ended = coro_rt_cli("bench", "respond", "--model", str(tiny_file), "--peer", "llama.cpp")
    assert ended.code == 1
    assert "extra `bench`" in ended.err
