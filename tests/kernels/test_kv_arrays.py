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


def test_a_gpus_pages_hold_what_was_put_into_them() -> None:
    kv = KVShape(LAYERS, HEADS, SIZE)
    k, v = (values.astype(np.float16) for values in rows(128))
    data = kv_words.pack(kv, k, v)
    assert data.shape == (2, kv_words.page_layer_bytes(kv))
    assert all(np.array_equal(a, b) for a, b in zip(kv_words.unpack(kv, data), (k, v), strict=True))
    words = data.view(np.float16).reshape(2, HEADS, -1)  # as `cache.wgsl` finds them
    position, head, at = 70, 1, 6
    page, slot = divmod(position, 64)
    assert words[page, head, ((at // 2) * 64 + slot) * 2 + at % 2] == k[position, head, at]
    assert words[page, head, 64 * SIZE + slot * SIZE + at] == v[position, head, at]
