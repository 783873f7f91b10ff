"""`coro-rt quantize`: a smaller file from one in floating point, and what that costs in accuracy."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from coro_rt.cli.options import with_json
from coro_rt.cli.output import Output
from coro_rt.llm.catalog import resolve

if TYPE_CHECKING:
    from coro_rt.llm.quantize import Report

TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k")
"""Those of `coro_rt.llm.quantize`, which takes half a second to import."""

REDRAW_S = 0.1


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--type", "kind", required=True, type=click.Choice(TYPES), help="What the matrices become.")
@with_json
def quantize(output: Output, source: str, target: Path, kind: str) -> None:
    """Write the model IN to the GGUF file OUT, with smaller weights.

    IN is a GGUF file with F32, F16 or BF16 tensors, a folder with config.json, model.safetensors and
    tokenizer.json, or the name of a model that has been pulled.
    """
    path = resolve(source)
    from coro_rt.llm.quantize import quantize as run

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    progress = output.progress(*columns)
    bar = progress.add_task(kind, total=None)
    drawn = 0.0

    def report(done: int, total: int) -> None:
        nonlocal drawn
        if (now := time.monotonic()) - drawn > REDRAW_S:
            progress.update(bar, completed=done, total=total, refresh=True)
            drawn = now

    with progress:
        result = run(path, target, kind, progress=report)
    _show(output, result)
    output.json(_as_json(result))


def _show(output: Output, result: Report) -> None:
    table = Table("tensor", "shape", "from", "to", "error", "largest")
    rounded = [tensor for tensor in result.tensors if tensor.target != "F32" or tensor.rms_error > 0]
    for tensor in rounded:
        table.add_row(
            tensor.name,
            " x ".join(map(str, tensor.shape)),
            tensor.source,
            tensor.target + ("*" if tensor.note else ""),
            f"{tensor.rms_error:.3%}",
            f"{tensor.max_error:.1%}",
        )
    if rounded:
        output.table(table)
        output.line(
            "errors: root mean square, and the largest, by the root mean square of the tensor's values"
        )
    for note in sorted({tensor.note for tensor in rounded if tensor.note}):
        output.line(f"*: {note}")
    kept = len(result.tensors) - len(rounded)
    before, after = result.source_bytes, result.target_bytes
    output.line(
        f"{result.target}: {after / 1e6:.1f} MB, {after / before:.0%} of the {before / 1e6:.1f} MB before; "
        f"{kept} of {len(result.tensors)} tensors are exact"
    )


def _as_json(result: Report) -> dict[str, Any]:
    return asdict(result) | {"source": str(result.source), "target": str(result.target)}
