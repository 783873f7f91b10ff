"""The public face: its names and its weight."""

import subprocess
import sys

import coro_rt


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
