"""What the tests of the command line share."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from coro_rt.cli.app import run
from coro_rt.errors import ModelError
from coro_rt.llm.catalog import pull


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
def default_model() -> str:
    """The default model's name, fetched if it is missing; skips where it cannot be had."""
    name = "smollm2-135m-instruct"
    try:
        pull(name)
    except ModelError as error:
        pytest.skip(f"no model: {error}")
    return name
