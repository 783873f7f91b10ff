"""Compiling entry points, with a cache on disk that notices an edit in any file of this room.

numba's own cache looks at the file of the entry point alone; its helpers here stand in other files. So the
compiled code goes into a folder named for a hash of all of this room's sources: an edit anywhere means a new
folder. numba itself keeps apart CPUs and versions.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite
import numba
import platformdirs
from llvmlite import ir
from numba.core import types

from .intrinsic import define


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


@contextmanager
def _our_cache() -> Iterator[None]:
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(cache_folder())
    try:
        yield
    finally:
        _config.CACHE_DIR = before


def entry(function: Callable[..., Any]) -> Any:
    """Compile a kernel's entry point: without the GIL, cached, no error checks on divisions, no fast-math."""
    with _our_cache():
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


def native(words: int) -> Callable[[Callable[..., Any]], int]:
    """Compile a function of so many int64, which returns nothing, at once; gives its address, for
    `indirect_call`.

    For code that exists in many variants, of which a model needs a few. The code stays until the process
    ends.
    """

    def compile_now(function: Callable[..., Any]) -> int:
        # numba's cache tells closures apart by their cells, so these must be plain numbers
        signature = types.void(*[types.int64] * words)
        with _our_cache():
            compiled: Any = numba.cfunc(signature, cache=True, error_model="numpy")(function)
        _compiled.append(compiled)
        return int(compiled.address)

    return compile_now


_compiled: list[Any] = []


def indirect_call(words: int) -> Any:
    """`call(address, *words)` inside compiled code: runs what `native` compiled."""

    @define(types.void, *[types.int64] * (words + 1))
    def call(context: Any, builder: Any, address: Any, *values: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * words)
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    return call
