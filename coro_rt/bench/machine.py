"""The machine and the versions that a figure belongs to."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import coro_rt
from coro_rt.devices.cpu import usable_cpus
from coro_rt.kernels.isa import choose


def describe() -> dict[str, Any]:
    """Processor, instruction sets, caches, load, and the versions of what takes part."""
    cpuinfo = _read("/proc/cpuinfo")
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
    }
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "asimd", "asimddp", "i8mm")
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cpus": usable_cpus(),
        "instruction_sets": [name for name in wanted if name in flags],
        "last_cache_kib": last_cache_bytes() >> 10,
        "kernels": choose(),
        "system": platform.system(),
        "python": sys.version.split()[0],
        "versions": {"coro_rt": coro_rt.__version__}
        | {
            name: _version(name)
            for name in ("numpy", "numba", "llvmlite", "trio", "uvloop", "anyio", "xllamacpp")
        },
        "load_average": list(os.getloadavg()),
    }


def last_cache_bytes() -> int:
    """Of the largest cache; 32 MiB where nothing says."""
    sizes = [_read(path).strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << 10 for size in sizes if size.endswith("K")), default=32 << 20)


def line(machine: dict[str, Any]) -> str:
    """What `describe` found, for people."""
    return (
        f"{machine['processor']}, {machine['cpus']} CPUs ({', '.join(machine['instruction_sets'])}; "
        f"kernels: {machine['kernels']}), {machine['system']}, Python {machine['python']}, "
        f"load {machine['load_average'][0]:.2f}"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
