"""Compiled kernels and how their arguments are bound.

All kernels share one way to bind: group 0 is the step (its rows and page tables), group 1 what an operation
reads and writes in a workspace, group 2 its numbers and weights, group 3 a layer's cache. So groups are made
once, per workspace and per program, and a dispatch only sets them. They need seven storage buffers, and every
adapter has eight.
"""

from __future__ import annotations

import threading
from typing import Any

from coro_rt.kernels import shaders
from coro_rt.kernels.formats import Format

READ, WRITE, UNIFORM = "read-only-storage", "storage", "uniform"
_GROUPS = ((UNIFORM, READ), (READ, WRITE, WRITE), (UNIFORM, READ, READ), (WRITE,))


class Pipelines:
    """A device's kernels, each compiled when it is first asked for. Thread-safe."""

    def __init__(self, device: Any, *, packed_dot: bool) -> None:
        import wgpu

        self._device, self._packed_dot = device, packed_dot
        self._known: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()
        self.groups = [
            device.create_bind_group_layout(
                entries=[
                    {"binding": at, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}}
                    for at, kind in enumerate(kinds)
                ]
            )
            for kinds in _GROUPS
        ]
        self._plain, self._cached = (
            device.create_pipeline_layout(bind_group_layouts=self.groups[:count]) for count in (3, 4)
        )

    def get(self, kernel: str, *, form: Format | None = None, **constants: shaders.Constant) -> Any:
        """The compiled kernel; see `shaders.source`."""
        key = (kernel, form and form.name, *sorted(constants.items()))
        with self._lock:
            found = self._known.get(key)
            if found is None:
                code = shaders.source(kernel, form=form, packed_dot=self._packed_dot, **constants)
                found = self._known[key] = self._device.create_compute_pipeline(
                    layout=self._cached if "cache" in shaders.PARTS[kernel] else self._plain,
                    compute={"module": self._device.create_shader_module(code=code), "entry_point": "main"},
                )
            return found

    def bind(self, group: int, *buffers: Any) -> Any:
        """A bind group: whole buffers, or (buffer, offset, size)."""
        resources = []
        for each in buffers:
            buffer, offset, size = each if isinstance(each, tuple) else (each, 0, each.size)
            resources.append({"buffer": buffer, "offset": offset, "size": size})
        entries = [{"binding": at, "resource": resource} for at, resource in enumerate(resources)]
        return self._device.create_bind_group(layout=self.groups[group], entries=entries)


def has_packed_dot(device: Any) -> bool:
    """Whether the adapter's compiler knows `dot4I8Packed`."""
    import wgpu

    code = "@compute @workgroup_size(1) fn main() { _ = dot4I8Packed(1u, 1u); }"
    try:
        device.create_shader_module(code=code)
    except wgpu.GPUError:
        return False
    return True
