"""The meter: the power state that battery and zones make, and what is looked for."""

from pathlib import Path

import pytest
from sysfs_maker import BATTERY, ZONE, make, rapl

from coro_rt import PowerState
from coro_rt.devices import Device
from coro_rt.devices.cpu import CpuDevice
from coro_rt.energy import Battery, Meter, Rapl, ThermalZones
from coro_rt.errors import EnergyError
from coro_rt.testing import SimDevice


def test_the_power_state_is_of_battery_and_zones(tmp_path: Path) -> None:
    battery = Battery(make(tmp_path / "supply", BAT0=BATTERY))
    thermal = ThermalZones(make(tmp_path / "thermal", thermal_zone0=ZONE | {"temp": 90_000}))
    assert Meter(battery=battery, thermal=thermal).power_state() == PowerState(0.64, False, 0.5)
    assert Meter(battery=battery).power_state() == PowerState(0.64, False)
    assert Meter(thermal=thermal).power_state() == PowerState(thermal=0.5)
    assert Meter().power_state() is None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a package, a battery and a zone."""
    rapl(tmp_path / "powercap", {"intel-rapl:0": 0})
    make(tmp_path / "supply", BAT0=BATTERY)
    make(tmp_path / "thermal", thermal_zone0=ZONE)
    monkeypatch.setattr("coro_rt.energy.meter._BY_KIND", {"cpu": lambda: Rapl(tmp_path / "powercap")})
    monkeypatch.setattr("coro_rt.energy.meter.Battery", lambda: Battery(tmp_path / "supply"))
    monkeypatch.setattr("coro_rt.energy.meter.ThermalZones", lambda: ThermalZones(tmp_path / "thermal"))
    return tmp_path


def test_what_there_is_is_found_for_the_devices_that_are_here(here: Path) -> None:
    meter = Meter.find({"cpu", "sim"})
    assert [source.name for source in meter.sources] == ["RAPL"]
    assert meter.power_state() == PowerState(0.64, False)
    assert not meter.missing


@pytest.mark.usefixtures("here")
def test_nothing_is_read_for_simulated_devices_alone() -> None:
    meter = Meter.find({"sim"})
    assert not meter.sources
    assert meter.power_state() is None


def test_what_is_missing_is_said_why(here: Path) -> None:
    (here / "powercap" / "intel-rapl:0" / "name").unlink()
    (line,) = Meter.find({"cpu"}).missing
    assert line.startswith("RAPL: ")


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (CpuDevice(threads=3), "measured by RAPL"),
        (SimDevice(watts=2.5), "modelled, 2.5 W while it works"),
        (SimDevice(), "not known"),
    ],
    ids=["measured", "modelled", "unknown"],
)
def test_where_a_devices_figures_come_from(here: Path, device: Device, said: str) -> None:
    assert Meter.find({"cpu"}).describe(device) == said


def test_the_cpus_model_is_five_watts_a_thread() -> None:
    assert Meter().describe(CpuDevice(threads=3)) == "modelled, 15 W while it works"


def test_a_source_that_is_none_is_an_error() -> None:
    with pytest.raises(EnergyError, match="sources are objects of subclasses of EnergySource, not 'RAPL'"):
        Meter(["RAPL"])  # type: ignore[list-item]
