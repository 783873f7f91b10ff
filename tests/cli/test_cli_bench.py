"""`coro-rt bench` measures what it is asked for, and says it in rows with fixed keys. No figure is judged."""

import json
import math
import sys
from pathlib import Path

import pytest

from coro_rt.bench.limits import Limits, Weights
from coro_rt.bench.measure import Row

KEYS = {
    "what", "model", "format", "threads", "context", "ours", "peer", "ratio", "unit", "limit", "of_limit",
    "spread", "samples",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch):
    """A look at the limits reads a megabyte here, not 512."""
    look = Limits.__init__
    monkeypatch.setattr(Limits, "__init__", lambda self, threads: look(self, threads, nbytes=1 << 20))


def rows_of(ended):
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert "processor" in found["machine"]
    assert all(set(row) == KEYS for row in found["rows"])
    for row in found["rows"]:
        assert row["ours"] > 0
        assert len(row["samples"]["ours"]) == 2
        assert row["peer"] is row["ratio"] is row["samples"]["peer"] is row["spread"]["peer"] is None
        assert (row["limit"] is None) == (row["of_limit"] is None)
    return found["rows"]


@pytest.mark.parametrize("command", ["kernels", "decode", "prefill"])
def test_every_benchmark_has_help(coro_rt_cli, command):
    ended = coro_rt_cli("bench", command, "--help")
    assert ended.code == 0
    for option in ["--threads", "--repeat", "--json", *(["--model", "--peer"] * (command != "kernels"))]:
        assert f"{option} " in ended.out


def test_kernels_hold_each_product_against_both_limits(coro_rt_cli):
    ended = coro_rt_cli(
        "bench", "kernels", "--format", "q4_1", "--format", "F16", "--threads", "1", "--repeat", "2",
        "--large", "1", "--json", "-",
    )  # fmt: skip
    rows = rows_of(ended)
    assert {(row["format"], row["unit"]) for row in rows} == {
        (form, unit) for form in ("Q4_1", "F16") for unit in ("GB/s", "GMAC/s")
    }
    for row in rows:
        beyond, quantized = "beyond the caches" in row["what"], row["format"] == "Q4_1"
        assert (row["limit"] is not None) == (beyond if row["unit"] == "GB/s" else quantized), row["what"]
        assert (row["model"], row["context"], row["threads"]) == (None, None, 1)


def test_decode_has_a_row_for_each_setting(coro_rt_cli, tiny_file):
    ended = coro_rt_cli(
        "bench", "decode", "--model", str(tiny_file), "--context", "3,20", "--tokens", "4", "--threads",
        "1,2", "--repeat", "2", "--batch", "3", "--json", "-",
    )  # fmt: skip
    rows = rows_of(ended)
    plain = [(row["threads"], row["context"]) for row in rows if row["what"] == "decode"]
    assert plain == [(1, 3), (1, 20), (2, 3), (2, 20)]
    batches = [row["what"] for row in rows if row["threads"] == 2 and row["context"] == 3][1:]
    assert batches == [
        "decode, 1 sequence at once",
        "decode, 3 sequences at once",
    ]
    assert all(row["model"] == "tiny" and row["format"] == "Q4_1" and row["limit"] > 0 for row in rows)
    assert "a batch of 3 makes" in ended.err


