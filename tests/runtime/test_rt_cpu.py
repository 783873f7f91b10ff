"""How many CPUs there are to use: affinity, and the control group's quota, in both of its versions."""

import math
import os
from pathlib import Path

import pytest

from coro_rt.devices import available, open_device
from coro_rt.devices.cpu import CpuDevice, cgroup_quota, usable_cpus


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_smallest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    _write(tmp_path / "groups", "0::/app/worker\n")
    _write(tmp_path / "fs/app/worker/cpu.max", "max 100000\n")
    _write(tmp_path / "fs/app/cpu.max", "150000 100000\n")
    _write(tmp_path / "fs/cpu.max", "400000 100000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "groups") == 1.5


def test_version_1_has_a_tree_for_the_cpu(tmp_path: Path) -> None:
    _write(tmp_path / "groups", "4:memory:/app\n3:cpu,cpuacct:/app\n")
    _write(tmp_path / "fs/cpu/app/cpu.cfs_quota_us", "50000\n")
    _write(tmp_path / "fs/cpu/app/cpu.cfs_period_us", "100000\n")
    _write(tmp_path / "fs/cpu/cpu.cfs_quota_us", "-1\n")
    _write(tmp_path / "fs/cpu/cpu.cfs_period_us", "100000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "groups") == 0.5


@pytest.mark.parametrize("text", ["max 100000\n", "nonsense\n", ""])
def test_no_quota(tmp_path: Path, text: str) -> None:
    _write(tmp_path / "groups", "0::/\n")
    _write(tmp_path / "fs/cpu.max", text)
    assert cgroup_quota(tmp_path / "fs", tmp_path / "groups") == math.inf
    assert cgroup_quota(tmp_path / "fs", tmp_path / "missing") == math.inf


def test_threads_are_at_least_one_and_at_most_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
    monkeypatch.setattr("coro_rt.devices.cpu.cgroup_quota", lambda: 0.2)
    assert usable_cpus() == 1
    assert CpuDevice(threads=3).threads == 3


def test_all_devices_are_listed() -> None:
    found = {device.name: device for device in available()}
    assert list(found) == ["cpu", "gpu", "npu", "sim"]
    assert found["cpu"].available
    assert found["sim"].available
    assert all(device.detail for device in found.values())
    device = open_device("cpu")
    assert open_device(device) is device


def test_the_preempt_flag_is_the_gangs() -> None:
    device = CpuDevice(threads=1)
    device.preempt()
    assert device.preempt_requested()
    gang = device.gang
    try:
        assert gang.preempt[0] == 1
        assert device.gang is gang
        device.clear_preempt()
        assert gang.preempt[0] == 0
    finally:
        device.close()
        device.close()
