"""Compiling entry points, with a cache on disk that notices an edit in any file of this room.

numba's own cache looks at the file of the entry point alone; its helpers here stand in other files. So the
compiled code goes into a folder named for a hash of all of this room's sources: an edit anywhere means a new
folder. numba itself keeps apart CPUs and versions.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import platformdirs


def _fingerprint() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where compiled kernels are kept: $NUMBA_CACHE_DIR if set, else the user's cache folder."""
    base = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("coro_rt")
    return Path(base) / "kernels" / _fingerprint()


_config: Any = numba.config


def entry(function: Callable[..., Any]) -> Any:
    """Compile a kernel's entry point: without the GIL, cached, no error checks on divisions, no fast-math."""
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(cache_folder())
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        _config.CACHE_DIR = before
