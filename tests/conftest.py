"""Every async test marked `anyio` runs on trio, on asyncio and on uvloop. No test leaves a thread of ours
behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from coro_rt.devices.gpu import GpuDevice
from coro_rt.errors import DeviceError, ModelError
from coro_rt.llm.catalog import pull

# The same examples every time, so that what fails is due to the change; `make soak` draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "trio": ("trio", {}),
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
}


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("coro_rt")]
    assert not left, f"threads are left: {left}"


@pytest.fixture(autouse=True)
def _no_profile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORO_RT_PROFILE", "0")


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python. One that hangs is ended, and says on standard error where each of its threads was."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
            options = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | options
            environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
            process = stack.enter_context(
                subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **options)
            )
            stack.callback(process.kill)
            stuck = threading.Timer(600, process.send_signal, [signal.SIGABRT])
            stuck.daemon = True
            stuck.start()
            stack.callback(stuck.cancel)
            return process

        yield start


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The default model's file, fetched if it is missing; skips where it cannot be had."""
    try:
        return pull("smollm2-135m-instruct")
    except ModelError as error:
        pytest.skip(f"no model: {error}")


@pytest.fixture(scope="session")
def gpu() -> Iterator[GpuDevice]:
    """One GPU for all tests of kernels and programs; skips, and says why, where there is none."""
    device = GpuDevice()
    try:
        device.start()
    except DeviceError as error:
        pytest.skip(str(error))
    yield device
    device.close()
