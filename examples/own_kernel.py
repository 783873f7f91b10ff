"""A job with a kernel of one's own: how bright a photograph is, computed beside urgent questions.

The kernel is a plain function over a range, compiled by numba without the GIL. The runtime calls it with
parts that take about a millisecond, so an urgent job never waits longer than that, however large the picture.
"""

import time

import anyio
import numba
import numpy as np
from numpy.typing import NDArray

import coro_rt
from coro_rt import QoS


@coro_rt.kernel(size=lambda rows, sums: len(rows))
@numba.njit("void(int64, int64, float32[:, ::1], float64[::1])", nogil=True)
def sum_rows(start: int, stop: int, rows: NDArray[np.float32], sums: NDArray[np.float64]) -> None:
    """Sums of rows start to stop."""
    for i in range(start, stop):
        total = 0.0
        for j in range(rows.shape[1]):
            total += rows[i, j]
        sums[i] = total


async def brightness(picture: NDArray[np.float32]) -> float:
    """A job: the mean of a picture."""
    sums = np.empty(len(picture), np.float64)
    for _ in range(20):  # a busy photographer
        await sum_rows(picture, sums)
    return float(sums.sum() / picture.size)


async def main() -> None:
    picture = np.random.default_rng(0).random((4000, 3000), np.float32)
    async with coro_rt.open_runtime() as runtime, anyio.create_task_group() as tg:

        async def background() -> None:
            async with runtime.start(brightness, picture) as job:
                mean = await job.result()
            used = job.ledger
            print(f"the picture's mean is {mean:.3f}: {used.quanta} calls, {used.device_s:.3f} s")

        with coro_rt.qos(QoS.BACKGROUND):
            tg.start_soon(background)
        await anyio.sleep(0.02)
        began = time.perf_counter()
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            mean = await runtime.run(brightness, picture[:10])
        took_ms = (time.perf_counter() - began) * 1e3
        print(f"meanwhile, ten rows: {mean:.3f}, asked and answered in {took_ms:.1f} ms")


if __name__ == "__main__":
    anyio.run(main)
