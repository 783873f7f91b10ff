"""`coro-rt simulate --soc`: tokens, joules and processors of a modelled chip."""

import json
from pathlib import Path

import pytest

from coro_rt.schedulers import Rows, Wait
from coro_rt.schedulers.soc import CHIPS
from coro_rt.trace.workload_file import BUILT_IN, built_in, make_workload

SMALL = """
seed = 4
duration_s = 60
model = "llama-3.2-1b"

[[jobs]]
name = "answer"
qos = "USER_INTERACTIVE"
every_s = { exponential = 5 }
reads = { uniform = [50, 200] }
writes = 20
within_s = 10

[[jobs]]
name = "index"
qos = "BACKGROUND"
at_s = [0, 10]
count = 3
reads = 600
writes = 10
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def soc(coro_rt_cli, *arguments: str) -> dict:
    ended = coro_rt_cli("simulate", *arguments, "--json", "-")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.parametrize("chip", CHIPS)
def test_a_workload_in_tokens_runs_on_each_chip(coro_rt_cli, small, chip):
    read = soc(coro_rt_cli, small, "--soc", chip, "--policy", "fair", "--policy", "powersave")
    assert read["soc"] == chip
    fair, powersave = (policy["chip"] for policy in read["policies"])
    assert fair["modelled"] is True
    assert fair["tokens"] == powersave["tokens"] > 1000
    assert fair["joules"] > fair["work_joules"] > 0
    assert fair["joules_per_token"] == pytest.approx(fair["work_joules"] / fair["tokens"])
    assert set(fair["processors"]) == set(CHIPS[chip].names)
    assert soc(coro_rt_cli, small, "--soc", chip, "--policy", "fair", "--policy", "powersave") == read


def test_the_tables_have_tokens_joules_and_processors(coro_rt_cli, small):
    ended = coro_rt_cli("simulate", small, "--soc", "snapdragon-8-elite")
    assert ended.code == 0, ended.err
    for word in ("tokens/s", "J/token", "hottest", "modelled", "npu", "missed", "USER_INTERACTIVE"):
        assert word in ended.out


def test_the_options_choose_processors_model_weights_and_company(coro_rt_cli, small):
    def joules(*options: str) -> float:
        return soc(coro_rt_cli, small, "--soc", "ryzen-ai-7-350", *options)["policies"][0]["chip"][
            "work_joules"
        ]

    usual = joules()
    assert joules("--weights", "int8") > usual
    assert joules("--model", "llama-3.1-8b") > usual
    assert joules("--on", "gpu") > usual
    read = soc(coro_rt_cli, small, "--soc", "ryzen-ai-7-350", "--on", "gpu", "--on", "npu", "--members", "1")
    assert set(read["policies"][0]["chip"]["processors"]) == {"gpu", "npu"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["day", "--soc", "pentium"], "no chip 'pentium'; known are snapdragon-8-gen-3"),
        (
            ["week", "--soc", "ryzen-ai-7-350"],
            "'week' is no file, and no workload of our own: those are day, ",
        ),
        (
            ["day", "--soc", "ryzen-ai-7-350", "--on", "tpu"],
            "no processor 'tpu'; it has big, little, gpu, npu",
        ),
        (["day", "--soc", "ryzen-ai-7-350", "--model", "eliza"], "no model 'eliza'; known are smollm2-135m"),
        (["day", "--on", "npu"], "--on is of a simulated chip"),
        (["day", "--battery", "0.5"], "--battery is of a simulated chip"),
        (["day", "--soc", "ryzen-ai-7-350", "--replay"], "it takes no --soc"),
        ([], "name a trace or a workload"),
    ],
)
def test_options_that_cannot_be_are_refused(coro_rt_cli, arguments, said):
    ended = coro_rt_cli("simulate", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_tokens_without_a_chip_are_an_error_that_names_the_option(coro_rt_cli, small):
    ended = coro_rt_cli("simulate", small)
    assert ended.code == 1
    assert "in tokens of llama-3.2-1b: say on which chip (--soc)" in ended.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"llama-3.2-1b"', '"eliza"'), "no model 'eliza'"),
        (('model = "llama-3.2-1b"', 'weights = "int8"'), "the file has 'weights', which is of a 'model'"),
        (('model = "llama-3.2-1b"', ""), "group 1 of 'jobs' has 'reads', tokens: of which 'model'?"),
        (("reads = 600\nwrites = 10", ""), "group 2 of 'jobs' has neither 'reads' nor 'writes'"),
        (("reads = 600", "service_s = 1"), "group 2 of 'jobs' has 'service_s', but the file has a 'model'"),
        (("writes = 20", "writes = -1"), "'writes' of group 1 of 'jobs' is a number"),
    ],
)
def test_what_is_wrong_in_a_workload_is_said(coro_rt_cli, small, change, said):
    Path(small).write_text(SMALL.replace(*change))
    ended = coro_rt_cli("simulate", small, "--soc", "snapdragon-8-gen-3")
    assert ended.code == 1
    assert said in ended.err


def test_tokens_come_out_as_they_are_described():
    group = {"name": "a", "at_s": 1, "reads": 600, "writes": 40, "pauses": 1, "pause_s": 5}
    workload = make_workload({"model": "llama-3.2-3b", "weights": "int8", "jobs": [group]})
    assert workload.jobs[0].steps == (
        Rows(0, 300, 128),
        Rows(0, 20, 1),
        Wait(5.0),
        Rows(0, 300, 128),
        Rows(0, 20, 1),
    )
    assert workload.batches[0].format == "int8"


def test_our_own_workloads_are_a_day_and_two_mixes():
    day, reading, writing = (built_in(name) for name in BUILT_IN)
    assert max(job.arrives_s for job in day.jobs) > 80_000
    for workload, least, most in ((reading, 20, 100), (writing, 0, 0)):
        rows = [step for job in workload.jobs for step in job.steps if isinstance(step, Rows)]
        read = sum(step.rows for step in rows if step.most > 1)
        written = sum(step.rows for step in rows if step.most == 1)
        assert least <= read / written <= most
