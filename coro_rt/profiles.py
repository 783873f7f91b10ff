"""Profiles on disk: what kernels take on this machine's devices, kept from one run to the next.

A file for each device of each host, named for a hash of what both are, so that another processor, driver or
adapter begins anew. A model's kernels are named for the hash of its file. What is in a file is checked like
anything else from outside: one that is damaged, of another version or of somebody else is left out, and the
log says why. It is only a profile: nothing depends on it but how soon choices are good.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

from coro_rt.devices.base import Device
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.profile import Profile

logger = logging.getLogger("coro_rt")

FORMAT, VERSION = "coro_rt profile", 1
MOST_CURVES = 256  # of a device; those that were learned from last are kept
MOST_BYTES = 1 << 20  # of a file
MOST_FILES = 64  # of the folder; the oldest go


def profile_folder() -> Path:
    """Where profiles are kept; it need not exist."""
    override = os.environ.get("CORO_RT_CACHE")
    return (Path(override) if override else platformdirs.user_cache_path("coro_rt")) / "profiles"


class ProfileStore:
    """The files for some devices in a folder. Several processes may use it: who is done last is kept."""

    def __init__(self, folder: str | os.PathLike[str], devices: Iterable[Device]) -> None:
        self.folder = Path(folder)
        self._owners = {device.name: _owner(device) for device in devices}

    def load(self) -> Profile:
        """What is known about these devices. Raises nothing: what cannot be read is not known."""
        curves: list[Any] = []
        for device, owner in self._owners.items():
            path = self._path(owner)
            try:
                curves += _read(path, device, owner)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, SchedulerError) as error:
                logger.warning("the profile %s is left out: %s", path, error)
        return Profile.from_data(curves)

    def save(self, profile: Profile) -> None:
        """Keep what is known about these devices. Raises nothing: what cannot be written is not kept."""
        data = profile.as_data()
        for device, owner in self._owners.items():
            curves = [curve for curve in data if curve["device"] == device][-MOST_CURVES:]
            if not curves:
                continue
            path = self._path(owner)
            try:
                self._write(path, owner, curves)
            except OSError as error:
                logger.warning("the profile %s is not kept: %s", path, error)
        with suppress(OSError):
            self._prune()

    def _path(self, owner: dict[str, str]) -> Path:
        key = json.dumps(owner, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _write(self, path: Path, owner: dict[str, str], curves: list[dict[str, Any]]) -> None:
        """Whole, or not at all: written beside its place, and renamed."""
        while True:
            said = {"format": FORMAT, "version": VERSION, **owner, "curves": curves}
            text = json.dumps(said, separators=(",", ":"), allow_nan=False)
            if len(text.encode()) <= MOST_BYTES:
                break
            curves = curves[(len(curves) + 1) // 2 :]
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(prefix="making-", dir=self.folder)
        try:
            with open(handle, "w") as file:
                file.write(text)
            os.replace(made, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(made)
            raise

    def _prune(self) -> None:
        files = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_FILES]:
            path.unlink()


def _owner(device: Device) -> dict[str, str]:
    """Whom a profile belongs to. Raises DeviceError for a device that is not there after all."""
    host = f"{platform.node()}, {platform.system()}, {_processor()}, {os.cpu_count()} CPUs"
    return {"host": host, "device": f"{device.name} ({device.kind}): {device.detail}"}


def _processor() -> str:
    """What the processor calls itself."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path, device: str, owner: dict[str, str]) -> list[Any]:
    """The curves in a file. Raises OSError, ValueError, SchedulerError."""
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES:,} bytes")
    said = json.loads(raw)
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ValueError("it is no profile")
    if said.get("version") != VERSION:
        raise ValueError(f"it is of version {said.get('version')!r}, this is coro_rt for version {VERSION}")
    if any(said.get(part) != value for part, value in owner.items()):
        raise ValueError(f"it is about {said.get('device')!r} of {said.get('host')!r}")
    curves = said.get("curves")
    if not isinstance(curves, list) or len(curves) > MOST_CURVES:
        raise ValueError(f"it is to have at most {MOST_CURVES} curves")
    Profile.from_data(curves)
    if any(curve["device"] != device for curve in curves):
        raise ValueError("it has curves of another device")
    return curves
