"""RAPL on a made-up tree: which counters count, their turns, and why there may be none."""

from pathlib import Path

import pytest
from sysfs_maker import make, rapl

from coro_rt.devices.cpu import CpuDevice
from coro_rt.energy import Rapl
from coro_rt.errors import EnergyError
from coro_rt.testing import SimDevice


def test_it_counts_from_when_it_was_made_all_packages_together(tmp_path: Path) -> None:
    rapl(tmp_path, {"intel-rapl:0": 5_000_000, "intel-rapl:1": 7_000_000})
    source = Rapl(tmp_path)
    assert source.joules() == 0
    rapl(tmp_path, {"intel-rapl:0": 6_500_000, "intel-rapl:1": 7_250_000})
    assert source.joules() == pytest.approx(1.75)
    assert source.joules() == pytest.approx(1.75)


def test_a_counter_that_begins_anew_goes_on_counting(tmp_path: Path) -> None:
    rapl(tmp_path, {"intel-rapl:0": 9_000_000}, turn_uj=10_000_000)
    source = Rapl(tmp_path)
    for counter, joules in [(9_500_000, 0.5), (500_000, 1.5), (200_000, 11.2), (300_000, 11.3)]:
        rapl(tmp_path, {"intel-rapl:0": counter}, turn_uj=10_000_000)
        assert source.joules() == pytest.approx(joules)


def test_a_counter_that_is_set_back_and_names_no_turn_counts_nothing_then(tmp_path: Path) -> None:
    files = {"name": "package-0", "energy_uj": 9_000_000}
    make(tmp_path, **{"intel-rapl:0": files})
    source = Rapl(tmp_path)
    for counter, joules in [(10, 0.0), (1_000_010, 1.0)]:
        make(tmp_path, **{"intel-rapl:0": files | {"energy_uj": counter}})
        assert source.joules() == pytest.approx(joules)


def test_no_joule_is_counted_twice(tmp_path: Path) -> None:
    rapl(tmp_path, {"intel-rapl:0": 0})
    same = {"name": "package-0", "energy_uj": 0}
    make(
        tmp_path,
        **{
            "intel-rapl": {"enabled": 1},
            "intel-rapl:0:0": {"name": "core", "energy_uj": 0},
            "intel-rapl:0:1": {"name": "package-9", "energy_uj": 0},
            "intel-rapl:1": {"name": "psys", "energy_uj": 0},
            "intel-rapl-mmio:0": same,
        },
    )
    source = Rapl(tmp_path)
    for folder in tmp_path.iterdir():
        make(tmp_path, **{folder.name: {"energy_uj": 3_000_000}})
    assert source.joules() == pytest.approx(3.0)


def test_where_no_package_counts_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match=r"RAPL: .* has no package: the processor or the virtual machine"):
        Rapl(tmp_path)
    with pytest.raises(EnergyError, match="no package"):
        Rapl(tmp_path / "missing")


def test_where_only_root_may_read_it_says_how_to_change_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rapl(tmp_path, {"intel-rapl:0": 0})
    monkeypatch.setattr(Path, "read_text", _refuse(Path.read_text))
    with pytest.raises(EnergyError, match=r"RAPL: only root may read .*energy_uj: .*sudo chmod a\+r"):
        Rapl(tmp_path)


def _refuse(read_text):  # a test may be run by root, whom no mode of a file stops
    def refusing(self: Path, **options: str) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, **options)

    return refusing


def test_a_counter_that_says_no_number_is_named(tmp_path: Path) -> None:
    make(tmp_path, **{"intel-rapl:0": {"name": "package-0", "energy_uj": "many"}})
    with pytest.raises(EnergyError, match="energy_uj says 'many"):
        Rapl(tmp_path)


def test_a_counter_that_goes_away_is_an_error_of_the_system(tmp_path: Path) -> None:
    rapl(tmp_path, {"intel-rapl:0": 0})
    source = Rapl(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    with pytest.raises(OSError, match="no number"):
        source.joules()
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(FileNotFoundError):
        source.joules()


def test_it_measures_the_cpu(tmp_path: Path) -> None:
    source = Rapl(rapl(tmp_path, {"intel-rapl:0": 0}))
    assert source.measures(CpuDevice())
    assert not source.measures(SimDevice())
