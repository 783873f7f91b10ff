"""Weight matrices on the device, in as many pieces as bindings are small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coro_rt.kernels.formats import Format
from coro_rt.kernels.planar import PlanarMatrix

from .device import GpuDevice


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `first` … first+rows-1 of a matrix. `upper`: where in `scales` the upper bits begin, in words."""

    first: int
    rows: int
    codes: Any
    scales: Any
    scales_stride: int
    upper: int


class GpuMatrix:
    """A matrix [rows, columns]; read-only."""

    def __init__(self, device: GpuDevice, matrix: PlanarMatrix) -> None:
        self.format: Format = matrix.format
        self.rows, self.columns = matrix.rows, matrix.columns
        self.pieces: list[Piece] = []
        row_bytes = max(matrix.codes[0].nbytes, matrix.scales[0].nbytes + matrix.upper[0].nbytes)
        # one row at least, however small bindings are made
        step = max(device.max_binding // row_bytes, 1)
        for first in range(0, self.rows, step):
            codes, scales, upper = (
                plane[first : first + step] for plane in (matrix.codes, matrix.scales, matrix.upper)
            )
            small = np.concatenate([scales.reshape(-1), upper.reshape(-1)])
            self.pieces.append(
                Piece(
                    first,
                    len(codes),
                    device.upload(codes),
                    device.upload(small),
                    scales.shape[1],
                    scales.size,
                )
            )
