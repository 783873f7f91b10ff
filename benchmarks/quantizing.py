"""What quantizing does to an embedding model: size, speed, and the similarity of sentences.

The model is quantized to each type, all are loaded side by side, and embed the same texts in turns. Of each:
the file's size; texts per second, all given at once, and the time of one alone (medians of the turns); the
cosine between its vectors and those of F32; and for pairs of sentences, how their similarities agree with
F32's: correlation (Pearson's, and Spearman's of the ranks, which is what a search depends on), mean and
largest difference. "plain" are the same types without the search for scales, rounded to the grid between the
extremes.

python -m benchmarks.quantizing --json out.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "benchmarks"

import anyio
import click
import numpy as np
from rich.console import Console
from rich.table import Table

import coro_rt
from benchmarks.pairs import PAIRS
from coro_rt.bench.machine import describe
from coro_rt.bench.measure import spread
from coro_rt.kernels.formats import Bytes, Floats, Format
from coro_rt.llm.catalog import pull
from coro_rt.llm.quantize import quantize

TYPES = ("f32", "f16", "q8_0", "q6_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0")
SINGLES = 5  # a turn
PLAIN = ("q8_0", "q4_1", "q4_0")


@click.command()
@click.option("--model", default="all-minilm-l6-v2", show_default=True, help="An encoder of the catalogue.")
@click.option("--repeat", default=15, show_default=True, help="Turns, interleaved among the types.")
@click.option("--threads", type=int, help="Threads of the kernels.  [default: all]")
@click.option("--json", "json_file", type=click.File("w"), help="Write all figures to a file; - for stdout.")
def main(model: str, repeat: int, threads: int | None, json_file: Any) -> None:
    """Size, speed and similarity of a quantized embedding model."""
    with tempfile.TemporaryDirectory() as folder:
        files = dict(_quantized(pull(model), Path(folder)))
        rows = anyio.run(partial(_measure, files, repeat=repeat, threads=threads), backend="trio")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.5g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(stderr=json_file is not None, width=140).print(table)
    if json_file is not None:
        json.dump(
            {"machine": describe(), "model": model, "pairs": len(PAIRS), "rows": rows}, json_file, indent=2
        )


def _quantized(source: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    for kind in TYPES:
        quantize(source, folder / f"{kind}.gguf", kind)
        yield kind.upper(), folder / f"{kind}.gguf"
    with _plainly():
        for kind in PLAIN:
            quantize(source, folder / f"{kind}-plain.gguf", kind)
            yield f"{kind.upper()}, plain", folder / f"{kind}-plain.gguf"


@contextmanager
def _plainly() -> Iterator[None]:
    """Without the search for scales."""
    searching: Any = Format.quantize

    def plain(self: Format, values: Floats, *, search: bool = False) -> Bytes:
        raw: Bytes = searching(self, values, search=False)
        return raw

    Format.quantize = plain  # type: ignore[method-assign]
    try:
        yield
    finally:
        Format.quantize = searching  # type: ignore[method-assign]


async def _measure(files: dict[str, Path], *, repeat: int, threads: int | None) -> list[dict[str, Any]]:
    sizes = {name: os.stat(path).st_size for name, path in files.items()}
    sentences = [sentence for pair in PAIRS for sentence in pair]
    async with coro_rt.open_runtime(threads=threads) as runtime, AsyncExitStack() as stack:
        models = {
            name: await stack.enter_async_context(await runtime.load_model(path))
            for name, path in files.items()
        }
        vectors = {name: await llm.embed(sentences) for name, llm in models.items()}
        rates: dict[str, list[float]] = {name: [] for name in models}
        singles: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(repeat):
            for name, llm in models.items():
                began = time.perf_counter()
                await llm.embed(sentences)
                rates[name].append(len(sentences) / (time.perf_counter() - began))
                for _ in range(SINGLES):
                    began = time.perf_counter()
                    await llm.embed(sentences[:1])
                    singles[name].append(time.perf_counter() - began)
    exact = vectors["F32"]
    reference = _similarities(exact)
    rows = []
    for name in files:
        cosines, similarities = (vectors[name] * exact).sum(1), _similarities(vectors[name])
        off = np.abs(similarities - reference)
        low, high = spread(rates[name])
        rows.append(
            {
                "type": name,
                "MB": round(sizes[name] / 1e6, 1),
                "texts/s": round(median(rates[name])),
                "quartiles": f"{low:.0f}-{high:.0f}",
                "one text, ms": round(median(singles[name]) * 1000, 2),
                "cosine": float(np.mean(cosines)),
                "least": float(cosines.min()),
                "Pearson": _correlation(similarities, reference),
                "Spearman": _correlation(_ranks(similarities), _ranks(reference)),
                "mean off": float(off.mean()),
                "most off": float(off.max()),
            }
        )
    return rows


def _similarities(vectors: Floats) -> Floats:
    """The cosine of each pair."""
    cosines: Floats = (vectors[0::2] * vectors[1::2]).sum(1)
    return cosines


def _ranks(values: Floats) -> Floats:
    ranks: Floats = np.argsort(np.argsort(values)).astype(np.float32)
    return ranks


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1])


if __name__ == "__main__":
    main()
