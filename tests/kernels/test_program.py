"""A step is the same to the bit however it is cut: by company, by chunks, by preemption, by threads."""

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coro_rt.kernels.formats import Format
from coro_rt.kernels.gang import Gang, Outcome
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape, new_page
from coro_rt.kernels.packed import PackedMatrix
from coro_rt.kernels.program import Buffer, Program
from coro_rt.kernels.rope import table
from coro_rt.kernels.workspace import Widths, Workspace

HIDDEN, HEADS, GATED, VOCABULARY, CONTEXT = 256, 8, 256, 500, 256
KV = KVShape(layers=2, heads=2, head_size=32)
WIDTHS = Widths(
    hidden=HIDDEN,
    qkv=12 * 32,
    attended=HIDDEN,
    gated=GATED,
    vocabulary=VOCABULARY,
    context=CONTEXT,
    heads=HEADS,
)


def small_model(form: str) -> Program:
    """Two layers with random weights."""
    rng = np.random.default_rng(1)

    def matrix(rows: int, columns: int) -> PackedMatrix:
        values = rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
        return PackedMatrix.from_float(Format.known[form], values)

    def source(ints: Buffer, floats: Buffer) -> Buffer:
        return ints if Format.known[form].quantized else floats

    program, turns, ones = Program(), table(CONTEXT, 32, 10000.0), np.ones(HIDDEN, np.float32)
    embedding = matrix(VOCABULARY, HIDDEN)
    normed = source(Buffer.QNORMED, Buffer.NORMED)
    program.embed(embedding, out=Buffer.HIDDEN)
    for layer in range(KV.layers):
        program.norm(ones, 1e-5, HIDDEN, source=Buffer.HIDDEN, out=Buffer.NORMED, qout=Buffer.QNORMED)
        program.matmul(matrix(12 * 32, HIDDEN), source=normed, out=Buffer.QKV)
        program.rope_kv(KV, layer, HEADS, turns, halves=False, qkv=Buffer.QKV)
        program.attend(
            KV, layer, HEADS, qkv=Buffer.QKV, out=Buffer.ATTENDED, qout=Buffer.QATTENDED, window=layer * 90
        )
        program.matmul(
            matrix(HIDDEN, HIDDEN),
            source=source(Buffer.QATTENDED, Buffer.ATTENDED),
            out=Buffer.HIDDEN,
            add=True,
        )
        program.norm(ones, 1e-5, HIDDEN, source=Buffer.HIDDEN, out=Buffer.NORMED, qout=Buffer.QNORMED)
        program.matmul(matrix(2 * GATED, HIDDEN), source=normed, out=Buffer.GATE_UP)
        program.gate(GATED, gate_up=Buffer.GATE_UP, out=Buffer.GATED, qout=Buffer.QGATED)
        program.matmul(
            matrix(HIDDEN, GATED), source=source(Buffer.QGATED, Buffer.GATED), out=Buffer.HIDDEN, add=True
        )
    program.norm(ones, 1e-5, HIDDEN, source=Buffer.HIDDEN, out=Buffer.NORMED, qout=Buffer.QNORMED, tail=True)
    program.matmul(embedding, source=normed, out=Buffer.LOGITS, tail=True)
    program.summary(VOCABULARY, logits=Buffer.LOGITS, out=Buffer.SUMMARY)
    return program.finish()


