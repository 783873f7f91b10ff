"""Which instruction set the kernels are compiled for: the best that the CPU has, or the one named in
CORO_RT_ISA.

The variable makes the compiler take the CPU for a simpler one, so that what a user of such a CPU gets can be
tried and tested here. It is read once, before anything is compiled.
"""

import os
import platform
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from numba.core import config

_X86_BASE = "+64bit,+cx8,+fxsr,+mmx,+sse,+sse2"
_X86_V3 = _X86_BASE + (
    ",+avx,+avx2,+bmi,+bmi2,+cx16,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sahf,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave"
)
# name: (what it needs, the CPU and the features that the compiler is told of); best first, None: the host as
# it is
_X86: dict[str, tuple[frozenset[str], str | None, str | None]] = {
    "avx512-vnni": (frozenset({"avx512vnni", "avx512bw", "avx512vl"}), None, None),
    "avx-vnni": (frozenset({"avx2", "fma", "f16c", "avxvnni"}), "x86-64-v3", _X86_V3 + ",+avxvnni"),
    "avx2": (frozenset({"avx2", "fma", "f16c"}), "x86-64-v3", _X86_V3),
    "portable": (frozenset(), "x86-64", _X86_BASE),
}
_ARM: dict[str, tuple[frozenset[str], str | None, str | None]] = {
    "neon-dotprod": (frozenset({"dotprod"}), None, None),
    "portable": (frozenset(), "generic", ""),
}


def names() -> list[str]:
    """The instruction sets for this kind of processor, best first."""
    return list(_table(platform.machine()))


def _table(machine: str) -> dict[str, tuple[frozenset[str], str | None, str | None]]:
    if machine.lower() in ("x86_64", "amd64"):
        return _X86
    if machine.lower() in ("aarch64", "arm64"):
        return _ARM
    return {"portable": (frozenset(), None, None)}


def best_of(features: frozenset[str], machine: str | None = None) -> str:
    """The best instruction set for a CPU with these features."""
    table = _table(machine or platform.machine())
    # Intel's VNNI in 512 bits comes without the 256-bit encoding of its own, and the other way round
    return next(name for name, (needs, _, _) in table.items() if needs <= features)


def of_host() -> list[str]:
    """The instruction sets that this CPU can run, best first."""
    has = _host_features()
    return [name for name, (needs, _, _) in _table(platform.machine()).items() if needs <= has]


def _host_features() -> frozenset[str]:
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


@cache
def choose() -> str:
    """The instruction set in use. Raises ValueError if CORO_RT_ISA names one that there is not, or not on
    this CPU.
    """
    settings: Any = config
    wanted = os.environ.get("CORO_RT_ISA", "")
    if not wanted:
        features = settings.CPU_FEATURES  # numba's own override, NUMBA_CPU_FEATURES
        told = _host_features() if features is None else frozenset(one[1:] for one in features.split(","))
        return best_of(told)
    if wanted not in of_host():
        raise ValueError(
            f"CORO_RT_ISA is {wanted!r}, but this CPU runs {', '.join(of_host())} (of {', '.join(names())})"
        )
    _, cpu, features = _table(platform.machine())[wanted]
    if features is not None:
        settings.CPU_NAME, settings.CPU_FEATURES = cpu, features
    return wanted


def has_half_conversions() -> bool:
    """Whether the CPU converts float16 itself; else it is done with integers."""
    return choose() != "portable" or platform.machine().lower() in ("aarch64", "arm64")
