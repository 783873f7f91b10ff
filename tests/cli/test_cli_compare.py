"""`coro-rt compare` measures, judges every claim, and writes it down. No figure is judged here."""

import json
import math
import re
from dataclasses import replace

import pytest

from coro_rt.compare import comparison, decisions
from coro_rt.compare.statistics import Figures, Noise, Probe

CLAIM = {"source", "claim", "figure", "unit", "holds", "command", "kind", "note"}
FIGURE = {"what", "who", "at", "unit", "median", "quartiles", "samples"}
MOMENT = replace(
    comparison.QUICK, repeat=2, counts=(2, 1_000), switches=200, asks=5, tasks=20,
    waiting={"coro_rt": 500, "threads": 5}, lengths_s=(1e-5, 1e-4), window_s=0.1, busy_s=0.06,
    large=1 << 20,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _only_a_moment(monkeypatch):
    """The quick run takes half a minute; this one has the same parts, and a few samples of each."""
    monkeypatch.setattr(comparison, "QUICK", MOMENT)
    monkeypatch.setattr(comparison, "TIMELINE_S", 0.1)


def test_a_quick_run_judges_every_claim_and_keeps_every_sample(coro_rt_cli, tiny_file, tmp_path):
    pytest.importorskip("matplotlib")
    trace, report = tmp_path / "trace.json", tmp_path / "report.html"
    ended = coro_rt_cli(
        "compare",
        "--quick",
        "--model",
        str(tiny_file),
        "--json",
        "-",
        "--trace",
        str(trace),
        "--report",
        str(report),
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert set(found) == {"machine", "command", "noise", "notes", "claims", "micro", "scene"}
    assert "processor" in found["machine"]
    assert found["command"].startswith("coro-rt compare --quick --model ")

    assert {claim["source"] for claim in found["claims"]} == {
        "The article says", "coro_rt promises", "Where others win",
    }  # fmt: skip
    for claim in found["claims"]:
        assert set(claim) == CLAIM
        assert claim["kind"] in ("measured", "modelled")
        assert claim["command"].startswith("coro-rt compare --only ")
        assert (claim["figure"] is None) == (claim["holds"] is None)
        assert claim["figure"] is not None or claim["note"]

    for figure in found["micro"]["figures"] + found["scene"]["figures"]:
        assert set(figure) == FIGURE
        assert figure["samples"]
        assert figure["quartiles"][0] <= figure["median"] <= figure["quartiles"][1]
    drivers = {figure["who"] for figure in found["scene"]["figures"]}
    assert (
        drivers == {"threads", "threads, nice", "pool", "fair", "dynamic"} == set(found["scene"]["drivers"])
    )
    whos = {figure["who"] for figure in found["micro"]["figures"]}
    assert {"coro_rt", "asyncio", "uvloop", "trio", "threads, Event", "threads, Lock", "thread pool"} <= whos

    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "s", "f", "C", "b", "e"}
    ready = [event["args"]["jobs"] for event in events if event["name"].startswith("ready on")]
    assert min(ready) == ready[-1] == 0  # those who shared steps with others were counted too

    page = report.read_text()
    assert page.count("<svg") >= 6
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is fetched


def test_a_part_can_be_measured_alone(coro_rt_cli, tiny_file):
    ended = coro_rt_cli(
        "compare", "--quick", "--only", "soc", "--only", "decisions", "--model", str(tiny_file), "--json", "-"
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["scene"]["figures"] == []
    assert {figure["what"] for figure in found["micro"]["figures"]} == {
        "jobs per minute, simulated phone", "a decision: turn", "a decision: arrival",
    }  # fmt: skip
    assert all(claim["kind"] == "modelled" for claim in found["claims"] if "together" in claim["claim"])


def test_a_report_in_markdown_has_the_tables(coro_rt_cli, tiny_file, tmp_path):
    report = tmp_path / "report.md"
    ended = coro_rt_cli(
        "compare", "--quick", "--only", "soc", "--model", str(tiny_file), "--report", str(report)
    )
    assert ended.code == 0, ended.err
    tables = report.read_text()
    assert "### The article says" in tables
    assert "| jobs per minute, simulated phone | npu, reading |" in tables


def test_a_report_without_what_draws_it_says_what_to_install(coro_rt_cli, tmp_path, monkeypatch):
    monkeypatch.setattr("coro_rt.compare.report.find_spec", lambda name: None)
    ended = coro_rt_cli("compare", "--quick", "--report", str(tmp_path / "report.html"))
    assert ended.code == 1
    assert "coro-rt[report]" in ended.err


def test_what_a_decision_costs_is_fitted_to_the_logarithm_of_how_many_are_ready():
    figures = Figures()
    for ready in (16, 1_024, 65_536):
        figures.add(decisions.TURN, "dynamic", "µs", 0.5 + 0.1 * math.log2(ready), ready)
        figures.add(decisions.TURN, "fifo", "µs", 7.0, ready)
    assert decisions.growth(figures, decisions.TURN, "dynamic") == pytest.approx((0.5, 0.1))
    assert decisions.growth(figures, decisions.TURN, "edf") is None
    pytest.importorskip("matplotlib")
    from coro_rt.compare.plots import all_plots

    (plot,) = all_plots(figures)
    assert "dynamic, fitted: 0.50 + 0.10 log₂ n" in plot.svg


def test_measurements_take_turns():
    order = []

    def probe(name):
        return Probe("something", name, "s", lambda: order.append(name) or 1.0)

    Figures().take([probe("one"), probe("other")], 2, lambda what: None, Noise())
    assert order == ["one", "other", "one", "other"]


def test_what_the_machine_refuses_is_noted_and_left_out():
    def refuse():
        raise RuntimeError("can't start new thread")

    figures = Figures()
    figures.take([Probe("threads", "many", "s", refuse, 10_000)], 3, lambda what: None, Noise())
    assert list(figures) == []
    assert figures.notes == ["threads, many at 10,000: not possible here (can't start new thread)"]


def test_a_noisy_machine_is_warned_about():
    noise = Noise()
    noise._took, noise._kept = [1.0, 1.0, 2.0, 3.0], [0.5] * 4
    assert noise.warning
    noise._took, noise._kept = [1.0, 1.001, 1.0, 1.002], [0.0] * 4
    assert noise.warning is None
