"""Every operation agrees with its NumPy reference within the named bound, over the CPU's list of cases; and
so do weights that were requantized, and products with them.
"""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra is not installed: pip install 'coro-rt[npu]'")

from coro_rt.devices.npu import NpuDevice
from coro_rt.devices.npu.graph import Graph, Numbers
from coro_rt.devices.npu.program import MASKED, NpuMatrix, NpuProgram, Shape, mask
from coro_rt.devices.npu.single import OnNpu
from coro_rt.kernels import requantized
from coro_rt.kernels.cases import Case, cases
from coro_rt.kernels.formats import Format
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.requantized import Requantized

pytestmark = pytest.mark.npu

# Reading a prompt has no head, so nothing is summed up on an NPU.
ALL = [case for case in cases() if not case.needs and not case.name.startswith("best_and_log_sum")]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_implementation_agrees_with_the_reference(case: Case, npu: NpuDevice) -> None:
    assert case.worst(OnNpu(npu)) <= case.bound


SHAPES = [(1, 1, 1), (16, 2, 3), (33, 3, 4), (192, 18, 1)]  # rows, blocks, T


def matrix(form: Format, rows: int, blocks: int) -> tuple[NpuMatrix, np.ndarray]:
    """A random matrix in a format, and its values."""
    columns = blocks * max(form.unit, 32)
    values = np.random.default_rng(rows).standard_normal((rows, columns), dtype=np.float32)
    raw = form.quantize(values)
    return NpuMatrix(form, rows, columns, ((raw, (rows, columns)),)), form.dequantize(raw, (rows, columns))


def product(npu: NpuDevice, w: NpuMatrix, x: np.ndarray, numbers: Any) -> np.ndarray:
    program = NpuProgram()
    program.matmul(w, source=Buffer.NORMED, out=Buffer.QKV)
    graph = Graph(Shape(len(x), 0), numbers)
    graph.add(program, range(1))
    graph.give(Buffer.QKV)
    outputs = npu.run(npu.open(graph.model().SerializeToString()), {"in.NORMED": x})
    assert outputs is not None
    result: np.ndarray = outputs["QKV"]
    return result


@pytest.mark.parametrize("form", Format.known.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_with_requantized_weights_is_within_its_bound(
    form: Format, bits: int, npu: NpuDevice
) -> None:
    for rows, blocks, count in SHAPES:
        w, values = matrix(form, rows, blocks)
        x = np.random.default_rng(count).standard_normal((count, w.columns), dtype=np.float32)
        kept = requantized.to_int8(values)
        if bits == 4:
            kept = requantized.to_int4(form, w.raw(), values.shape)
        weights = "int4" if bits == 4 else "int8"
        off = np.abs(product(npu, w, x, Numbers(weights)) - requantized.product_reference(kept, x))
        assert off.max() <= requantized.product_error_bound(kept, x)


@pytest.mark.parametrize("form", Format.known.values(), ids=lambda form: form.name)
def test_requantizing_changes_a_weight_by_no_more_than_its_bound(form: Format) -> None:
    for rows, blocks, _ in SHAPES:
        w, values = matrix(form, rows, blocks)
        for kept in (requantized.to_int8(values), requantized.to_int4(form, w.raw(), values.shape)):
            assert (np.abs(kept.dequantize() - values) <= requantized.error_bound(kept)).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q4_K"])
def test_formats_of_four_bits_lose_nothing_in_int4(name: str) -> None:
    form = Format.known[name]
    w, values = matrix(form, 33, 3)
    kept: Requantized = requantized.to_int4(form, w.raw(), values.shape)
    assert kept.codes.min() >= -8
    assert kept.codes.max() <= 7
    assert (kept.offsets is None) == (name == "Q4_0")
    assert np.allclose(kept.dequantize(), values, rtol=0, atol=np.abs(values).max() * 2**-22)


def test_rows_of_zeros_stay_zeros() -> None:
    blank = np.zeros((3, 64), np.float32)
    assert not requantized.to_int8(blank).dequantize().any()


@pytest.mark.parametrize(("bits", "largest_code"), [(8, 127), (16, 32767)])
def test_integer_activations_are_rounded_to_the_range_that_was_learned(
    bits: int, largest_code: int, npu: NpuDevice
) -> None:
    w, values = matrix(Format.known["F32"], 16, 2)
    x = np.random.default_rng(1).standard_normal((5, w.columns), dtype=np.float32)
    largest = float(np.abs(x).max())
    step = np.float32(largest / largest_code)
    got = product(npu, w, x, Numbers("float32", ranges={0: largest}, bits=bits))
    exact = np.abs(x).max() * np.abs(values).sum(1).max() * np.finfo(np.float32).eps * 4
    assert np.abs(got - (np.rint(x / step) * step) @ values.T).max() <= exact
    assert np.abs(got - x @ values.T).max() > exact  # or nothing was rounded


def test_a_mask_hides_what_comes_later_padding_and_what_is_behind_the_window() -> None:
    seen = mask(Shape(3, 8), 5, 0) == 0
    assert (mask(Shape(3, 8), 5, 0)[~seen] == MASKED).all()
    assert seen.tolist() == [
        [*[True] * 5, *[False] * 3, True, False, False],
        [*[True] * 5, *[False] * 3, True, True, False],
        [*[True] * 5, *[False] * 3, True, True, True],
    ]
    assert (mask(Shape(3, 8), 5, 3) == 0).tolist() == [
        [*[False] * 3, True, True, *[False] * 3, True, False, False],
        [*[False] * 4, True, *[False] * 3, True, True, False],
        [*[False] * 5, *[False] * 3, True, True, True],
    ]
