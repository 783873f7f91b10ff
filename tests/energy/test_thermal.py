"""Heat, on made-up trees."""

from pathlib import Path

import pytest
from sysfs_maker import ZONE, make

from coro_rt.energy import ThermalZones
from coro_rt.errors import EnergyError

COOLER = {"type": "Processor", "cur_state": 0, "max_state": 9}


@pytest.mark.parametrize(
    ("celsius", "left"), [(50, 1.0), (80, 1.0), (84, 0.8), (90, 0.5), (100, 0.0), (120, 0.0), (-10, 1.0)]
)
def test_from_the_passive_to_the_critical_trip_point_less_and_less_is_left(
    tmp_path: Path, celsius: int, left: float
) -> None:
    make(tmp_path, thermal_zone0=ZONE | {"temp": celsius * 1000})
    assert ThermalZones(tmp_path).read() == left


@pytest.mark.parametrize(("state", "left"), [(0, 1.0), (3, 0.7), (9, 0.1), (-1, 1.0)])
def test_what_has_slowed_the_processor_says_how_far(tmp_path: Path, state: int, left: float) -> None:
    make(tmp_path, cooling_device0=COOLER | {"cur_state": state}, thermal_zone0=ZONE)
    assert ThermalZones(tmp_path).read() == left


def test_the_hottest_counts(tmp_path: Path) -> None:
    make(tmp_path, thermal_zone0=ZONE, thermal_zone1=ZONE | {"temp": 94_000}, cooling_device0=COOLER)
    assert ThermalZones(tmp_path).read() == 0.3


def test_a_zone_that_cannot_be_read_any_more_counts_as_cool(tmp_path: Path) -> None:
    make(tmp_path, thermal_zone0=ZONE | {"temp": 94_000})
    zones = ThermalZones(tmp_path)
    (tmp_path / "thermal_zone0" / "temp").unlink()
    assert zones.read() == 1.0


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"thermal_zone0": {"type": "x86_pkg_temp", "temp": 99_000}},
        {"thermal_zone0": ZONE | {"trip_point_1_temp": -274_000}},
        {"thermal_zone0": ZONE | {"trip_point_1_temp": 100_000}},
        {"cooling_device0": {"type": "Fan", "cur_state": 1, "max_state": 5}},
        {"cooling_device0": COOLER | {"max_state": 0}},
    ],
    ids=["nothing", "no trip points", "one not set", "no room between", "a fan", "a cooler without steps"],
)
def test_where_nothing_says_when_it_slows_the_machine_it_says_so(
    tmp_path: Path, tree: dict[str, dict[str, object]]
) -> None:
    make(tmp_path, **tree)
    with pytest.raises(EnergyError, match="no zone or cooler that says when heat slows the machine"):
        ThermalZones(tmp_path)
