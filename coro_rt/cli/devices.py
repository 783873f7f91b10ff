"""`coro-rt devices`: what kernels can run on here."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.markup import escape
from rich.table import Table

from coro_rt.cli.options import with_json
from coro_rt.cli.output import Output


@click.command()
@with_json
def devices(output: Output) -> None:
    """List the devices, and why one cannot be used."""
    from coro_rt.devices import available  # here: it loads numpy
    from coro_rt.energy import Meter
    from coro_rt.kernels.isa import choose

    found = [asdict(info) for info in available()]
    for device in found:
        if device["kind"] == "cpu":
            device["detail"] += f", {choose()} kernels"
    table = Table("name", "kind", "available", "detail", "energy")
    for device in found:
        detail = "\n".join([device["detail"], *(f"not here: {line}" for line in device["missing"])])
        table.add_row(
            device["name"],
            device["kind"],
            "yes" if device["available"] else "no",
            escape(detail),  # extras are written in brackets, as markup is
            escape(device["energy"]),
        )
    output.table(table)
    meter = Meter.find({"cpu"})
    power = meter.power_state()
    if meter.battery is not None:
        output.line(f"battery: {meter.battery.read()}")
    if power is not None and power.thermal < 1:
        output.line(f"heat leaves {power.thermal:.0%} of full speed")
    output.json({"devices": found, "power": None if power is None else asdict(power)})
