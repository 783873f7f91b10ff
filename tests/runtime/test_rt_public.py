"""The public face: its names, its weight, and that the examples run."""

import subprocess
import sys
from pathlib import Path

import pytest

import coro_rt

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_all_says_what_there_is() -> None:
    assert sorted(coro_rt.__all__) == list(coro_rt.__all__)
    for name in coro_rt.__all__:
        assert hasattr(coro_rt, name), name
    public = {
        name for name, value in vars(coro_rt).items() if not name.startswith("_") and not _is_module(value)
    }
    assert public - set(coro_rt.__all__) == set()


def _is_module(value: object) -> bool:
    return isinstance(value, type(sys))


def test_every_public_name_says_what_it_is() -> None:
    for name in coro_rt.__all__:
        if name != "__version__":
            assert getattr(coro_rt, name).__doc__, name


def test_importing_is_light() -> None:
    heavy = ["numba", "numpy", "tokenizers", "trio"]
    program = f"import coro_rt, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["own_kernel", "custom_policy"])
def test_the_examples_run(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout
    assert done.stderr == ""
