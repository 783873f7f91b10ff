"""Where the monitors' sockets are: in a folder that only the user can enter.

A socket is named for its process, `PID-NUMBER.sock`, as one process may open several runtimes.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

import platformdirs

from coro_rt.errors import MonitorError


def folder(*, create: bool) -> Path:
    """The folder, checked to be the user's own and closed to others; it need not exist unless created.

    Raises MonitorError.
    """
    if not hasattr(os, "geteuid"):
        raise MonitorError("a runtime can be watched only where there are Unix sockets, not on this system")
    try:
        with warnings.catch_warnings():  # that XDG_RUNTIME_DIR is not set is no news
            warnings.simplefilter("ignore")
            path = Path(platformdirs.user_runtime_dir("coro_rt", appauthor=False))
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        elif not path.exists():
            return path
        _check(path, private=True)
        _check(path.parent, private=False)
    except OSError as error:
        raise MonitorError(f"no folder for the monitor's socket: {error}") from error
    return path


def _check(path: Path, *, private: bool) -> None:
    """Nobody else may put something else there; if `private`, nobody else may even look."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise MonitorError(f"{path} is to be a folder, for the monitor's socket: remove it")
    if private:
        if found.st_uid != os.geteuid():
            raise MonitorError(f"{path} belongs to somebody else, so no socket is put there: remove it")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise MonitorError(f"{path} is open to others: chmod 700 it, or remove it")
    elif found.st_uid not in (0, os.geteuid()) or (
        stat.S_IMODE(found.st_mode) & 0o022 and not found.st_mode & stat.S_ISVTX
    ):
        raise MonitorError(f"others can replace folders in {path}: set XDG_RUNTIME_DIR to one of your own")


def pid_of(path: Path) -> int | None:
    """The process that a socket is named for; None: it is none of ours."""
    pid, _, number = path.stem.partition("-")
    return int(pid) if path.suffix == ".sock" and pid.isdecimal() and number.isdecimal() else None


def is_dead(pid: int) -> bool:
    """Whether there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False
