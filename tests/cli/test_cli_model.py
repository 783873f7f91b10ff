"""The commands with the default model: what they print, their JSON, and how they end on Ctrl-C."""

import json
import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("default_model")]

ANSWER = {"text", "finish_reason", "usage", "ttft_s", "tokens_per_s"}
CIRCUMSTANCES = {"model", "backend", "devices", "policy", "threads"}


@pytest.mark.parametrize("backend", ["trio", "asyncio", "uvloop"])
def test_complete_prints_the_text_alone(coro_rt_cli, backend, tmp_path):
    path = tmp_path / "result.json"
    ended = coro_rt_cli(
        "complete", "The capital of France is", "--max-tokens=4", "--json", str(path), "--backend", backend
    )
    assert ended.code == 0
    assert "Paris" in ended.out
    result = json.loads(path.read_text())
    assert set(result) == CIRCUMSTANCES | {"prompt"} | ANSWER
    assert result["text"] + "\n" == ended.out
    assert result["backend"] == backend
    assert result["finish_reason"] == "length"
    assert result["usage"]["completion_tokens"] == 4


def test_the_same_seed_gives_the_same_text(coro_rt_cli):
    def text(seed: int) -> str:
        options = "--max-tokens=12", "--temperature=1.5", f"--seed={seed}", "--threads=1", "--policy=fair"
        return coro_rt_cli("complete", "Once upon a time", *options).out

    assert text(7) == text(7) != text(8)


def test_one_question(coro_rt_cli):
    ended = coro_rt_cli("chat", "-p", "Say hello.", "--max-tokens=5", "--json=-")
    assert ended.code == 0
    result = json.loads(ended.out)
    assert set(result) == CIRCUMSTANCES | {"turns"}
    (turn,) = result["turns"]
    assert set(turn) == {"question"} | ANSWER
    assert turn["text"] in ended.err


def test_the_lines_of_standard_input_are_one_conversation():
    command = [sys.executable, "-m", "coro_rt", "chat", "--max-tokens=4", "--json=-"]
    ended = subprocess.run(
        command, input="My name is Ada.\n\nWhat is my name?", capture_output=True, text=True, check=True
    )
    first, second = json.loads(ended.stdout)["turns"]
    assert (first["question"], second["question"]) == ("My name is Ada.", "What is my name?")
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + 4


def test_a_prompt_longer_than_the_context_is_one_line(coro_rt_cli):
    ended = coro_rt_cli("complete", "word " * 9000)
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert "context" in ended.err


def test_the_demo(coro_rt_cli, tmp_path):
    path = tmp_path / "demo.json"
    ended = coro_rt_cli("demo", "--max-tokens=4", "--json", str(path))
    assert ended.code == 0
    assert "time to first token" in ended.out
    assert "token for token" in ended.out
    result = json.loads(path.read_text())
    assert set(result) == CIRCUMSTANCES | {
        "idle", "loaded", "background", "switches", "preemptions", "switch_cost_s"
    }  # fmt: skip
    assert set(result["idle"]) == set(result["loaded"]) == {"ttft_s", "tokens_per_s"}
    assert result["background"]["tokens_per_s"] > 0
    assert result["switches"] > 0
    assert result["switch_cost_s"] > 0


LONG = {
    "trio": ["complete", "Once upon a time", "--max-tokens=8000", "--backend=trio"],
    "asyncio": ["complete", "Once upon a time", "--max-tokens=8000", "--backend=asyncio"],
    "uvloop": ["complete", "Once upon a time", "--max-tokens=8000", "--backend=uvloop"],
    "waiting for a question": ["chat"],
    "demo": ["demo"],
}


@pytest.mark.parametrize("arguments", LONG.values(), ids=LONG)
def test_ctrl_c_ends_with_130_and_no_noise(child, arguments):
    process = child("-m", "coro_rt", *arguments)
    if arguments == ["chat"]:
        process.stdin.write("Say hello.\n")
        process.stdin.flush()
    while (seen := process.stdout.read(1)) == "\n":
        pass
    assert seen, process.stderr.read()
    if arguments == ["chat"]:
        process.stdout.readline()  # the answer's end
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.strip().splitlines()[1:] == []
