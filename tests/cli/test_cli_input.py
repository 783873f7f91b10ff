"""What is typed wrongly, or cannot be done, ends in one line on standard error and a fitting exit code."""

import json
import os
import subprocess
import sys

import pytest

from coro_rt.devices import DeviceInfo
from coro_rt.energy import Battery
from coro_rt.schedulers.registry import POLICIES

COMMANDS = ["demo", "chat", "complete", "pull", "models", "quantize", "devices", "top"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(coro_rt_cli, command):
    ended = coro_rt_cli(command, "--help")
    assert ended.code == 0
    assert f"coro-rt {command}" in ended.out
    assert "--json FILE" in ended.out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_help_lists_the_commands(coro_rt_cli, arguments):
    ended = coro_rt_cli(*arguments)
    assert ended.code == 0
    assert all(f"\n  {command}  " in ended.out for command in COMMANDS)


@pytest.mark.parametrize("command", ["demo", "chat", "complete"])
@pytest.mark.parametrize(
    "option",
    [
        "--model",
        "--device",
        "--policy",
        "--threads",
        "--backend",
        "--max-tokens",
        "--temperature",
        "--seed",
        "--monitor",
    ],
)
def test_the_commands_that_run_a_model_share_their_options(coro_rt_cli, command, option):
    assert f"{option} " in coro_rt_cli(command, "--help").out


WRONG = {
    "no such command": (["fly"], "fly"),
    "no such option": (["demo", "--faster"], "--faster"),
    "no text": (["complete"], "TEXT"),
    "empty text": (["complete", " "], "no text"),
    "empty question": (["chat", "-p", ""], "no text"),
    "text that is not UTF-8": (["complete", "\udcff"], "UTF-8"),
    "unknown model": (["complete", "hi", "--model", "smollm2-135m"], "did you mean smollm2-135m-instruct?"),
    "missing file": (["complete", "hi", "--model", "missing.gguf"], "missing.gguf"),
    "unknown model to pull": (["pull", "gpt"], "'gpt'"),
    "unknown policy": (["demo", "--policy", "fastest"], "dynamic, edf, eevdf, fair"),
    "policy that cannot be imported": (["demo", "--policy", "nowhere:Policy"], "nowhere"),
    "unknown backend": (["demo", "--backend", "curio"], "'trio', 'asyncio', 'uvloop'"),
    "negative temperature": (["complete", "hi", "--temperature", "-1"], "temperature"),
    "temperature that is no number": (["complete", "hi", "--temperature", "nan"], "temperature"),
    "infinite temperature": (["complete", "hi", "--temperature", "inf"], "temperature"),
    "no tokens": (["complete", "hi", "--max-tokens", "0"], "--max-tokens"),
    "negative seed": (["complete", "hi", "--seed", "-1"], "--seed"),
    "no threads": (["demo", "--threads", "0"], "--threads"),
    "JSON into a folder": (["models", "--json", os.sep], "cannot be written"),
    "JSON into a missing folder": (
        ["models", "--json", os.path.join("missing", "a.json")],
        "cannot be written",
    ),
}


@pytest.mark.parametrize(("arguments", "part"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(coro_rt_cli, arguments, part):
    ended = coro_rt_cli(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert part in ended.err


def test_a_file_that_is_no_gguf_is_one_line_and_exit_code_1(coro_rt_cli, tmp_path):
    path = tmp_path / "letter.gguf"
    path.write_text("Dear model, ..." * 100)
    ended = coro_rt_cli("complete", "hi", "--model", str(path))
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "letter.gguf" in last


def test_pulling_without_a_network_is_one_line_and_exit_code_1(coro_rt_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CORO_RT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    ended = coro_rt_cli("pull", "smollm2-135m-instruct")
    assert ended.code == 1
    assert ended.out == ""
    notes, error = ended.err.splitlines()
    assert notes.startswith("fetching")
    assert error.startswith("error: cannot fetch smollm2-135m-instruct")


def test_a_bug_is_one_line_too(coro_rt_cli, monkeypatch):
    monkeypatch.setattr("coro_rt.cli.models.installed", lambda: 1 / 0)
    ended = coro_rt_cli("models")
    assert ended.code == 1
    assert ended.err == "error: ZeroDivisionError: division by zero (a bug? CORO_RT_DEBUG=1 shows where)\n"
    monkeypatch.setenv("CORO_RT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        coro_rt_cli("models")


def test_models_as_json(coro_rt_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CORO_RT_CACHE", str(tmp_path / "empty"))
    ended = coro_rt_cli("models", "--json", str(tmp_path / "models.json"))
    assert ended.code == 0
    assert "smollm2-135m-instruct" in ended.out
    model, encoder = json.loads((tmp_path / "models.json").read_text())["models"]
    assert model["name"] == "smollm2-135m-instruct"
    assert encoder["name"] == "all-minilm-l6-v2"
    assert model["installed"] is False
    assert model["path"].startswith(str(tmp_path / "empty"))


def test_devices_as_json_alone_on_standard_output(coro_rt_cli):
    ended = coro_rt_cli("devices", "--json", "-")
    assert ended.code == 0
    devices = json.loads(ended.out)["devices"]
    assert {"cpu", "sim"} <= {device["kind"] for device in devices}
    assert all(
        set(device) == {"name", "kind", "available", "detail", "missing", "energy"} for device in devices
    )
    assert "cpu" in ended.err


def test_a_policy_of_ones_own_is_found_in_the_current_folder(coro_rt_cli, tmp_path, monkeypatch):
    (tmp_path / "own_policy_of_a_test.py").write_text("import coro_rt\nclass Own(coro_rt.Policy): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    ended = coro_rt_cli("complete", "hi", "--policy", "own_policy_of_a_test:Own", "--model", "missing.gguf")
    assert "missing.gguf" in ended.err  # the policy was taken


def test_the_help_names_the_policies(coro_rt_cli):
    text = coro_rt_cli("demo", "--help").out
    assert all(name in text for name in POLICIES)


def test_help_loads_no_kernels():
    code = (
        "import sys; from coro_rt.cli.app import run; run(['--help']); "
        "sys.exit(bool({'numpy', 'numba', 'tokenizers', 'jinja2'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "coro_rt", "models", "--json", "-"]
    with open(writing, "wb") as stdout:
        ended = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert "error" not in ended.stderr.lower()
    assert "Exception" not in ended.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_one_line():
    command = [sys.executable, "-m", "coro_rt", "models"]
    with open("/dev/full", "wb") as stdout:
        ended = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def test_devices_say_where_their_joules_come_from_and_how_the_battery_is(coro_rt_cli, tmp_path, monkeypatch):
    for name, value in {"type": "Battery", "capacity": "64", "status": "Discharging"}.items():
        (tmp_path / "BAT0").mkdir(exist_ok=True)
        (tmp_path / "BAT0" / name).write_text(value)
    monkeypatch.setattr("coro_rt.energy.meter.Battery", lambda: Battery(tmp_path))
    ended = coro_rt_cli("devices", "--json", str(tmp_path / "devices.json"))
    assert "battery: 64%, discharging\n" in ended.out
    read = json.loads((tmp_path / "devices.json").read_text())
    assert read["power"]["battery"] == 0.64
    energy = {device["kind"]: device["energy"] for device in read["devices"]}
    assert energy["cpu"].startswith(("measured by RAPL", "modelled, "))
    assert energy["sim"] == "not known"


def test_devices_show_the_extras_that_are_written_in_brackets(coro_rt_cli, monkeypatch):
    info = DeviceInfo("gpu", "gpu", True, "pip install 'coro-rt[gpu]'", (), "pip install 'coro-rt[nvml]'")
    monkeypatch.setattr("coro_rt.devices.available", lambda: [info])
    shown = coro_rt_cli("devices").out
    assert "'coro-rt[gpu]'" in shown
    assert "'coro-rt[nvml]'" in shown
