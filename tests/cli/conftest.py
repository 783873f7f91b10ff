"""What the tests of the command line share."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coro_rt.cli.app import run


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
