"""Every file in examples/ and every Python block in the README runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = {path.name: path.read_text() for path in sorted(ROOT.glob("examples/*.py"))} | {
    f"README-{number}.py": block
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S), 1
    )
}


def needs_the_model(code: str) -> bool:
    return "load_model(" in code


def run(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(PROGRAMS[name])
    ended = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.strip()


@pytest.mark.parametrize("name", [name for name, code in PROGRAMS.items() if not needs_the_model(code)])
def test_a_program_runs(name, tmp_path):
    run(name, tmp_path)


@pytest.mark.model
@pytest.mark.usefixtures("model_path")
@pytest.mark.parametrize("name", [name for name, code in PROGRAMS.items() if needs_the_model(code)])
def test_a_program_that_loads_the_model_runs(name, tmp_path):
    run(name, tmp_path)


def test_there_are_programs():
    assert "assistant.py" in PROGRAMS
    assert "README-1.py" in PROGRAMS
