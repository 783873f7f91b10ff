"""A made-up /sys: folders of files with a value each."""

from pathlib import Path

BATTERY = {"type": "Battery", "capacity": 64, "status": "Discharging", "power_now": 8_300_000}
ZONE = {
    "type": "acpitz",
    "temp": 50_000,
    "trip_point_0_type": "critical",
    "trip_point_0_temp": 100_000,
    "trip_point_1_type": "passive",
    "trip_point_1_temp": 80_000,
    "trip_point_2_type": "active",
    "trip_point_2_temp": 40_000,
}


def make(root: Path, **folders: dict[str, object]) -> Path:
    """Writes files, by folder and name; what is there already and not named stays."""
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (root / folder / name).write_text(f"{value}\n")
    return root


def rapl(root: Path, packages: dict[str, int], *, turn_uj: int = 1_000_000_000) -> Path:
    """The powercap tree of so many packages: the microjoules of each, by its folder."""
    for number, (folder, microjoules) in enumerate(packages.items()):
        files = {"name": f"package-{number}", "energy_uj": microjoules, "max_energy_range_uj": turn_uj}
        make(root, **{folder: files})
    return root
