"""What the tests of the command line share."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coro_rt.cli.app import run

WRITE = (
    "import sys; from pathlib import Path; from tiny import Tiny; "
    "Tiny(form='Q4_1', context=1024).write(Path(sys.argv[1]))"
)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    logger = logging.getLogger("coro_rt")
    handlers, level = logger.handlers, logger.level
    yield
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.fixture
def coro_rt_cli(capsys: pytest.CaptureFixture[str], _logging_as_before: None) -> Callable[..., Ended]:
    """Runs a command in this process."""

    def call(*arguments: str) -> Ended:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def default_model(model_path: Path) -> str:
    """The default model's name; skips where it cannot be had."""
    return "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, written in a process of its own: the makers are modules of another folder of tests."""
    path = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    makers = Path(__file__).parents[1] / "llm"
    subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True, cwd=makers)
    return path
