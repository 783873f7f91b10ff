"""`coro-rt simulate`: traces and written workloads, tables, JSON, pictures."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import anyio
import pytest

import coro_rt
from coro_rt import QoS, TraceFileError
from coro_rt.schedulers import PowerChange, PowerState, Run, Wait
from coro_rt.testing import VirtualClock, sim_work
from coro_rt.trace.workload_file import make_workload, read_workload

EXAMPLE = Path(__file__).parents[2] / "examples" / "workloads" / "assistant_day.toml"
SMALL = """
seed = 3
duration_s = 60

[shares]
photos = 2

[[jobs]]
name = "answer"
qos = "USER_INTERACTIVE"
every_s = { exponential = 2 }
service_s = { uniform = [0.1, 0.4] }
within_s = 1

[[jobs]]
name = "picture"
qos = "BACKGROUND"
tenant = "photos"
at_s = [0, 30]
count = 6
service_s = 3
pauses = 1
pause_s = 0.5
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A recorded run in virtual time."""
    path = tmp_path / "run.jsonl"

    async def work(seconds: float) -> None:
        await sim_work(seconds)

    async def run() -> None:
        clock = VirtualClock()
        opening = coro_rt.open_runtime(devices=["sim"], clock=clock, record=path)
        async with opening as runtime, anyio.create_task_group() as group:
            with clock.hold():
                for level in QoS:
                    with coro_rt.qos(level):
                        group.start_soon(runtime.run, work, 0.5)
                await anyio.wait_all_tasks_blocked()

    anyio.run(run, backend="trio")
    return path


def test_policies_are_compared_on_the_same_workload(coro_rt_cli, small, tmp_path):
    ended = coro_rt_cli("simulate", small, "--policy", "fifo", "--policy", "dynamic", "--json", "-")
    assert ended.code == 0, ended.err
    read = json.loads(ended.out)
    fifo, dynamic = read["policies"]
    assert [fifo["policy"], dynamic["policy"]] == ["fifo", "dynamic"]
    assert fifo["jobs"] == dynamic["jobs"]
    assert fifo["service_s"] == pytest.approx(dynamic["service_s"])
    assert dynamic["service_s"]["photos"] == pytest.approx(36.0)
    assert dynamic["waiting_s"]["USER_INTERACTIVE"]["p99"] < fifo["waiting_s"]["USER_INTERACTIVE"]["p99"]
    assert dynamic["deadlines"] == dynamic["waiting_s"]["USER_INTERACTIVE"]["jobs"]
    assert dynamic["missed_deadlines"] == 0
    assert "recorded" not in read
    again = coro_rt_cli("simulate", small, "--policy", "fifo", "--policy", "dynamic", "--json", "-")
    assert again.out == ended.out


def test_the_table_has_waits_deadlines_switches_and_tenants(coro_rt_cli, small):
    out = coro_rt_cli("simulate", small).out
    for word in (
        "dynamic",
        "USER_INTERACTIVE",
        "BACKGROUND",
        "median",
        "P99",
        "missed",
        "switches",
        "photos",
    ):
        assert word in out


def test_a_trace_is_shown_as_recorded_and_simulated_under_its_own_policy(coro_rt_cli, trace, tmp_path):
    result = tmp_path / "result.json"
    ended = coro_rt_cli("simulate", str(trace), "--json", str(result))
    assert ended.code == 0, ended.err
    read = json.loads(result.read_text())
    assert [policy["policy"] for policy in read["policies"]] == ["dynamic"]
    assert read["recorded"]["waiting_s"].keys() == read["policies"][0]["waiting_s"].keys()
    assert "recorded" in ended.out


def test_a_replay_agrees_and_one_altered_decision_is_found(coro_rt_cli, trace):
    ended = coro_rt_cli("simulate", str(trace), "--replay")
    assert ended.code == 0
    assert "all as recorded" in ended.out
    lines = trace.read_text().splitlines()
    where = next(i for i, line in enumerate(lines) if '"call":"turn"' in line and '"answer"' in line)
    line = json.loads(lines[where])
    line["answer"]["entry"] += 1
    lines[where] = json.dumps(line)
    trace.write_text("\n".join(lines) + "\n")
    ended = coro_rt_cli("simulate", str(trace), "--replay", "--json", "-")
    assert ended.code == 1
    read = json.loads(ended.out)
    assert read["differences"] == 1
    assert read["first"][0].startswith(f"line {where + 1}, turn at ")


def test_a_trace_that_breaks_off_is_said_to(coro_rt_cli, trace):
    trace.write_bytes(trace.read_bytes()[:-40])
    ended = coro_rt_cli("simulate", str(trace))
    assert ended.code == 0
    assert "breaks off" in ended.err


def test_the_schedule_is_drawn_within_a_window(coro_rt_cli, small, tmp_path):
    picture = tmp_path / "schedule.svg"
    ended = coro_rt_cli("simulate", small, "--policy", "fair", "--policy", "strict", "--gantt", str(picture),
                        "--from", "5", "--to", "15")  # fmt: skip
    assert ended.code == 0, ended.err
    root = ElementTree.parse(picture).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"fair", "strict", "cpu", "answer", "picture", "5 s", "15 s", "USER_INTERACTIVE"} <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) > 20
    assert picture.stat().st_size < 500_000


def test_jobs_have_names_that_are_not_markup(coro_rt_cli, small, tmp_path):
    Path(small).write_text(SMALL.replace('"answer"', '"<b>&"'))
    picture = tmp_path / "schedule.svg"
    assert coro_rt_cli("simulate", small, "--gantt", str(picture)).code == 0
    ElementTree.parse(picture)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seed = 3", "sead = 3"), "the file has 'sead'"),
        (('qos = "BACKGROUND"', 'qos = "LATER"'), "'qos' of group 2 of 'jobs' is one of BACKGROUND"),
        (("service_s = 3", ""), "group 2 of 'jobs' has no 'service_s'"),
        (("every_s = { exponential = 2 }", ""), "has neither 'at_s' nor 'every_s'"),
        (("exponential = 2", "normal = 2"), "'every_s' of group 1 of 'jobs' is a number, {exponential"),
        (("exponential = 2", "exponential = 0"), "exponential = mean > 0"),
        (("every_s = { exponential = 2 }", "every_s = 0"), "'every_s' of group 1 of 'jobs' is 0"),
        (("duration_s = 60", ""), "has no end"),
        (("count = 6", "count = -3"), "'count' of group 2 of 'jobs' is a whole number from 0 on, not -3"),
        (("within_s = 1", "within_s = nan"), "'within_s' of group 1 of 'jobs' is a number from 0 on"),
        (("photos = 2", "photos = 0"), "share of tenant 'photos'"),
        (("count = 6", 'device = "gpu"'), "is for device 'gpu'; there are ['cpu']"),
        (("seed = 3", "seed = = 3"), "neither a trace nor a workload"),
    ],
)
def test_what_is_wrong_in_a_workload_is_said(coro_rt_cli, small, change, said):
    Path(small).write_text(SMALL.replace(*change))
    ended = coro_rt_cli("simulate", small)
    assert ended.code == 1
    assert said in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "fastest"], "no policy 'fastest'"),
        (["--from", "5", "--to", "5"], "before it begins"),
        (["--from", "5000", "--gantt", "x.svg"], "the schedule is over"),
    ],
)
def test_options_that_cannot_be_are_refused(coro_rt_cli, small, arguments, said):
    ended = coro_rt_cli("simulate", small, *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_a_workload_has_no_decisions_to_replay(coro_rt_cli, small):
    ended = coro_rt_cli("simulate", small, "--replay")
    assert ended.code == 1
    assert "is no trace" in ended.err


def test_a_group_comes_out_as_it_is_described():
    workload = make_workload(
        {
            "jobs": [
                {
                    "name": "a",
                    "every_s": 2,
                    "count": 3,
                    "from_s": 10,
                    "service_s": 1,
                    "pauses": 1,
                    "pause_s": 5,
                }
            ]
        }
    )
    assert [job.arrives_s for job in workload.jobs] == [12, 14, 16]
    assert workload.jobs[0].steps == (Run(0.5), Wait(5.0), Run(0.5))
    assert workload.jobs[0].predicted_s == 1


def test_changing_one_group_leaves_the_others(small):
    def answers() -> list[float]:
        return [job.arrives_s for job in read_workload(small).jobs if job.name == "answer"]

    before = answers()
    Path(small).write_text(SMALL.replace("service_s = 3", "service_s = { exponential = 3 }"))
    assert answers() == before


def test_the_example_is_a_day():
    workload = read_workload(EXAMPLE)
    assert max(job.arrives_s for job in workload.jobs) > 80_000
    assert len(workload.jobs) > 2000


def test_a_workload_says_what_the_machine_runs_on(coro_rt_cli, tmp_path):
    (tmp_path / "day.toml").write_text(
        SMALL + "\n[[power]]\nat_s = 0\nbattery = 0.4\ncharging = false\n[[power]]\nat_s = 60\n"
    )
    workload = read_workload(tmp_path / "day.toml")
    assert workload.power == (
        PowerChange(0.0, PowerState(battery=0.4, charging=False)),
        PowerChange(60.0, PowerState()),
    )
    assert coro_rt_cli("simulate", str(tmp_path / "day.toml"), "--policy", "powersave").code == 0


@pytest.mark.parametrize(
    ("power", "said"),
    [
        ({}, "'power' is a list of states, each with its 'at_s', not {}"),
        ([{"at": 1}], "state 1 of 'power' has 'at'; it takes at_s, battery, charging, thermal"),
        ([{"battery": 0.5}], "'at_s' of state 1 of 'power' is a number from 0 on, not None"),
        ([{"at_s": 1, "battery": 50}], "battery is a number from 0 to 1, or None, not 50"),
    ],
)
def test_a_state_that_cannot_be_is_named(power, said):
    with pytest.raises(TraceFileError, match=re.escape(said)):
        make_workload({"jobs": [{"at_s": 0, "service_s": 1}], "power": power})
