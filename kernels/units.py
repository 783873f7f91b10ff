"""Units: parts of one operation of a program, which may be done in any order by any thread, and their code.

    operation   a unit is                        reads → writes
    EMBED       a token                          token ids → float32 row
    NORM        a row                            float32 row → float32 row, set or added, and int8 row
    MATMUL      16 output rows                   int8 (or float32) rows → float32 rows, set or added
    BIAS        a row                            float32 row, added to in place
    ROPE_KV     a row                            query, key, value → query turned, key and value in the cache
    ATTEND      some rows and a KV head          queries, cache → float32 heads, and int8 blocks; or, of a
                (and a split of positions)       few rows with long contexts, parts of them
    FOLD        a row and a query head           parts → float32 head, and int8 blocks
    GATE        a row                            gate | up → float32 row, and int8 row
    SUMMARY     a row of logits                  logits → best token, log-sum-exp
    LAYER_NORM  a row                            float32 row → float32 row, and int8 row
    GELU        a row                            float32 row → float32 row, and int8 row
    POOL        a text                           its rows → one row of length 1

The last three are for encoders: several texts lie in one step behind each other, and a row sees its whole
text.

A step in which every row has logits may be followed by others without leaving this code, a *burst*: each
row's best token is what it gets next.
"""

from functools import cache

import numpy as np

from . import activations, attention
from .attention import EVERYTHING, ROWS, SPLIT, call_attend, clear, finish, fold
from .bias import add_row
from .embed import call_fetch, scale_row
from .formats import BLOCK
from .gated import gated_row
from .gelu import gelu_row
from .jit import entry, indirect_call, native
from .kv import PAGE_POSITIONS, head_bytes, write_position
from .layer_norm import layer_norm_row
from .logits import summarize
from .matmul import call_groups
from .norm import norm_row
from .pool import pool_rows
from .program import Buffer, Field, Op
from .rope import turn_head
from .simd import inline, load_f32, load_i32, load_i64, store_f32, store_i32, store_i64
from .workspace import FEW, State

# numba sees plain integers
_EMBED, _NORM, _MATMUL, _ROPE_KV, _ATTEND, _GATE, _SUMMARY, _BIAS = (int(op) for op in list(Op)[:8])
_FOLD, _LAYER_NORM, _GELU, _POOL = (int(op) for op in list(Op)[8:])
_F = {f.name: int(f) * 8 for f in Field}
_OP, _UNITS, _IN, _OUT, _QOUT = (_F[n] for n in ("OP", "UNITS", "IN", "OUT", "QOUT"))
_COLUMNS, _WEIGHT, _GROUP_BYTES = (_F[n] for n in ("COLUMNS", "WEIGHT", "GROUP_BYTES"))
_CALL, _OUT_OFFSET, _ADD, _TAIL, _SKIP = (_F[n] for n in ("CALL", "OUT_OFFSET", "ADD", "TAIL", "SKIP"))
_HEADS, _KV_HEADS, _HEAD_SIZE, _LAYER_OFFSET = (
    _F[n] for n in ("HEADS", "KV_HEADS", "HEAD_SIZE", "LAYER_OFFSET")
)
_TABLE, _HALF, _HALVES, _NUMBERS = (_F[n] for n in ("TABLE", "HALF", "HALVES", "NUMBERS"))
_Q_NORM, _K_NORM, _WINDOW, _ACTIVATION = (_F[n] for n in ("Q_NORM", "K_NORM", "WINDOW", "ACTIVATION"))
_KV_BITS, page_part, part_bytes = _F["KV_BITS"], inline(head_bytes), inline(attention.part_bytes)
_LENGTHS, _PLUS = _F["LENGTHS"], _F["PLUS"]
_SHIFT, _SHIFT_STRIDE = _F["SHIFT"], _F["SHIFT_STRIDE"]
OP_BYTES = int(Field.COUNT) * 8
_TOKENS, _POSITIONS, _PAGES, _SCRATCH = (
    int(b) * 16 for b in (Buffer.TOKENS, Buffer.POSITIONS, Buffer.PAGES, Buffer.SCRATCH)
)
_SPANS, _PARTS, _LOGITS, _SUMMARIES, _MADE = (
    int(b) * 16 for b in (Buffer.SPANS, Buffer.PARTS, Buffer.LOGITS, Buffer.SUMMARY, Buffer.MADE)
)
STATE_LONGEST = int(State.LONGEST) * 8
STATE_OP, STATE_UNIT, STATE_ROWS, STATE_TAIL = (int(s) * 8 for s in list(State)[:4])
STATE_BURST, STATE_MADE, STATE_ENDS, STATE_END_COUNT, STATE_DONE_NS = (int(s) * 8 for s in list(State)[5:10])


