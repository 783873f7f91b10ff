"""Quantizing a model: from floating point, in a GGUF file or a folder of safetensors, to a smaller GGUF file.

One tensor at a time, and of that some rows at a time, so that memory does not grow with the model. What is
written is read back on the way: the error of each tensor is in the report.

What stays in float32: vectors (norms, biases), which are small and added to everything, and the tables of
positions and token types, which are added and not multiplied. A matrix whose rows are no whole number of the
type's blocks gets a simpler type of blocks of 32 with at least as many bits, so that no tensor is worse than
what was asked for; one whose rows are no multiple of 32 gets F16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_VERSION, LlamaFileType

from coro_rt.errors import QuantizeError
from coro_rt.kernels.formats import BLOCK, F16, F32, Format

from .convert import from_folder
from .gguf_writer import GGUFWriter, TensorPlan, uint32
from .source import Source, SourceTensor, from_gguf

__all__ = ["TYPES", "Report", "TensorReport", "quantize"]

_FILE_TYPES: Mapping[str, LlamaFileType] = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q5_1": LlamaFileType.MOSTLY_Q5_1,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_K": LlamaFileType.MOSTLY_Q4_K_S,
    "Q5_K": LlamaFileType.MOSTLY_Q5_K_S,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
}
TYPES = tuple(name.lower() for name in _FILE_TYPES)
"""What a model can be quantized to (f32: only converted)."""

_SIMPLER = {"Q4_K": "Q4_1", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_ADDED = ("position_embd.weight", "token_types.weight", "rope_freqs.weight")
_CHUNK = 1 << 20
"""Values that are quantized at a time: some 50 MB on the way."""


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What became of a tensor. Errors are in units of its root mean square: `rms_error` that of all values,
    `max_error` the largest. `note`: why it has another type than was asked for.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    target: str
    nbytes: int
    rms_error: float
    max_error: float
    note: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """What was written; sizes of files in bytes."""

    source: Path
    target: Path
    type: str
    source_bytes: int
    target_bytes: int
    tensors: tuple[TensorReport, ...]


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    type: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the model at `source` to the GGUF file `target`, its matrices as `type`, one of `TYPES`.

    `source`: a GGUF file with F32, F16 or BF16 tensors, a safetensors file with its config.json and
    tokenizer.json beside it, or the folder of these. It blocks for as long as it takes; `progress(done,
    total)` is called with numbers of weights. The target appears whole at the end, and replaces a file that
    is there; after an error, or an exception from `progress`, nothing is left.

    Raises QuantizeError if it cannot be done as asked, ModelNotFound, ModelFileError and UnsupportedModel for
    what is wrong with the source, OSError if the target cannot be written.
    """
    source, target = Path(source), Path(target)
    if type.lower() not in TYPES:
        raise QuantizeError(f"there is no type {type!r}; the types are: {', '.join(TYPES)}")
    format = Format.known[type.upper()]
    is_folder = source.is_dir() or source.suffix == ".safetensors"
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise QuantizeError(f"{target} cannot be written: it is a folder, or in a folder that is not there")
    opened = from_folder(source) if is_folder else from_gguf(source)
    if target.exists() and any(target.samefile(file) for file in opened.files):
        raise QuantizeError(f"{target} is the file to read: give the new file another name")
    plans: list[TensorPlan] = []
    notes: list[str | None] = []
    for tensor in opened.tensors:
        chosen, note = _format_for(tensor, format)
        plans.append(TensorPlan(tensor.name, tensor.shape, chosen))
        notes.append(note)
    total = sum(tensor.rows * tensor.columns for tensor in opened.tensors)
    done = 0
    reports = []
    with GGUFWriter.open(target, _metadata(opened, format), plans, alignment=opened.alignment) as writer:
        for tensor, plan, note in zip(opened.tensors, plans, notes, strict=True):

            def count(values: int) -> None:
                nonlocal done
                done += values
                if progress is not None:
                    progress(done, total)

            rms, largest = _write(tensor, plan.format, writer, source, count)
            tensor.drop()
            reports.append(
                TensorReport(
                    tensor.name,
                    tensor.shape,
                    tensor.format.name,
                    plan.format.name,
                    plan.nbytes,
                    rms,
                    largest,
                    note,
                )
            )
    return Report(
        source=source, target=target, type=type.lower(),
        source_bytes=sum(file.stat().st_size for file in opened.files), target_bytes=target.stat().st_size,
        tensors=tuple(reports),
    )  # fmt: skip


def _format_for(tensor: SourceTensor, wanted: Format) -> tuple[Format, str | None]:
    """The format of a tensor, and why it is not `wanted`."""
    if len(tensor.shape) == 1:
        return F32, None if wanted is F32 else "a vector"
    if tensor.name in _ADDED or not tensor.name.endswith(".weight") or tensor.name.endswith("_norm.weight"):
        return F32, None if wanted is F32 else "added, not multiplied"
    if tensor.columns % wanted.unit == 0:
        return wanted, None
    simpler = (
        Format.known[_SIMPLER[wanted.name]] if wanted.name in _SIMPLER and not tensor.columns % BLOCK else F16
    )
    return simpler, f"rows of {tensor.columns} are no multiple of {wanted.unit}"


def _metadata(source: Source, format: Format) -> dict[str, bytes]:
    metadata = dict(source.metadata)
    metadata["general.file_type"] = uint32(_FILE_TYPES[format.name])
    if format.quantized:
        metadata["general.quantization_version"] = uint32(GGML_QUANT_VERSION)
    return metadata


def _write(
    tensor: SourceTensor, format: Format, writer: GGUFWriter, path: Path, count: Callable[[int], None]
) -> tuple[float, float]:
    """Write a tensor; its error, of all values and the largest, in units of its root mean square."""
    squares = error_squares = largest = 0.0
    step = max(1, _CHUNK // tensor.columns)
    for first in range(0, tensor.rows, step):
        values = tensor.read(first, min(first + step, tensor.rows))
        if not np.isfinite(values).all():
            raise QuantizeError(
                f"{path}: the tensor {tensor.name} holds infinities or values that are no numbers"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below
            raw = format.quantize(values, search=True)
            back = format.dequantize(raw, values.shape)
            difference = np.abs(back - values)
        if not np.isfinite(difference).all():
            raise QuantizeError(f"{path}: the tensor {tensor.name} has values too large for {format.name}")
        writer.write(raw)
        squares += float(np.square(values, dtype=np.float64).sum())
        error_squares += float(np.square(difference, dtype=np.float64).sum())
        largest = max(largest, float(difference.max()))
        count(values.size)
    if squares == 0:
        return 0.0, 0.0
    mean = (squares / (tensor.rows * tensor.columns)) ** 0.5
    return (error_squares / squares) ** 0.5, largest / mean
