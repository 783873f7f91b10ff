"""Several sequences decoded as one batch, by a job that fills the steps itself: one row each.

There is no public call for batches yet, so this is the level of programs: `Workspace.begin` with rows of
different sequences. The steps run on the runtime's gang as all others do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens

import numpy as np

from coro_rt.llm.generate import PREFILL_CHUNK, step
from coro_rt.llm.model import Model
from coro_rt.memory.budget import Kind


async def decode(model: Model, count: int, ids: Tokens[int], tokens: int) -> float:
    """A job: greedy tokens per second of `count` sequences together, after prompts of `len(ids)` tokens."""
    sequences = [model.new_sequence() for _ in range(count)]
    try:
        async with model.in_use():
            for nth, sequence in enumerate(sequences):
                prompt = np.roll(np.array(ids, np.int32), nth)  # each a text of its own
                await sequence.make_room(len(ids) + tokens, PREFILL_CHUNK, 1)
                workspace = sequence.workspace
                for start in range(0, len(ids), PREFILL_CHUNK):
                    chunk = prompt[start : start + PREFILL_CHUNK]
                    positions = np.arange(start, start + len(chunk), dtype=np.int32)
                    workspace.begin(chunk, positions, [sequence.table] * len(chunk), tail=0)
                    await step(model.program, workspace)
            tables = [sequence.table for sequence in sequences]
            newest = np.array([ids[-1 - nth % len(ids)] for nth in range(count)], np.int32)
            what, nbytes = f"a step of {count} sequences", model.workspace_bytes(count, count)
            with await model.residency.room(what, lambda: nbytes, Kind.WORKSPACES):
                workspace = model.new_workspace(count, count)
                began = 0.0
                for nth in range(tokens):
                    positions = np.full(count, len(ids) + nth, np.int32)
                    workspace.begin(newest, positions, tables, tail=count)
                    await step(model.program, workspace)
                    newest = workspace.summaries[0].astype(np.int32)
                    if nth == 0:
                        began = time.perf_counter()
                return count * (tokens - 1) / (time.perf_counter() - began)
    finally:
        for sequence in sequences:
            sequence.release()
