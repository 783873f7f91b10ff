"""A dispatch: one kernel call of a step, made once, and put into the submissions of each step that has it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from coro_rt.kernels.program import Buffer

from .pages import GpuPages
from .workspace import GpuWorkspace

TILES = (1, 4, 8, 16)
"""Rows of x that a workgroup of a product may do at once."""

_MOST = 65535  # workgroups in one dimension: what is more goes into the third, as `matmul.wgsl` knows


class When(Enum):
    """In which steps a dispatch is made."""

    ALWAYS = 0
    TOGETHER = 1  # a workgroup attends to all positions
    SPLIT = 2  # each has a split of them, the third dimension
    FOLDED = 3  # as SPLIT, behind it


Operands = tuple[Buffer | None, Buffer | None, Buffer | None]
"""What a kernel binds as x, y and q."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """`pipelines` by the rows that a workgroup does at once (1, but for products); `across`: how many
    workgroups it takes for those. `group`: its numbers and weights. `layer`: of the cache, if it uses that.
    `cost`: bytes of weights, or a guess of what else it reads.
    """

    pipelines: dict[int, Any]
    across: int
    operands: Operands
    group: Any
    tail: bool
    when: When
    layer: int | None
    cost: int

    def encode(self, begun: Any, workspace: GpuWorkspace, pages: GpuPages | None) -> float:
        """Put it into a pass that has begun. Gives what it costs there, 0 if it is no part of this step."""
        rows = workspace.step_tail if self.tail else workspace.step_rows
        if rows == 0 or not self._is_made(split=bool(workspace.splits)):
            return 0.0
        deep = workspace.splits if self.when is When.SPLIT else -(-self.across // _MOST)
        tile = _tile_for(rows) if len(self.pipelines) > 1 else 1
        begun.set_pipeline(self.pipelines[tile])
        begun.set_bind_group(1, workspace.group(*self.operands))
        begun.set_bind_group(2, self.group)
        if self.layer is not None:
            assert pages is not None
            own = workspace.cache_group
            begun.set_bind_group(3, pages.group(self.layer) if own is None else own)
        begun.dispatch_workgroups(min(self.across, _MOST), -(-rows // tile), deep)
        return self.cost * (1 + rows / 16)

    def _is_made(self, *, split: bool) -> bool:
        return self.when is When.ALWAYS or split == (self.when is not When.TOGETHER)


def _tile_for(rows: int) -> int:
    """How many rows of x a workgroup does: as many as possible with little idle work."""
    return min(TILES, key=lambda tile: -(-rows // tile) * (tile + 3))
