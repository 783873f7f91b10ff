"""Matrices as GPU kernels read them; what those make of them is tested where there is a GPU."""

import numpy as np
import pytest

from coro_rt.kernels.formats import Format
from coro_rt.kernels.packed import PackedMatrix
from coro_rt.kernels.planar import PlanarMatrix
from coro_rt.kernels.shaders import PARTS, format_constants, lanes, source

ROWS, COLUMNS = 2100, 512


def raw(form: Format, rows: int = ROWS) -> np.ndarray:
    values = np.random.default_rng(4).standard_normal((rows, COLUMNS), dtype=np.float32)
    return form.quantize(values)


def same(a: PlanarMatrix, b: PlanarMatrix) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("codes", "scales", "upper"))


@pytest.mark.parametrize("form", Format.known.values(), ids=lambda form: form.name)
def test_it_is_the_same_from_a_file_in_parts_and_from_the_cpus_layout(form: Format) -> None:
    blocks = raw(form)
    whole = PlanarMatrix.pack(form, (blocks, (ROWS, COLUMNS)))
    first = 37 * form.row_bytes(COLUMNS)
    parts = (blocks[:first], (37, COLUMNS)), (blocks[first:], (ROWS - 37, COLUMNS))
    assert same(PlanarMatrix.pack(form, *parts), whole)
    packed = PackedMatrix.pack(form, *parts)
    if form.quantized:
        assert same(PlanarMatrix.of_parts(form, packed.parts()), whole)
    else:
        assert same(PlanarMatrix.of_blocks(form, COLUMNS, packed.values()), whole)


@pytest.mark.parametrize("form", Format.known.values(), ids=lambda form: form.name)
def test_it_takes_at_most_three_percent_more_than_the_file(form: Format) -> None:
    planar = PlanarMatrix.pack(form, (raw(form, 16), (16, COLUMNS)))
    assert (planar.rows, planar.columns) == (16, COLUMNS)
    assert planar.nbytes <= 1.03 * 16 * form.row_bytes(COLUMNS)


def test_widths_that_differ_are_refused() -> None:
    form = Format.known["Q8_0"]
    with pytest.raises(ValueError, match=r"one width, whole blocks, not \[512, 256\]"):
        PlanarMatrix.pack(form, (raw(form), (ROWS, 512)), (raw(form), (2 * ROWS, 256)))


@pytest.mark.parametrize("blocks", [1, 5, 18, 48, 280, 1000])
def test_lanes_that_share_a_row_are_many_if_few_are_idle(blocks: int) -> None:
    count = lanes(blocks * 32)
    assert count in (8, 16, 32)
    assert count == 8 or blocks / (-(-blocks // count) * count) >= 0.85


@pytest.mark.parametrize("kernel", PARTS)
def test_a_source_begins_with_its_constants(kernel: str) -> None:
    form = Format.known["Q6_K"]
    text = source(kernel, form=form, SIZE=64, HALVES=True)
    assert text.startswith("const SIZE: u32 = 64;\nconst HALVES: bool = true;\nconst BITS: u32 = 6;\n")
    assert all(f"const {name}: " in text for name in format_constants(form))
    assert text.count("fn main(") == 1