class Run:
    """One sequence on a gang: feeds tokens in steps and gives each step's logits."""

    def __init__(self, program: Program, gang: Gang) -> None:
        self.program, self.gang = program, gang
        self.pages = [new_page(KV) for _ in range(CONTEXT // PAGE_POSITIONS)]
        self.table = np.array([page.ctypes.data for page in self.pages], np.int64)
        self.length = 0
        self.runs = 0

    def step(
        self, tokens: np.ndarray, *, tail: int = 1, during: Callable[[], None] | None = None
    ) -> np.ndarray:
        workspace = Workspace(WIDTHS, rows=len(tokens), tail=max(tail, 1), threads=self.gang.threads)
        positions = np.arange(self.length, self.length + len(tokens), dtype=np.int32)
        workspace.begin(tokens, positions, [self.table] * len(tokens), tail=tail)
        outcome = None
        while outcome is not Outcome.DONE:
            if during is not None:
                during()
            outcome = self.gang.run(self.program, workspace)
            self.gang.preempt[0] = 0
            self.runs += 1
        self.length += len(tokens)
        return workspace.logits.copy()


@pytest.fixture(params=list(Format.known))
def program(request: pytest.FixtureRequest) -> Program:
    return small_model(request.param)


TOKENS = np.random.default_rng(2).integers(0, VOCABULARY, 150).astype(np.int32)


def expected(program: Program) -> np.ndarray:
    """Logits of every position, one token at a time, one thread."""
    run = Run(program, Gang(1))
    return np.concatenate([run.step(TOKENS[i : i + 1]) for i in range(len(TOKENS))])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunking_a_prompt_does_not_change_a_bit(program: Program, threads: int) -> None:
    want = expected(program)
    gang = Gang(threads)
    gang.start()
    try:
        for cuts in ([150], [1, 149], [64, 64, 22], [7, 100, 3, 40]):
            run, got, at = Run(program, gang), [], 0
            for cut in cuts:
                got.append(run.step(TOKENS[at : at + cut], tail=cut))
                at += cut
            assert np.array_equal(np.concatenate(got), want), cuts
    finally:
        gang.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_preempted_after_every_chunk_goes_on_where_it_was(program: Program, threads: int) -> None:
    want = expected(program)
    gang = Gang(threads)
    gang.start()
    try:
        run = Run(program, gang)

        def preempt() -> None:
            gang.preempt[0] = 1

        got = run.step(TOKENS, tail=len(TOKENS), during=preempt)
        assert np.array_equal(got, want)
        assert run.runs > 20
    finally:
        gang.close()


def test_steps_preempted_by_another_thread_at_random_go_on_where_they_were() -> None:
    program = small_model("Q4_1")
    want = expected(program)
    gang = Gang(2)
    gang.start()
    over = threading.Event()

    def disturb() -> None:
        rng = np.random.default_rng(3)
        while not over.is_set():
            gang.preempt[0] = 1
            time.sleep(float(rng.uniform(0, 2e-4)))

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        steps = runs = 0
        while steps < 20 or (runs == steps < 2000):  # on a busy machine the disturber may come late
            run = Run(program, gang)
            assert np.array_equal(run.step(TOKENS, tail=len(TOKENS)), want)
            steps += 1
            runs += run.runs
        assert runs > steps
    finally:
        over.set()
        disturber.join()
        gang.close()


def test_a_slice_that_is_over_ends_the_run_after_one_chunk() -> None:
    program, gang = small_model("Q4_1"), Gang(1)
    run = Run(program, gang)
    workspace = Workspace(WIDTHS, rows=64, tail=1, threads=1)
    workspace.begin(TOKENS[:64], np.arange(64, dtype=np.int32), [run.table] * 64, tail=1)
    outcomes = [gang.run(program, workspace, end_ns=0)]
    while outcomes[-1] is not Outcome.DONE:
        outcomes.append(gang.run(program, workspace, end_ns=0))
    assert set(outcomes[:-1]) == {Outcome.SLICE_OVER}
    assert np.array_equal(workspace.logits, expected(program)[63:64])


def test_rows_of_different_sequences_do_not_touch_each_other(program: Program) -> None:
    want = expected(program)
    gang = Gang(1)
    first, second = Run(program, gang), Run(program, gang)
    first.step(TOKENS[:70], tail=0)
    second.step(TOKENS[:9], tail=0)
    together = Workspace(WIDTHS, rows=2, tail=2, threads=1)
    together.begin(TOKENS[[70, 9]], np.array([70, 9], np.int32), [first.table, second.table], tail=2)
    assert gang.run(program, together) is Outcome.DONE
    assert np.array_equal(together.logits, want[[70, 9]])


def singly(start: int, count: int) -> list[int]:
    """Tokens chosen one step at a time after TOKENS[: start + 1]."""
    run, made = Run(MODEL, Gang(1)), [int(TOKENS[start])]
    run.step(TOKENS[:start], tail=0)
    while len(made) <= count:
        made.append(int(run.step(np.array(made[-1:], np.int32))[0].argmax()))
    return made[1:]


@pytest.mark.parametrize("preempted", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_burst_makes_the_tokens_that_single_steps_make(threads: int, preempted: bool) -> None:
    starts, count = [100, 9], 30
    gang = Gang(threads)
    gang.start()
    try:
        runs = [Run(MODEL, gang) for _ in starts]
        for run, start in zip(runs, starts, strict=True):
            run.step(TOKENS[:start], tail=0)
        workspace = Workspace(WIDTHS, rows=2, tail=2, threads=threads)
        positions = np.array(starts, np.int32)
        workspace.begin(TOKENS[starts], positions, [run.table for run in runs], tail=2, burst=count)
        outcome, made = None, []
        while outcome is not Outcome.DONE or len(made) < count:
            if outcome is Outcome.DONE:  # preempted at the end of a step: go on with what it made
                tables = [run.table for run in runs]
                tokens = np.array([[one[-1]] for one in zip(*made, strict=True)], np.int32)[:, 0]
                positions = np.array([start + len(made) for start in starts], np.int32)
                workspace.begin(tokens, positions, tables, tail=2, burst=max(count - len(made), 2))
            gang.preempt[0] = preempted
            outcome = gang.run(MODEL, workspace)
            if outcome is Outcome.DONE:
                rows = [workspace.made(row) for row in range(2)]
                assert all(logprob <= 0 for row in rows for _, logprob in row)
                made += [[token for token, _ in column] for column in zip(*rows, strict=True)]
        assert [list(one[:count]) for one in zip(*made, strict=True)] == [singly(s, count) for s in starts]
    finally:
        gang.close()


def test_a_burst_is_over_with_the_first_row_that_ends() -> None:
    want = singly(40, 20)
    ends = np.array([want[7], VOCABULARY + 1], np.int32)
    first = want.index(want[7])
    run = Run(MODEL, Gang(1))
    run.step(TOKENS[:40], tail=0)
    workspace = Workspace(WIDTHS, rows=1, tail=1, threads=1)
    workspace.begin(TOKENS[40:41], np.array([40], np.int32), [run.table], tail=1, burst=20, ends=ends)
    assert run.gang.run(MODEL, workspace) is Outcome.DONE
    assert [token for token, _ in workspace.made(0)] == want[: first + 1]
    assert 0 < workspace.done_ns <= time.monotonic_ns()


def test_no_tail_means_no_logits() -> None:
    run = Run(small_model("Q4_0"), Gang(1))
    assert run.step(TOKENS[:5], tail=0).shape == (0, VOCABULARY)


def test_a_closed_gang_leaves_no_thread() -> None:
    before = threading.active_count()
    gang = Gang(3)
    gang.start()
    assert threading.active_count() == before + 2
    gang.close()
    gang.close()
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this OS does not pin threads")
def test_two_threads_on_one_core_give_the_same(program: Program) -> None:
    want, cores = expected(program), os.sched_getaffinity(0)
    gang = Gang(2)
    os.sched_setaffinity(0, {min(cores)})
    try:
        gang.start()
        run = Run(program, gang)
        for start in range(0, len(TOKENS), 50):
            got = run.step(TOKENS[start : start + 50], tail=50)
            assert np.array_equal(got, want[start : start + 50])
    finally:
        gang.close()
        os.sched_setaffinity(0, cores)


def test_a_gang_needs_a_thread() -> None:
    with pytest.raises(ValueError, match="at least 1 thread, not 0"):
        Gang(0)


MODEL = small_model("Q4_1")
WANT = expected(MODEL)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    company=st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40)), max_size=4),
    threads=st.integers(1, 3),
    preempted=st.booleans(),
)
def test_logits_are_those_of_one_token_at_a_time_whatever_company_chunks_threads_and_preemptions(
    cuts: list[int], company: list[tuple[int, int]], threads: int, preempted: bool
) -> None:
    gang = Gang(threads)
    gang.start()
    try:
        mine = Run(MODEL, gang)
        others = [(Run(MODEL, gang), start, rows) for start, rows in company]
        for other, start, _ in others:
            if start:
                other.step(TOKENS[:start], tail=0)
        for cut in cuts:
            parts = [(mine, TOKENS[mine.length : mine.length + cut])]
            parts += [(run, TOKENS[run.length : run.length + rows]) for run, _, rows in others]
            parts = [(run, tokens) for run, tokens in parts if len(tokens)]
            if not parts:
                break
            tokens = np.concatenate([tokens for _, tokens in parts])
            positions = np.concatenate(
                [np.arange(run.length, run.length + len(tokens), dtype=np.int32) for run, tokens in parts]
            )
            tables = [run.table for run, tokens in parts for _ in tokens]
            workspace = Workspace(WIDTHS, rows=len(tokens), tail=len(tokens), threads=threads)
            workspace.begin(tokens, positions, tables, tail=len(tokens))
            outcome = None
            while outcome is not Outcome.DONE:
                gang.preempt[0] = int(preempted)
                outcome = gang.run(MODEL, workspace)
            assert np.array_equal(workspace.logits, WANT[positions])
            for run, tokens in parts:
                run.length += len(tokens)
    finally:
        gang.close()
