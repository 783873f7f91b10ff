"""The GPU kernels' sources: a kernel is a few of the files in `wgsl/` behind the constants it is made for.

One generic algorithm per operation, small primitives per format: `matmul.wgsl` and `embed.wgsl` see weights
only as blocks of 32, which `weights_quantized.wgsl` or `weights_float.wgsl` load and multiply. There are no
templates: constants are WGSL constants, and compilers leave out what they rule out.
"""

from functools import cache
from pathlib import Path

from .formats import BLOCK, Format

_FOLDER = Path(__file__).parent / "wgsl"

Constant = bool | int


def source(kernel: str, *, form: Format | None = None, packed_dot: bool = True, **constants: Constant) -> str:
    """WGSL of a kernel, one of the names in `PARTS`; `form` for those that read weights. Without `packed_dot`
    it does not use `dot4I8Packed`.
    """
    lines = []
    parts = list(PARTS[kernel])
    if form is not None:
        parts.insert(0, "weights_quantized" if form.quantized else "weights_float")
        constants |= format_constants(form)
        constants["PACKED_DOT"] = packed_dot
    for name, value in constants.items():
        kind = "bool" if isinstance(value, bool) else "i32" if name == "ZERO" else "u32"
        lines.append(f"const {name}: {kind} = {_text(value)};")
    return "\n".join([*lines, *(_file(part) for part in ("step", *parts))])


def format_constants(form: Format) -> dict[str, Constant]:
    """What the kernels must know of a format."""
    if not form.quantized:
        return {"KIND": 17 if form.name == "BF16" else form.bits}
    return {
        "BITS": form.bits,
        "ZERO": 0 if form.bits == 8 else form.zero,  # 8-bit codes are stored as signed bytes
        "HAS_MIN": form.has_min,
        "SCALES": 2 if form.sub else 1 if form.has_min else 0,
        "SUB": form.sub,
    }


def lanes(columns: int) -> int:
    """How many threads share a row of a matrix: many, as long as few of them have nothing to do in the last
    round.
    """
    blocks = columns // BLOCK

    def busy(count: int) -> float:
        return blocks / (-(-blocks // count) * count)

    return next((count for count in (32, 16) if busy(count) >= 0.85), 8)


_QUANTIZE = ("rounding", "quantize")

PARTS: dict[str, tuple[str, ...]] = {
    "matmul": ("matmul",),
    "embed": ("embed",),
    "rows_quantized": (*_QUANTIZE, "rows_quantized"),
    "norm": (*_QUANTIZE, "norm"),
    "bias": ("bias",),
    "gate": (*_QUANTIZE, "gate"),
    "rope_kv": ("cache", "rounding", "rope_kv"),
    "attend": ("cache", "cached", *_QUANTIZE, "parts", "attend"),
    "fold": (*_QUANTIZE, "parts", "fold"),
    "summary": ("summary",),
    "layer_norm": (*_QUANTIZE, "layer_norm"),
    "gelu": (*_QUANTIZE, "gelu"),
    "pool": ("pool",),
}


def _text(value: Constant) -> str:
    return str(value).lower()


@cache
def _file(name: str) -> str:
    return (_FOLDER / f"{name}.wgsl").read_text()