def test_placement_holds_what_it_predicted_against_what_was_seen(coro_rt_cli, tiny_file, monkeypatch):
    monkeypatch.setattr("coro_rt.bench.placement.TRAINING", 3)
    ended = coro_rt_cli(
        "bench", "placement", "--model", str(tiny_file), "--length", "5,30", "--rounds", "4", "--threads=1",
        "--every", "600", "--json", "-",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    rows = [row for row in found["rows"] if row["unit"] == "ms"]
    assert {row["what"].partition(",")[0] for row in rows} == {"reading a prompt", "writing tokens"}
    assert all(len(row["samples"]["ours"]) == len(row["samples"]["peer"]) >= 1 for row in rows)
    claims = {claim["what"].partition(":")[0].partition(" in ")[0]: claim for claim in found["claims"]}
    assert claims.keys() == {"a choice", "reading a prompt", "writing tokens", "urgent jobs"}
    assert claims["reading a prompt"]["bound"] == 15
    assert claims["urgent jobs"]["held"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pins a process to a core")
def test_beside_a_busy_loop(coro_rt_cli, tiny_file):
    ended = coro_rt_cli(
        "bench", "decode", "--model", str(tiny_file), "--context", "3", "--tokens", "4", "--threads", "1",
        "--repeat", "2", "--beside-busy", "--json", "-",
    )  # fmt: skip
    whats = [row["what"] for row in rows_of(ended)]
    assert whats[:2] == ["decode", "decode, undisturbed"]
    assert whats[2].startswith("decode, a busy loop on core ")
    assert "times the undisturbed rate of 1 thread" in ended.err


def test_prefill_reads_prompts_of_the_context_asked_for(coro_rt_cli, tiny_file, tmp_path):
    ended = coro_rt_cli(
        "bench", "prefill", "--model", str(tiny_file), "--context", "40", "--threads", "1", "--repeat", "2",
        "--json", str(tmp_path / "found.json"),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "prefill" in ended.out  # the table
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (row["what"], row["context"], row["unit"]) == ("prefill", 40, "tokens/s")


@pytest.mark.parametrize("command", ["decode", "prefill"])
def test_a_trace_shows_a_sample_of_each_context_with_the_last_number_of_threads(
    coro_rt_cli, tiny_file, tmp_path, command
):
    path = tmp_path / "trace.json"
    ended = coro_rt_cli(
        "bench", command, "--model", str(tiny_file), "--context", "3,20", "--threads", "1,2",
        "--repeat", "2", "--trace", str(path), "--json", "-",
    )  # fmt: skip
    assert {row["threads"] for row in rows_of(ended)} == {1, 2}
    events = json.loads(path.read_text())["traceEvents"]
    answers = [event for event in events if event["ph"] == "b" and event["name"] == "generate"]
    assert len(answers) == 2
    assert any(event["ph"] == "X" and event["name"] == "llm.advance" for event in events)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decode", "--threads", "0"], "--threads"),
        (["decode", "--threads", "1,two"], "--threads"),
        (["decode", "--context", ""], "--context"),
        (["decode", "--tokens", "1"], "--tokens"),
        (["decode", "--batch", "1"], "--batch"),
        (["decode", "--peer", "ollama"], "--peer"),
        (["decode", "--model", "missing.gguf"], "missing.gguf"),
        (["kernels", "--format", "Q3_K"], "--format"),
        (["kernels", "--repeat", "0"], "--repeat"),
        (["prefill", "--batch", "4"], "--batch"),
        (["decode", "--trace", "no/such/folder/trace.json"], "--trace"),
        (["kernels", "--trace", "trace.json"], "--trace"),
    ],
)
def test_what_cannot_be_right_is_said_in_one_line(coro_rt_cli, arguments, said):
    ended = coro_rt_cli("bench", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_prompt_longer_than_the_model_takes_is_an_error(coro_rt_cli, tiny_file):
    ended = coro_rt_cli("bench", "prefill", "--model", str(tiny_file), "--context", "5000", "--threads", "1")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1


def test_a_peer_that_is_not_installed_is_an_error_that_says_how_to_get_it(
    coro_rt_cli, tiny_file, monkeypatch
):
    monkeypatch.setattr("coro_rt.bench.wheel.available", lambda: False)
    ended = coro_rt_cli(
        "bench", "decode", "--model", str(tiny_file), "--peer", "llama.cpp", "--peer-python", "nowhere"
    )
    assert ended.code == 1
    assert "make bench-peer" in ended.err


def test_the_native_peer_answers_through_its_pipe(tmp_path, monkeypatch):
    """The script runs where only a stand-in of llama_cpp is: what the protocol says is what is asked for."""
    from coro_rt.bench.native import start
    from coro_rt.errors import CoroRtError

    (tmp_path / "llama_cpp.py").write_text(
        "def llama_backend_init(): print('noise on standard output')\n"
        "def llama_print_system_info(): return b'AVX512_VNNI = 1 |  REPACK = 1'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = start(Path(sys.executable))
    try:
        assert child.ask("info")["info"] == "AVX512_VNNI = 1 | REPACK = 1"
        with pytest.raises(CoroRtError, match="IndexError"):
            child.ask("prefill", number=0, ids=[1])
    finally:
        child.close()


def test_a_native_peer_that_cannot_start_says_why(monkeypatch):
    from coro_rt.bench.native import start
    from coro_rt.errors import CoroRtError

    monkeypatch.setenv("PYTHONPATH", "")
    child = start(Path(sys.executable))
    try:
        with pytest.raises(CoroRtError, match="llama_cpp"):
            child.ask("info")
    finally:
        child.close()


def test_the_weights_of_a_token_are_the_matrices_without_the_embedding_unless_it_is_the_head(tiny_file):
    weights = Weights.of(tiny_file)
    layer = (8 + 2 + 2) * 32 * 256 + 256 * 256 + 3 * 256 * 256
    assert weights.body == 2 * layer
    assert weights.products > weights.body  # tied: the head is the embedding
    assert math.isclose(weights.nbytes, weights.products * 20 / 32)


def test_a_ratio_above_one_is_in_our_favour_for_rates_and_for_times():
    assert Row("rate", "tokens/s", [4.0], [2.0]).as_json()["ratio"] == 2
    assert Row("time", "ms", [2.0], [4.0], less_is_better=True).as_json()["ratio"] == 2
    assert Row("rate", "GB/s", [1.0, 2.0, 3.0, 4.0, 5.0]).as_json()["spread"] == {"ours": 2.0, "peer": None}
