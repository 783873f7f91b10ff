"""Safetensors files for the tests of this folder."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from coro_rt.kernels.formats import Format


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], *, dtype: str = "F32") -> Path:
    """Integers as I64; floating point as `dtype`: F32, F16 or BF16."""
    header, blobs, at = {}, [], 0
    for name, values in tensors.items():
        if values.dtype == np.int64:
            kind, blob = "I64", values.tobytes()
        else:
            kind = dtype
            blob = Format.known[dtype].quantize(values.reshape(1, -1)).tobytes()
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps({"__metadata__": {"format": "np"}} | header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return path
