"""Numbers: pure functions on arrays, each with a NumPy reference and an implementation for the CPU.

One file per noun. `formats` and `packed`: weights; `fit`: quantizing them well. `activations`, `matmul`,
`norm`, `rope`, `attention`, `gated`, `bias`, `logits`, `embed`, and for encoders `layer_norm`, `gelu`,
`pool`: each a `reference`, which is the meaning, an `error_bound`, and the code that runs without the GIL.
`kv`: the cache's pages. `program`, `workspace`, `units` and `gang`: many operations, their buffers, several
threads, a resume point; `operations`: what a model is described with, whatever runs it. For GPUs `planar`:
weights, and `shaders`: the sources in `wgsl/`. `launch`: single kernels on arrays. `cases`: what all
implementations are held against. `simd` with `half`, `atomics`, `intrinsic`, `jit`, `memory`: what those are
made of.

Nothing is imported here, so that looking at one file does not start a compiler.
"""

if __name__ != "coro_rt.kernels":  # one file, one name: numba's cache keys on it
    raise ImportError("import coro_rt.kernels, not " + __name__)