@inline
def _reach(op, ws, rows):  # type: ignore[no-untyped-def]
    """How many positions the row sees that sees most, were there no window."""
    lengths, longest = load_i64(ws + load_i64(op + _LENGTHS) * 16), 0
    for t in range(rows):
        longest = max(longest, load_i32(lengths + t * 4))
    return longest + load_i64(op + _PLUS)


@inline
def _splits(op, ws, rows):  # type: ignore[no-untyped-def]
    """Into how many splits the positions of ATTEND are shared out; 0: a unit has them all."""
    if rows > FEW:
        return 0
    reach = _reach(op, ws, rows)
    return 0 if reach <= SPLIT else (reach + SPLIT - 1) // SPLIT


@entry
def units_of(op, ws, state):  # type: ignore[no-untyped-def]
    """How many units an operation has in this step."""
    rows = load_i64(state + STATE_TAIL) if load_i64(op + _TAIL) != 0 else load_i64(state + STATE_ROWS)
    if rows == 0:
        return 0
    kind = load_i64(op + _OP)
    if kind == _MATMUL:
        return load_i64(op + _UNITS)
    if kind == _ATTEND:
        splits = _splits(op, ws, rows)
        return load_i64(op + _KV_HEADS) * (rows * splits if splits > 0 else (rows + ROWS - 1) // ROWS)
    if kind == _FOLD and _splits(op, ws, rows) == 0:
        return 0
    return rows


@entry
def unit_cost_ns(op, ws, state):  # type: ignore[no-untyped-def]
    """A guess of a unit's time, to cut operations into chunks of about equal time. Need not be good."""
    rows = load_i64(state + STATE_TAIL) if load_i64(op + _TAIL) != 0 else load_i64(state + STATE_ROWS)
    kind = load_i64(op + _OP)
    if kind == _MATMUL:
        return load_i64(op + _GROUP_BYTES) // 16 + load_i64(op + _COLUMNS) * 16 * rows // 128
    if kind == _ATTEND:
        seen = min(_reach(op, ws, min(rows, FEW)), load_i64(op + _WINDOW))
        queries = load_i64(op + _HEADS) // load_i64(op + _KV_HEADS)
        if rows > FEW:
            queries *= ROWS
        elif seen > SPLIT:
            seen = SPLIT
        return 100 + seen * queries * load_i64(op + _HEAD_SIZE) // 40
    if kind == _ROPE_KV:
        return load_i64(op + _HEADS) * load_i64(op + _HEAD_SIZE)
    if kind == _POOL:
        return load_i64(state + STATE_LONGEST) * load_i64(op + _COLUMNS) // 16
    return load_i64(op + _COLUMNS)


@entry
def follow(ws, state):  # type: ignore[no-untyped-def]
    """After a step of a burst: note its tokens, and set the next one up. False if there is none."""
    made = load_i64(state + STATE_MADE)
    goes_on = made + 1 < load_i64(state + STATE_BURST)
    for t in range(load_i64(state + STATE_TAIL)):
        summary = load_i64(ws + _SUMMARIES) + t * load_i64(ws + _SUMMARIES + 8)
        token, log_sum = load_i64(summary), load_f32(summary + 8)
        logit = load_f32(load_i64(ws + _LOGITS) + t * load_i64(ws + _LOGITS + 8) + token * 4)
        at = load_i64(ws + _MADE) + t * load_i64(ws + _MADE + 8) + made * 8
        store_i32(at, token)
        store_f32(at + 4, logit - log_sum)
        if not np.isfinite(log_sum):
            goes_on = False
        for i in range(load_i64(state + STATE_END_COUNT)):
            if load_i32(load_i64(state + STATE_ENDS) + i * 4) == token:
                goes_on = False
    store_i64(state + STATE_MADE, made + 1)
    if goes_on:
        for t in range(load_i64(state + STATE_ROWS)):
            made_at = load_i64(ws + _MADE) + t * load_i64(ws + _MADE + 8) + made * 8
            store_i32(load_i64(ws + _TOKENS) + t * 4, load_i32(made_at))
            position = load_i64(ws + _POSITIONS) + t * 4
            store_i32(position, load_i32(position) + 1)
    return goes_on


@inline
def _put_head(result, size, out, qout, q_row, columns, head):  # type: ignore[no-untyped-def]
    """A head's result as float32 at address out, and as int8 blocks of the row at q_row if qout >= 0."""
    finish(result, size, out)
    if qout >= 0:
        for block in range(size // BLOCK):
            nth = head * (size // BLOCK) + block
            activations.quantize_block(out + block * BLOCK * 4, q_row, columns, nth)


def _run_units(op, ws, state, first, last, thread):  # type: ignore[no-untyped-def]
    """Do units first … last-1 of the operation at address `op`, over the workspace table at `ws`."""
    kind = load_i64(op + _OP)
    rows = load_i64(state + STATE_TAIL) if load_i64(op + _TAIL) != 0 else load_i64(state + STATE_ROWS)
    source = ws + load_i64(op + _IN) * 16
    x, x_stride = load_i64(source), load_i64(source + 8)
    target = ws + load_i64(op + _OUT) * 16
    y, y_stride = load_i64(target), load_i64(target + 8)
    qout = load_i64(op + _QOUT)
    q, q_stride = np.int64(0), np.int64(0)
    if qout >= 0:
        q, q_stride = load_i64(ws + qout * 16), load_i64(ws + qout * 16 + 8)
    columns = load_i64(op + _COLUMNS)
    w, group_bytes = load_i64(op + _WEIGHT), load_i64(op + _GROUP_BYTES)

    if kind == _MATMUL:
        y += load_i64(op + _OUT_OFFSET)
        add = load_i64(op + _ADD)
        code = load_i64(op + _CALL)
        call_groups(code, w, group_bytes, columns, x, x_stride, y, y_stride, rows, add, first, last)
    elif kind == _EMBED:
        for t in range(first, last):
            token = load_i32(load_i64(ws + _TOKENS) + t * 4)
            call_fetch(load_i64(op + _CALL), w, group_bytes, columns, token, y + t * y_stride)
            scale_row(y + t * y_stride, columns, load_f32(load_i64(op + _NUMBERS)))
    elif kind == _NORM:
        skip = load_i64(state + STATE_ROWS) - rows if load_i64(op + _SKIP) != 0 else 0
        for t in range(first, last):
            eps = load_f32(load_i64(op + _NUMBERS))
            norm_row(x + (t + skip) * x_stride, w, y + t * y_stride, columns, eps, load_i64(op + _ADD))
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _BIAS:
        for t in range(first, last):
            add_row(y + t * y_stride, w, columns)
    elif kind == _GATE:
        for t in range(first, last):
            up = x + t * x_stride + columns * 4
            gated_row(x + t * x_stride, up, y + t * y_stride, columns, load_i64(op + _ACTIVATION))
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _ROPE_KV:
        heads, kv_heads, size = load_i64(op + _HEADS), load_i64(op + _KV_HEADS), load_i64(op + _HEAD_SIZE)
        bits, half = load_i64(op + _KV_BITS), load_i64(op + _HALF)
        halves = load_i64(op + _HALVES) != 0
        q_norm, k_norm = load_i64(op + _Q_NORM), load_i64(op + _K_NORM)
        eps = load_f32(load_i64(op + _NUMBERS))
        for t in range(first, last):
            position = load_i32(load_i64(ws + _POSITIONS) + t * 4)
            turns = load_i64(op + _TABLE) + position * half * 8
            row = x + t * x_stride
            for head in range(heads + kv_heads):
                at = row + head * size * 4
                weight = q_norm if head < heads else k_norm
                if weight != 0:
                    norm_row(at, weight, at, size, eps, 0)
                turn_head(at, turns, half, halves)
            pages = load_i64(load_i64(ws + _PAGES) + t * 8)
            page = load_i64(pages + (position // PAGE_POSITIONS) * 8) + load_i64(op + _LAYER_OFFSET)
            for head in range(kv_heads):
                key = row + (heads + head) * size * 4
                value = key + kv_heads * size * 4
                at = page + head * page_part(size, bits)
                write_position(at, position % PAGE_POSITIONS, size, bits, key, value)
    elif kind in (_ATTEND, _FOLD):
        heads, kv_heads, size = load_i64(op + _HEADS), load_i64(op + _KV_HEADS), load_i64(op + _HEAD_SIZE)
        group, part = heads // kv_heads, part_bytes(size)
        scratch = load_i64(ws + _SCRATCH) + thread * load_i64(ws + _SCRATCH + 8)
        plus, window = load_i64(op + _PLUS), load_i64(op + _WINDOW)
        lengths = load_i64(ws + load_i64(op + _LENGTHS) * 16)
        splits = _splits(op, ws, rows)
        parts, parts_stride = load_i64(ws + _PARTS), load_i64(ws + _PARTS + 8)
        if kind == _FOLD:
            for t in range(first, last):
                for head in range(heads):
                    clear(scratch, size)
                    for split in range(splits):
                        fold(scratch, parts + t * parts_stride + (split * heads + head) * part, size)
                    out = y + t * y_stride + head * size * 4
                    _put_head(scratch, size, out, qout, q + t * q_stride, columns, head)
            return
        code, scale = load_i64(op + _CALL), load_i64(op + _NUMBERS)
        page_at, bits = load_i64(op + _LAYER_OFFSET), load_i64(op + _KV_BITS)
        all_pages, rest = load_i64(ws + _PAGES), scratch + ROWS * group * part
        for unit in range(first, last):
            if splits > 0:
                split, head, t = unit % splits, unit // splits % kv_heads, unit // splits // kv_heads
                offset = page_at + head * page_part(size, bits)
                results = parts + t * parts_stride + (split * heads + head * group) * part
                call_attend(
                    code, scale, load_i64(all_pages + t * 8), offset, size, group,
                    x + t * x_stride + head * group * size * 4, x_stride, 1, lengths + t * 4, plus, window,
                    split, split + 1, rest, results,
                )  # fmt: skip
                continue
            head, t = unit % kv_heads, unit // kv_heads * ROWS
            end, offset = min(t + ROWS, rows), page_at + head * page_part(size, bits)
            while t < end:  # neighbours of one sequence go together
                pages, some = load_i64(all_pages + t * 8), 1
                while t + some < end and load_i64(all_pages + (t + some) * 8) == pages:
                    some += 1
                least, reach = EVERYTHING, 0
                for row in range(t, t + some):
                    length = load_i32(lengths + row * 4) + plus
                    least, reach = min(least, max(length - window, 0)), max(reach, length)
                call_attend(
                    code, scale, pages, offset, size, group, x + t * x_stride + head * group * size * 4,
                    x_stride, some, lengths + t * 4, plus, window, least // SPLIT,
                    (reach + SPLIT - 1) // SPLIT, rest, scratch,
                )  # fmt: skip
                for k in range(some * group):
                    row, nth = t + k // group, head * group + k % group
                    out = y + row * y_stride + nth * size * 4
                    _put_head(scratch + k * part, size, out, qout, q + row * q_stride, columns, nth)
                t += some
    elif kind == _LAYER_NORM:
        shift, shift_stride = load_i64(op + _SHIFT), load_i64(op + _SHIFT_STRIDE)
        eps = load_f32(load_i64(op + _NUMBERS))
        for t in range(first, last):
            added = shift + load_i32(load_i64(ws + _POSITIONS) + t * 4) * shift_stride
            layer_norm_row(x + t * x_stride, added, w, y + t * y_stride, columns, eps)
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _GELU:
        for t in range(first, last):
            gelu_row(x + t * x_stride, load_i64(op + _SHIFT), y + t * y_stride, columns)
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _POOL:
        for t in range(first, last):
            span = load_i64(ws + _SPANS) + t * 8
            rows_at = x + load_i32(span) * x_stride
            pool_rows(rows_at, x_stride, load_i32(span + 4), y + t * y_stride, columns)
    else:
        for t in range(first, last):
            best, total = summarize(x + t * x_stride, columns)
            store_i64(y + t * y_stride, best)
            store_f32(y + t * y_stride + 8, total)


call_units = indirect_call(6)
"""call_units(address, op, ws, state, first, last, thread): see `_run_units`."""


@cache
def units_address() -> int:
    """Where the code that does units is. By address, so that it is compiled once and not again in each
    caller.
    """
    return native(6)(_run_units)
