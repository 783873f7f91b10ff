"""Finding an NPU: ONNX Runtime's execution providers, and words for those that are missing.

A provider is a library that registers itself (`get_ep_devices` then lists its devices), or is compiled into
the `onnxruntime` package that is installed (`get_available_providers`). The CPU's provider is no NPU: it is
taken only if asked for by name, as a stand-in.

Only here is `onnxruntime` imported first; nothing imports this file unless the device is asked for.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coro_rt.errors import DeviceError

INSTALL = "pip install 'coro-rt[npu]'"
CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Known:
    """A provider for NPUs: its short name, whose NPUs, how to get it, what it is asked for by default, and
    the module that says where its library is, if it is a package of its own.
    """

    short: str
    maker: str
    get: str
    options: Mapping[str, str] = field(default_factory=dict)
    module: str = ""

    def line(self, name: str) -> str:
        """ "Qualcomm, QNNExecutionProvider: pip install onnxruntime-qnn"."""
        return f"{self.maker}, {name}: {self.remedy()}"

    def remedy(self) -> str:
        """How to get it, or what else there may be if its package is here."""
        if self.module and find_spec(self.module) is not None:
            return "its package is installed, but finds no device here that it supports: look for its driver"
        return self.get


KNOWN = {
    "QNNExecutionProvider": Known(
        "qnn", "Qualcomm", "pip install onnxruntime-qnn", {"backend_type": "htp"}, "onnxruntime_qnn"
    ),
    "OpenVINOExecutionProvider": Known(
        "openvino", "Intel", "pip install onnxruntime-ep-openvino", {"device_type": "NPU"},
        "onnxruntime_ep_openvino",
    ),
    "CoreMLExecutionProvider": Known(
        "coreml", "Apple", "it is part of the package onnxruntime on macOS",
        {"MLComputeUnits": "CPUAndNeuralEngine", "ModelFormat": "MLProgram", "RequireStaticInputShapes": "1"},
    ),
    "CANNExecutionProvider": Known(
        "cann", "Huawei", "pip install onnxruntime-cann, in place of onnxruntime"
    ),
    "VitisAIExecutionProvider": Known("vitisai", "AMD", "it comes with AMD's Ryzen AI software"),
}  # fmt: skip
"""In the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider that is there: its name, the devices to give to a session (none where it is compiled in),
    and the options for it.
    """

    name: str
    devices: tuple[Any, ...]
    options: Mapping[str, str]

    @property
    def stand_in(self) -> bool:
        return self.name == CPU

    def describe(self) -> str:
        """ "QNNExecutionProvider, Qualcomm NPU"."""
        kinds = [f"{device.device.vendor} {device.device.type.name}" for device in self.devices]
        if self.stand_in:
            return f"{self.name}, a stand-in on the CPU"
        return ", ".join([self.name, *kinds])


def runtime() -> Any:
    """The module onnxruntime. Raises DeviceError, with the command that installs it."""
    missing = [name for name in ("onnxruntime", "onnx") if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise DeviceError(f"the device 'npu' needs {names}, not installed here: {INSTALL}")
    return importlib.import_module("onnxruntime")


def full_name(name: str) -> str:
    """A provider's name from its short one ("qnn", "cpu") or itself."""
    shorts = {known.short: full for full, known in KNOWN.items()} | {"cpu": CPU}
    return shorts.get(name.lower(), name)


def find(name: str | None, options: Mapping[str, str] | None) -> Provider:
    """The provider of that name, or the first with an NPU. Raises DeviceError, naming what is there."""
    ort = runtime()
    devices = list(ort.get_ep_devices())
    if name is not None:
        name = full_name(name)
        mine = [device for device in devices if device.ep_name == name]
        npus = [device for device in mine if device.device.type.name == "NPU"]
        if mine:
            return Provider(name, tuple((npus or mine)[:1]), _options(name, options))
        if name in ort.get_available_providers():
            return Provider(name, (), _options(name, options))
        there = ", ".join(sorted({d.ep_name for d in devices} | set(ort.get_available_providers())))
        known = KNOWN.get(name)
        remedy = "give its library as libraries=[path or package]" if known is None else known.remedy()
        raise DeviceError(f"ONNX Runtime has no provider {name!r} here, only {there}; to get it: {remedy}")
    for device in devices:
        if device.device.type.name == "NPU":
            return Provider(device.ep_name, (device,), _options(device.ep_name, options))
    for known_name in KNOWN:
        if known_name in ort.get_available_providers():
            return Provider(known_name, (), _options(known_name, options))
    raise DeviceError(
        "no NPU was found: install its maker's provider (`coro-rt devices` says how), or name the stand-in "
        "on the CPU: 'npu:cpu'"
    )


def missing() -> list[str]:
    """A line for each known provider that is not here: whose it is, and how to get it."""
    ort = runtime()
    there = {device.ep_name for device in ort.get_ep_devices()} | set(ort.get_available_providers())
    return [known.line(name) for name, known in KNOWN.items() if name not in there]


def _options(name: str, given: Mapping[str, str] | None) -> Mapping[str, str]:
    if given is not None:
        return dict(given)
    known = KNOWN.get(name)
    return {} if known is None else known.options


class Libraries:
    """Provider libraries that a device has registered. ONNX Runtime keeps them per process, so they are
    counted, and leave with the last device that asked for them.
    """

    _counts: dict[str, int] = {}  # noqa: RUF012 (shared on purpose)
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._mine: list[str] = []

    def add(self, libraries: Sequence[str | os.PathLike[str]]) -> None:
        """Register each, and those packages of known providers that are installed. Raises DeviceError."""
        ort = runtime()
        packages = [k.module for k in KNOWN.values() if k.module and find_spec(k.module) is not None]
        for path in dict.fromkeys([*map(library_path, libraries), *map(library_path, packages)]):
            with self._lock:
                if not self._counts.get(path):
                    try:
                        ort.register_execution_provider_library(path, path)
                    except Exception as error:  # whatever a library makes of it
                        raise DeviceError(
                            f"{path} could not be registered as an execution provider: {error}"
                        ) from error
                self._counts[path] = self._counts.get(path, 0) + 1
                self._mine.append(path)

    def remove(self) -> None:
        """Unregister those that nobody else uses. No session uses them any more."""
        while self._mine:
            path = self._mine.pop()
            with self._lock:
                self._counts[path] -= 1
                if not self._counts[path]:
                    runtime().unregister_execution_provider_library(path)


def library_path(library: str | os.PathLike[str]) -> str:
    """The path of a library that is given by path, or by the name of a package that tells it. Raises
    DeviceError.
    """
    path = Path(library)
    if path.is_file():
        return str(path.resolve())
    name = str(library).replace("-", "_")
    if path.suffix or os.sep in str(library) or not name.isidentifier() or find_spec(name) is None:
        raise DeviceError(
            f"there is no library {str(library)!r}: give the path of a provider's shared library, or the "
            "name of an installed package that has one"
        )
    get = getattr(importlib.import_module(name), "get_library_path", None)
    if get is None:
        raise DeviceError(f"the package {name} does not say where its library is: give the library's path")
    return str(get())
