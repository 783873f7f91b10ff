"""Weights in 4 bits beside 8 and 32: bytes, speed and exactness of one matrix product, by our own kernels.

Two cases, as in a model: one row of activations, as when it writes, with a matrix that is in no cache; and
128 rows, as when it reads a prompt.
"""

from __future__ import annotations

import numpy as np

from coro_rt.bench.machine import last_cache_bytes
from coro_rt.bench.matrices import COLUMNS, Case, taller, values
from coro_rt.compare.statistics import Figures, Noise
from coro_rt.devices.cpu import usable_cpus
from coro_rt.kernels.formats import Format
from coro_rt.kernels.gang import Gang
from coro_rt.kernels.launch import matmul
from coro_rt.kernels.packed import PackedMatrix

BYTES, WRITING, READING = "bytes per weight", "product, 1 row", "product, 128 rows"
COSINE = "cosine to the exact product"
INT4, INT8, FLOAT = "Q4_0", "Q8_0", "F32"
NAMES = (INT4, "Q4_1", INT8, FLOAT)


def measure(figures: Figures, repeat: int, noise: Noise, *, large: int | None = None) -> None:
    """Per weight: bytes, and picoseconds of a product; the product's cosine to that with the exact weights.

    `large`: weights of the matrix that is to be in no cache.
    """
    weights = large or max(4 * last_cache_bytes(), 64 << 20)
    height = -(-weights // COLUMNS // COLUMNS) * COLUMNS
    floats, activations = values(COLUMNS), values(8)
    exact = activations @ floats.T
    gang = Gang(usable_cpus())
    gang.start()
    try:
        cases: list[tuple[str, str, Case]] = []
        for name in NAMES:
            form = Format.known[name]
            small = PackedMatrix.from_float(form, floats)
            found = matmul(small, activations, on=gang)
            figures.add(BYTES, name, "B", form.row_bytes(COLUMNS) / COLUMNS)
            cosine = np.vdot(found, exact) / (np.linalg.norm(found) * np.linalg.norm(exact))
            figures.add(COSINE, name, "", float(cosine))
            cases.append((WRITING, name, Case(taller(small, height), 1, gang)))
            cases.append((READING, name, Case(small, 128, gang)))
        for _ in range(repeat):
            noise.look()
            for what, name, case in cases:
                count = case.weight.rows * COLUMNS * case.rows
                figures.add(what, name, "ps", case.seconds() / count * 1e12)
    finally:
        gang.close()
