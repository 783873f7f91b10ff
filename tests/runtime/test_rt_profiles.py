"""Profiles on disk: kept whole or not at all, for their own host and device; what is damaged is left out."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from coro_rt import open_runtime
from coro_rt.profiles import MOST_BYTES, MOST_CURVES, MOST_FILES, ProfileStore
from coro_rt.schedulers import Profile
from coro_rt.testing import SimDevice


def learned(device: str = "sim", kernels: int = 3) -> Profile:
    profile = Profile()
    for number in range(kernels):
        for size in (1.0, 10.0, 100.0):
            profile.learn(f"kernel {number}", device, size, 0.001 * size, 0.0)
    return profile


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_learned_is_there_in_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "profiles"
    ProfileStore(folder, [SimDevice()]).save(learned())
    assert ProfileStore(folder, [SimDevice()]).load().as_data() == learned().as_data()


def test_nothing_is_known_at_first_and_nothing_is_written_when_nothing_was_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ProfileStore(tmp_path, [SimDevice()])
    assert len(store.load()) == 0
    store.save(Profile())
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_each_device_has_its_own_file_and_another_one_of_the_same_name_begins_anew(tmp_path: Path) -> None:
    devices = [SimDevice("a"), SimDevice("b")]
    profile = learned("a")
    profile.learn("k", "b", 1.0, 0.1, 0.0)
    ProfileStore(tmp_path, devices).save(profile)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(ProfileStore(tmp_path, [SimDevice("a")]).load()) == 3
    assert len(ProfileStore(tmp_path, [SimDevice("a", quantum_s=0.005)]).load()) == 0


def edited(path: Path, **changes: Any) -> str:
    return json.dumps({**json.loads(path.read_text()), **changes})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1, 2]", "it is no profile"),
        ('"\udcff"', "decode"),
        ('{"format": "something else"}', "it is no profile"),
        ({"version": 99}, "it is of version 99, this is coro_rt for version 1"),
        ({"host": "elsewhere"}, "of 'elsewhere'"),
        ({"device": "toaster"}, "it is about 'toaster'"),
        ({"curves": "many"}, "at most"),
        ({"curves": [{}]}, "names its kernel"),
        ({"curves": [{"kernel": "k", "device": "sim", "sums": [float("nan")] * 5}]}, "no curve of a profile"),
        ({"curves": learned("other").as_data()}, "curves of another device"),
        ("x" * (MOST_BYTES + 1), "longer than"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_left_out_with_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: Any, reason: str
) -> None:
    store = ProfileStore(tmp_path, [SimDevice()])
    store.save(learned())
    path = only_file(tmp_path)
    if isinstance(content, dict):
        content = edited(path, **content)
    path.write_bytes(content.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        assert len(store.load()) == 0
    assert reason in caplog.text
    store.save(learned())  # and it is written anew
    assert len(store.load()) == 3


def test_one_damaged_file_does_not_cost_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ProfileStore(tmp_path, [SimDevice("a")]).save(learned("a"))
    only_file(tmp_path).write_text("{}")
    ProfileStore(tmp_path, [SimDevice("b")]).save(learned("b"))
    assert {device for _, device, _ in ProfileStore(tmp_path, [SimDevice("a"), SimDevice("b")]).load()} == {
        "b"
    }


def test_a_file_that_breaks_off_while_it_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = ProfileStore(tmp_path, [SimDevice()])
    store.save(learned(kernels=1))

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", full)
    store.save(learned(kernels=2))
    assert "is not kept: the disk is full" in caplog.text
    assert len(store.load()) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = ProfileStore(tmp_path / "file" / "profiles", [SimDevice()])
    store.save(learned())
    assert "is not kept" in caplog.text
    assert len(store.load()) == 0


def test_a_file_has_a_bounded_size_and_keeps_what_was_learned_last(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path, [SimDevice()])
    store.save(learned(kernels=MOST_CURVES + 10))
    found = store.load()
    assert len(found) == MOST_CURVES
    assert found.curve("kernel 0", "sim") is None
    profile = Profile()
    for number in range(64):
        profile.learn(f"{number} {'x' * 100_000}", "sim", 1.0, 0.1, 0.0)
    store.save(profile)
    assert only_file(tmp_path).stat().st_size <= MOST_BYTES
    assert 1 <= len(store.load()) < 64


def test_a_folder_has_so_many_files_at_most(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 5):
        path = tmp_path / f"{number}.json"
        path.write_text("{}")
        os.utime(path, (number, number))
    ProfileStore(tmp_path, [SimDevice()]).save(learned())
    assert len(list(tmp_path.iterdir())) == MOST_FILES
    assert not (tmp_path / "0.json").exists()


@pytest.mark.parametrize("value", ["yes", "2"])
def test_what_the_environment_says_is_checked(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CORO_RT_PROFILE", value)
    with pytest.raises(ValueError, match="CORO_RT_PROFILE is 1 or 0"):
        open_runtime()
