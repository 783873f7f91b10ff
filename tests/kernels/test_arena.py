"""Memory for kernels: pieces start on cache lines, and lie as they are read."""

import numpy as np

from coro_rt.kernels.memory import CACHE_LINE, Arena, aligned_empty, aligned_zeros


def test_every_piece_starts_on_a_cache_line() -> None:
    arena = Arena(10_000)
    pieces = [arena.empty(100), arena.empty(64), arena.empty(5_000), aligned_empty(7), aligned_zeros(1 << 20)]
    assert all(piece.ctypes.data % CACHE_LINE == 0 for piece in pieces)
    assert [piece.nbytes for piece in pieces] == [100, 64, 5_000, 7, 1 << 20]


def test_an_arenas_pieces_lie_one_behind_the_other_and_do_not_overlap() -> None:
    arena = Arena(1_000)
    first, second = arena.empty(100), arena.empty(200)
    assert second.ctypes.data - first.ctypes.data == 128
    first[:], second[:] = 1, 2
    assert (first == 1).all()
    assert (second == 2).all()


def test_what_an_arena_has_no_room_for_is_elsewhere() -> None:
    arena = Arena(256)
    inside, outside, behind = arena.empty(128), arena.empty(256), arena.empty(128)
    assert outside.nbytes == 256
    assert not np.shares_memory(inside, outside)
    assert behind.ctypes.data - inside.ctypes.data == 128


def test_an_arena_of_nothing_gives_memory_all_the_same() -> None:
    assert Arena(0).empty(64).nbytes == 64
