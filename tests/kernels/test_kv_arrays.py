"""Keys and values that are written as arrays are those that the kernels write, to the byte."""

import numpy as np
import pytest

from coro_rt.kernels import kv_arrays, kv_words
from coro_rt.kernels.gang import Gang
from coro_rt.kernels.kv import KVShape, new_page, round_reference
from coro_rt.kernels.program import Buffer, Program
from coro_rt.kernels.workspace import Widths, Workspace

HEADS, SIZE, LAYERS = 2, 32, 3


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    k, v = rng.standard_normal((2, count, HEADS, SIZE), dtype=np.float32)
    k[0] = 0
    return k, v


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize(("start", "count"), [(0, 1), (0, 64), (5, 20), (60, 150)])
def test_a_page_has_the_bytes_that_a_kernel_would_write(bits: int, start: int, count: int) -> None:
    kv = KVShape(LAYERS, HEADS, SIZE, bits)
    k, v = rows(count)
    ours, theirs = ([new_page(kv) for _ in range(4)] for _ in range(2))
    tables = [np.array([page.ctypes.data for page in pages], np.int64) for pages in (ours, theirs)]
    kv_arrays.write(kv, tables[0], 1, start, k, v)

    program = Program()
    still = np.zeros((start + count, 0, 2), np.float32)
    program.rope_kv(kv, 1, HEADS, still, halves=False, qkv=Buffer.QKV)
    program.finish()
    widths = Widths(32, 3 * HEADS * SIZE, 32, 32, 32, start + count, HEADS)
    workspace = Workspace(widths, rows=count, tail=1, threads=1)
    positions = np.arange(start, start + count, dtype=np.int32)
    workspace.begin(np.zeros(count, np.int32), positions, [tables[1]] * count, tail=1)
    blank = np.zeros((count, HEADS * SIZE), np.float32)
    filled = np.concatenate([blank, k.reshape(count, -1), v.reshape(count, -1)], axis=1)
    workspace.floats(Buffer.QKV)[:, : filled.shape[1]] = filled
    Gang(1).run(program, workspace)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("bits", [16, 8])
def test_what_was_written_is_read_back_as_the_cache_rounds_it(bits: int) -> None:
    kv = KVShape(LAYERS, HEADS, SIZE, bits)
    k, v = rows(100)
    pages = [new_page(kv) for _ in range(2)]
    table = np.array([page.ctypes.data for page in pages], np.int64)
    kv_arrays.write(kv, table, 2, 0, k, v)
    got = np.zeros((2, 128, HEADS, SIZE), np.float16)
    kv_arrays.read(kv, table, 2, 100, got[0], got[1])
    for mine, given in zip(got, (k, v), strict=True):
        want = round_reference(given, bits)
        assert np.abs(mine[:100] - want).max() <= np.abs(want).max() * 2**-11  # float16
        assert not mine[100:].any()


@pytest.mark.parametrize("bits", [16, 8])
def test_what_a_cpu_keeps_goes_to_a_gpu_and_back_to_the_byte(bits: int) -> None:
    kv = KVShape(LAYERS, HEADS, SIZE, bits)
    k, v = rows(100)
    ours, theirs = ([new_page(kv) for _ in range(2)] for _ in range(2))
    tables = [np.array([page.ctypes.data for page in pages], np.int64) for pages in (ours, theirs)]
    kv_arrays.write(kv, tables[0], 1, 0, k, v)
    data = kv_words.pack(kv, *kv_arrays.take(kv, tables[0], 1, 100, 128))
    assert data.shape == (2, kv.layer_bytes)
    kv_arrays.put(kv, tables[1], 1, 0, *kv_words.unpack(kv, data))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert any(page.any() for page in theirs)

    stored_k, stored_v, scales = kv_arrays.take(kv, tables[0], 1, 100, 128)
    position, head, at = 70, 1, 6
    page, slot, per = position // 64, position % 64, 32 // bits
    words = data.view(stored_k.dtype).reshape(2, HEADS, -1)[page, head]  # as `cache.wgsl` finds them
    assert words[((at // per) * 64 + slot) * per + at % per] == stored_k[position, head, at]
    assert words[64 * SIZE + slot * SIZE + at] == stored_v[position, head, at]
    if bits == 8:
        pairs = data.view(np.float16).reshape(2, HEADS, -1)[page, head, 64 * SIZE :]
        assert list(pairs[2 * slot : 2 * slot + 2]) == list(scales[head, :, position])
