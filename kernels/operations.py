"""What a model's description is written against: the operations of a step, whatever runs them.

An architecture is described once, as calls of these methods in order. A CPU's `Program` turns them into a
table, a GPU's into dispatches; another device would do the same in its own way. Buffers are named, never
addressed, and matrices are what the program's own `pack` made of them.
"""

from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .formats import Bytes, Floats, Format
from .gated import Activation
from .kv import KVShape
from .program import Buffer


class Matrix(Protocol):
    """A weight matrix in the layout that a device wants."""

    format: Format
    rows: int
    columns: int


M = TypeVar("M", bound=Matrix)


class Operations(Protocol[M]):
    """See `kernels.program.Program` for what each of them does."""

    def pack(self, format: Format, *parts: tuple[Bytes, tuple[int, int]]) -> M: ...

    def finish(self) -> Any: ...

    def embed(self, weight: M, *, out: Buffer, scale: float = 1.0) -> None: ...

    def norm(
        self, weight: Floats, eps: float, columns: int, *, source: Buffer, out: Buffer, qout: Buffer | None,
        add: bool = False, tail: bool = False,
    ) -> None: ...  # fmt: skip

    def matmul(
        self, weight: M, *, source: Buffer, out: Buffer, offset: int = 0, add: bool = False,
        tail: bool = False,
    ) -> None: ...  # fmt: skip

    def bias(self, values: Floats, *, out: Buffer, tail: bool = False) -> None: ...

    def rope_kv(
        self, kv: KVShape, layer: int, heads: int, turns: Floats, *, halves: bool, qkv: Buffer,
        norms: tuple[Floats, Floats] | None = None, eps: float = 0.0,
    ) -> None: ...  # fmt: skip

    def attend(
        self, kv: KVShape, layer: int, heads: int, *, qkv: Buffer, out: Buffer, qout: Buffer | None,
        window: int = 0, scale: float | None = None,
    ) -> None: ...  # fmt: skip

    def gate(
        self, columns: int, *, gate_up: Buffer, out: Buffer, qout: Buffer | None,
        activation: Activation = Activation.SILU,
    ) -> None: ...  # fmt: skip

    def summary(self, vocabulary: int, *, logits: Buffer, out: Buffer) -> None: ...


class EncoderOperations(Operations[M], Protocol[M]):
    """What an encoder needs beyond that. Rows of a step are whole texts, one behind the other."""

    def attend(
        self, kv: KVShape, layer: int, heads: int, *, qkv: Buffer, out: Buffer, qout: Buffer | None,
        window: int = 0, scale: float | None = None, whole: bool = False,
    ) -> None: ...  # fmt: skip

    def layer_norm(
        self, weight: Floats, bias: Floats, eps: float, *, out: Buffer, qout: Buffer | None, shift: Floats
    ) -> None: ...

    def gelu(self, shift: Floats, *, out: Buffer, qout: Buffer | None) -> None: ...

    def pool(self, columns: int, *, source: Buffer, out: Buffer) -> None: ...


class Steps(Protocol):
    """Buffers for steps of a program, as those use it who feed it: see `kernels.workspace.Workspace`."""

    rows: int
    tail: int

    def begin(
        self, tokens: NDArray[np.int32] | list[int], positions: NDArray[np.int32] | list[int],
        pages: list[NDArray[np.int64]], *, tail: int,
    ) -> None: ...  # fmt: skip

    def redirect(self, rows: list[int], table: NDArray[np.int64]) -> None: ...

    @property
    def logits(self) -> Floats: ...

    @property
    def summaries(self) -> tuple[NDArray[np.int64], Floats]: ...

    def logprob(self, row: int, token: int) -> float: ...

    def release(self) -> None: ...


class EncoderSteps(Protocol):
    """Buffers for an encoder's steps: see `kernels.workspace.Workspace`."""

    def begin_texts(
        self, tokens: NDArray[np.int32], lengths: list[int], pages: list[NDArray[np.int64]], *,
        pooled: int | None = None,
    ) -> None: ...  # fmt: skip

    @property
    def pooled(self) -> Floats: ...

    def release(self) -> None: ...
