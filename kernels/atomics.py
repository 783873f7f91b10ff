"""What threads need inside code without the GIL: atomic 64-bit words, a mutex with a condition, a clock.

All by address. The mutex and the condition are the C library's own (POSIX), so that a waiting thread sleeps
in the kernel.
"""

import sys
import time
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .intrinsic import call_llvm, define, load, pointer

_I32, _I64 = ir.IntType(32), ir.IntType(64)

MUTEX_BYTES = 64  # at least sizeof(pthread_mutex_t): 40 on Linux, 64 on macOS
CONDITION_BYTES = 64  # at least sizeof(pthread_cond_t): 48 and 48


@define(types.int64, types.int64)
def atomic_load(context: Any, builder: Any, address: Any) -> Any:
    return builder.load_atomic(pointer(builder, address, _I64), "acquire", 8, typ=_I64)


@define(types.void, types.int64, types.int64)
def atomic_store(context: Any, builder: Any, address: Any, value: Any) -> None:
    builder.store_atomic(value, pointer(builder, address, _I64), "release", 8)


@define(types.int64, types.int64, types.int64)
def atomic_add(context: Any, builder: Any, address: Any, value: Any) -> Any:
    """Add, and give what was there before."""
    return builder.atomic_rmw("add", pointer(builder, address, _I64), value, "seq_cst")


@define(types.boolean, types.int64, types.int64, types.int64)
def compare_and_swap(context: Any, builder: Any, address: Any, expected: Any, new: Any) -> Any:
    pair = builder.cmpxchg(pointer(builder, address, _I64), expected, new, "seq_cst", "seq_cst")
    return builder.extract_value(pair, 1)


@define(types.void, types.int64, types.int64)
def init_mutex_and_condition(context: Any, builder: Any, mutex: Any, condition: Any) -> None:
    nothing = ir.Constant(_I64, 0)
    call_llvm(builder, "pthread_mutex_init", _I32, mutex, nothing)
    call_llvm(builder, "pthread_cond_init", _I32, condition, nothing)


@define(types.void, types.int64)
def lock(context: Any, builder: Any, mutex: Any) -> None:
    call_llvm(builder, "pthread_mutex_lock", _I32, mutex)


@define(types.void, types.int64)
def unlock(context: Any, builder: Any, mutex: Any) -> None:
    call_llvm(builder, "pthread_mutex_unlock", _I32, mutex)


@define(types.void, types.int64, types.int64)
def wait(context: Any, builder: Any, condition: Any, mutex: Any) -> None:
    """Sleep until `wake_all`; the mutex is held before and after. May wake for no reason."""
    call_llvm(builder, "pthread_cond_wait", _I32, condition, mutex)


@define(types.void, types.int64)
def wake_all(context: Any, builder: Any, condition: Any) -> None:
    call_llvm(builder, "pthread_cond_broadcast", _I32, condition)


@define(types.int64)
def now_ns(context: Any, builder: Any) -> Any:
    """The monotonic clock, as `time.monotonic_ns()`."""
    # in the entry block: this runs in loops
    timespec = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))  # type: ignore[no-untyped-call]
    address = builder.ptrtoint(timespec, _I64)
    call_llvm(builder, "clock_gettime", _I32, ir.Constant(_I32, time.CLOCK_MONOTONIC), address)
    seconds, nanos = (
        load(builder, address, _I64, 8),
        load(builder, builder.add(address, ir.Constant(_I64, 8)), _I64, 8),
    )
    return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), nanos)


@define(types.void)
def yield_cpu(context: Any, builder: Any) -> None:
    """Let the OS run another thread on this core, if one is waiting for it."""
    call_llvm(builder, "sched_yield", _I32)


@define(types.int64)
def current_cpu(context: Any, builder: Any) -> Any:
    """The number of the core that this thread runs on; -1 where the OS does not say."""
    if sys.platform != "linux":
        return ir.Constant(_I64, -1)
    return builder.sext(call_llvm(builder, "sched_getcpu", _I32), _I64)


CORES_BYTES = 128  # of a set of cores: a bit for each of 1,024


@define(types.boolean, types.int64, types.int64)
def get_cores(context: Any, builder: Any, thread: Any, cores: Any) -> Any:
    """Put the set of cores that a thread (the OS's number) may use to address `cores`. Linux only."""
    return _affinity(builder, "sched_getaffinity", thread, cores)


@define(types.boolean, types.int64)
def use_cores(context: Any, builder: Any, cores: Any) -> Any:
    """Have this thread use the set of cores at address `cores` only. Linux only."""
    return _affinity(builder, "sched_setaffinity", ir.Constant(_I64, 0), cores)


def _affinity(builder: Any, name: str, thread: Any, cores: Any) -> Any:
    if sys.platform != "linux":
        return ir.Constant(ir.IntType(1), 0)
    code = call_llvm(builder, name, _I32, builder.trunc(thread, _I32), ir.Constant(_I64, CORES_BYTES), cores)
    return builder.icmp_signed("==", code, ir.Constant(_I32, 0))


@define(types.void)
def pause(context: Any, builder: Any) -> None:
    """Tell the core that this is a spinning loop."""
    from llvmlite.binding import get_default_triple

    machine = get_default_triple().split("-")[0]
    name, values = {
        "x86_64": ("llvm.x86.sse2.pause", ()),
        "aarch64": ("llvm.aarch64.hint", (ir.Constant(_I32, 1),)),
        "arm64": ("llvm.aarch64.hint", (ir.Constant(_I32, 1),)),
    }.get(machine, (None, ()))
    if name is not None:
        call_llvm(builder, name, ir.VoidType(), *values)
