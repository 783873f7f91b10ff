"""Matrix products on a GPU beside its memory's limit, and what a model does there.

python benchmarks/gpu.py [--small] [MODEL.gguf]

Products have the shapes of a model of 1.5 billion parameters. Each is a program of many matrices, together
larger than caches are, run as one submission and timed by the device's time stamps, so neither the host nor
the gaps between submissions count; of five runs, the median. The limit is what a kernel reaches that only
reads 1 GiB. Few rows are bound by the bytes of the weights, many by the products. With a model's file, its
rates of reading and of writing, by the clock, all overheads included. `--small`: 16 MiB of everything, for
software adapters.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import anyio
import click
import numpy as np
from rich.console import Console
from rich.table import Table

from coro_rt import open_runtime
from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.matrix import GpuMatrix
from coro_rt.devices.gpu.program import GpuProgram
from coro_rt.devices.gpu.workspace import GpuWorkspace
from coro_rt.kernels.formats import Format
from coro_rt.kernels.planar import PlanarMatrix
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.workspace import Widths

RUNS = 5
ROWS = (1, 4, 16, 128)
MATRICES = {  # of Qwen2.5 1.5B
    "queries, keys, values": (2048, 1536),
    "output": (1536, 1536),
    "gate, up": (17920, 1536),
    "down": (1536, 8960),
    "head": (151936, 1536),
}
READ = """
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var sum = vec4(0u);
    for (var i = at.x; i < arrayLength(&x); i += groups.x * 256u) {
        sum ^= x[i];
    }
    if (sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x12345u {
        y[0] = 1u;
    }
}
"""


def read_limit(device: GpuDevice, nbytes: int) -> float:
    """Bytes per second of reading a buffer, the best of five runs, by the clock."""
    nbytes = min(nbytes, device.max_binding)
    buffer, out, gpu = device.buffer(nbytes), device.buffer(16), device.device
    pipeline = gpu.create_compute_pipeline(
        layout="auto", compute={"module": gpu.create_shader_module(code=READ), "entry_point": "main"}
    )
    entries = [
        {"binding": at, "resource": {"buffer": each, "offset": 0, "size": each.size}}
        for at, each in enumerate((buffer, out))
    ]
    group = gpu.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)

    def seconds(times: int) -> float:
        began = time.perf_counter()
        encoder = gpu.create_command_encoder()
        begun = encoder.begin_compute_pass()
        begun.set_pipeline(pipeline)
        begun.set_bind_group(0, group)
        for _ in range(times):
            begun.dispatch_workgroups(2048)
        begun.end()
        gpu.queue.submit([encoder.finish()])
        device.read(out, 16)
        return time.perf_counter() - began

    seconds(1)
    # the difference has neither the submission nor the way back in it
    return max(8 * nbytes / max(seconds(9) - seconds(1), 1e-9) for _ in range(RUNS))


def product(device: GpuDevice, form: Format, shape: tuple[int, int], rows: int, nbytes: int) -> float:
    """Seconds of one product of `rows` rows with a matrix that is not in a cache."""
    height, columns = shape
    values = np.random.default_rng(0).standard_normal((256, columns), dtype=np.float32)
    raw = np.tile(form.quantize(values), -(-height // 256))[: height * form.row_bytes(columns)]
    planar = PlanarMatrix.pack(form, (raw, shape))
    count = max(nbytes // planar.nbytes, 1)
    widths = Widths(hidden=columns, qkv=height, attended=32, gated=32, vocabulary=32, context=64)
    program = GpuProgram(device, widths)
    for _ in range(count):
        program.matmul(GpuMatrix(device, planar), source=Buffer.QNORMED, out=Buffer.QKV)
    program.finish()
    workspace = GpuWorkspace(device, widths, rows=rows, tail=1)
    table = np.zeros(1, np.int64)
    took = []
    for _ in range(RUNS + 1):
        workspace.begin(np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32), [table] * rows, tail=0)
        before = device.counts.busy_s
        device.run(program, workspace)
        took.append((device.counts.busy_s - before) / count)
    workspace.release()
    return median(took[1:])


async def model_rates(path: Path) -> tuple[float, float]:
    """Tokens per second: of a prompt of 512 tokens, and of 64 tokens after it."""
    async with (
        open_runtime(devices=["gpu"]) as runtime,
        await runtime.load_model(path, context=1024, device="gpu", prefix_reuse=False) as llm,
    ):
        prompt = np.random.default_rng(0).integers(300, 3000, 512).tolist()
        rates = []
        for _ in range(2):  # the first compiles
            began = time.perf_counter()
            async with llm.generate(prompt, max_tokens=65, ignore_eos=True) as stream:
                first = 0.0
                async for _token in stream:
                    first = first or time.perf_counter()
            rates.append((512 / (first - began), 64 / (time.perf_counter() - first)))
            prompt = prompt[::-1]
    return rates[-1]


@click.command()
@click.option("--small", is_flag=True, help="16 MiB of everything, for software adapters.")
@click.argument("model", type=click.Path(exists=True, path_type=Path), required=False)
def main(small: bool, model: Path | None) -> None:
    """Print the tables."""
    console, nbytes = Console(), 2**24 if small else 2**30
    device = GpuDevice(quantum_s=1e9)  # one submission, however long
    device.start()
    limit = read_limit(device, nbytes)
    console.print(device.detail)
    console.print(f"reading memory: {limit / 1e9:.0f} GB/s")
    table = Table(
        "matrix", "format", *(f"{rows} row{'s' * (rows > 1)}" for rows in ROWS), "of the limit, 1 row"
    )
    for name, (height, columns) in MATRICES.items():
        shape = (height // 16 if small else height, columns)
        for form in (Format.known["Q4_0"], Format.known["Q4_1"], Format.known["Q4_K"], Format.known["Q8_0"]):
            if columns % form.unit:
                continue
            seconds = [product(device, form, shape, rows, nbytes // 4) for rows in ROWS]
            part = shape[0] * form.row_bytes(columns) / seconds[0] / limit
            cells = (f"{each * 1e6:.0f} µs" for each in seconds)
            table.add_row(f"{name} {shape[0]}x{columns}", form.name, *cells, f"{part:.0%}")
    device.close()
    console.print(table)
    if model is not None:
        prefill, decode = anyio.run(model_rates, model)
        console.print(
            f"{model.name}: {prefill:.0f} tokens/s prefill (512), {decode:.1f} tokens/s decode (64)"
        )


if __name__ == "__main__":
    main()
