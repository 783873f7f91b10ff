"""Whole models on a GPU against plain NumPy; and a step is the same to the bit however it is cut."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_architectures import TOKENS, check, logits_of
from tiny import TINIES, Tiny, TinyGemma3, TinyPhi3, TinyQwen2, TinyQwen3

from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.device import IN_FLIGHT
from coro_rt.devices.gpu.dispatch import When
from coro_rt.devices.gpu.pages import ALWAYS, GpuPages
from coro_rt.devices.gpu.pipelines import Pipelines
from coro_rt.devices.gpu.program import GpuProgram
from coro_rt.devices.gpu.workspace import FEW, SPLIT, GpuWorkspace
from coro_rt.errors import DeviceLost, MemoryBudgetExceeded
from coro_rt.kernels.formats import Format
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape
from coro_rt.llm.architecture import Hyperparameters
from coro_rt.llm.build import build
from coro_rt.llm.gguf_file import open_gguf
from coro_rt.memory import MemoryBudget

pytestmark = pytest.mark.gpu


class Run:
    """One sequence of a model."""

    def __init__(self, device: GpuDevice, path: Path, *, kv_bits: int = 16) -> None:
        self.device = device
        with open_gguf(path) as file:
            self.sizes = replace(Hyperparameters.from_gguf(file), kv_bits=kv_bits)
            self.program = GpuProgram(device, self.sizes.widths)
            build(file, self.sizes, self.sizes.context, self.program)
        self.table = self.new_table()

    @property
    def dispatches(self) -> int:
        """Of a step whose contexts are short."""
        return sum(each.when in (When.ALWAYS, When.TOGETHER) for each in self.program.dispatches)

    def new_table(self) -> np.ndarray:
        assert self.program.pages is not None
        pages = -(-self.sizes.context // PAGE_POSITIONS)
        return np.array([self.program.pages.take() for _ in range(pages)], np.int64)

    def step(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        tables: Sequence[np.ndarray],
        between: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Logits after each token. `between` is called whenever the device gives way."""
        workspace = GpuWorkspace(self.device, self.sizes.widths, rows=len(tokens), tail=len(tokens))
        workspace.begin(
            np.array(tokens, np.int32), np.array(positions, np.int32), list(tables), tail=len(tokens)
        )
        while not self.device.run(self.program, workspace):
            between()
        logits = workspace.logits.copy()
        best, log_sums = workspace.summaries
        assert np.array_equal(best, logits.argmax(1))
        assert workspace.logprob(0, int(best[0])) == pytest.approx(float(logits[0].max() - log_sums[0]))
        workspace.release()
        return logits

    def logits(self, tokens: Sequence[int], cuts: Sequence[int] = ()) -> np.ndarray:
        """Logits after each token; `cuts`: where the prompt is cut into steps."""
        return np.concatenate(
            [
                self.step(tokens[begin:end], range(begin, end), [self.table] * (end - begin))
                for begin, end in pairwise([0, *cuts, len(tokens)])
            ]
        )


@pytest.mark.parametrize("form", list(Format.known))
def test_a_model_computes_what_the_architecture_says(form: str, tmp_path: Path, gpu: GpuDevice) -> None:
    tiny = Tiny(form=form)
    got = Run(gpu, tiny.write(tmp_path / "m.gguf")).logits(TOKENS)
    check(got, tiny.logits(TOKENS), integers=Format.known[form].quantized)


SHAPES: list[tuple[type[Tiny], dict[str, Any]]] = [
    (Tiny, {"own_head": True, "biases": True, "heads": 6, "kv_heads": 1, "head_size": 64, "hidden": 160}),
    (TinyQwen2, {}),
    (TinyQwen3, {"head_size": 128}),
    (TinyPhi3, {"window": 17}),
    (TinyGemma3, {"head_size": 256, "window": 33}),
]


@pytest.mark.parametrize(("tiny", "options"), SHAPES, ids=str)
def test_every_architecture_computes_what_was_published(
    tiny: type[Tiny], options: dict[str, Any], tmp_path: Path, gpu: GpuDevice
) -> None:
    model = tiny(**options)
    got = Run(gpu, model.write(tmp_path / "m.gguf")).logits(TOKENS)
    check(got, model.logits(TOKENS), integers=False, layers=model.layers)


@pytest.mark.parametrize("arch", TINIES)
def test_logits_are_the_same_to_the_bit_however_the_prompt_is_cut(
    arch: str, tmp_path: Path, gpu: GpuDevice
) -> None:
    run = Run(gpu, TINIES[arch](form="Q4_1").write(tmp_path / "m.gguf"))
    whole = run.logits(TOKENS)
    for cuts in ([1], [64, 65], [3, 7, 20, 60]):
        assert np.array_equal(run.logits(TOKENS, cuts), whole), cuts


@pytest.mark.parametrize(("tiny", "options"), [(Tiny, {}), (TinyPhi3, {"window": 300, "head_size": 96})])
def test_long_contexts_give_the_same_bits_whoever_shares_them(
    tiny: type[Tiny], options: dict[str, Any], tmp_path: Path, gpu: GpuDevice
) -> None:
    model = tiny(context=2 * SPLIT + 100, **options)
    tokens = np.random.default_rng(6).integers(0, 250, 2 * SPLIT + 20).tolist()
    run = Run(gpu, model.write(tmp_path / "m.gguf"))
    whole = run.logits(tokens)
    check(whole, model.logits(tokens), integers=False, layers=model.layers)
    end = len(tokens)
    cuts = [SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT, 2 * SPLIT + 1, end - FEW - 1, end - 1]
    assert np.array_equal(run.logits(tokens, cuts), whole)


@pytest.mark.parametrize(("tiny", "options"), [(Tiny, {}), (TinyPhi3, {"window": 300, "head_size": 96})])
def test_an_int8_cache_holds_what_the_cpus_does_and_gives_the_same_bits_however_it_is_filled(
    tiny: type[Tiny], options: dict[str, Any], tmp_path: Path, gpu: GpuDevice
) -> None:
    path = tiny(context=SPLIT + 100, **options).write(tmp_path / "m.gguf")
    tokens = np.random.default_rng(7).integers(0, 250, SPLIT + 20).tolist()
    run = Run(gpu, path, kv_bits=8)
    whole = run.logits(tokens)
    check(whole, logits_of(path, tokens, kv_bits=8), integers=True)
    assert not np.array_equal(whole, Run(gpu, path).logits(tokens))
    end = len(tokens)
    assert np.array_equal(run.logits(tokens, [63, 65, SPLIT, SPLIT + 1, end - FEW - 1, end - 1]), whole)


@pytest.fixture
def run(tiny_path: Path, gpu: GpuDevice) -> Run:
    return Run(gpu, tiny_path)


def test_rows_of_different_sequences_do_not_touch_each_other(run: Run) -> None:
    want = run.logits(TOKENS)
    first, second = run.new_table(), run.new_table()
    run.step(TOKENS[:70], range(70), [first] * 70)
    run.step(TOKENS[:9], range(9), [second] * 9)
    got = run.step([TOKENS[70], TOKENS[9]], [70, 9], [first, second])
    assert np.array_equal(got, want[[70, 9]])


def test_rows_may_be_sent_elsewhere_before_they_are_computed_and_in_between(run: Run) -> None:
    want = run.logits(TOKENS)
    kept, left, nowhere = run.new_table(), run.new_table(), run.new_table()
    run.step(TOKENS[:70], range(70), [kept] * 70)
    run.step(TOKENS[:9], range(9), [left] * 9)
    workspace = GpuWorkspace(run.device, run.sizes.widths, rows=4, tail=4)
    workspace.begin([5, 6, 7, TOKENS[70]], [0, 1, 2, 70], [left] * 3 + [kept], tail=4)
    workspace.redirect([0, 1], nowhere)
    workspace.redirect([2], nowhere)
    while not run.device.run(run.program, workspace, slice_s=0.0):
        workspace.redirect([0, 1, 2], nowhere)
    assert np.array_equal(workspace.logits[3], want[70])
    assert np.array_equal(run.step(TOKENS[9:12], range(9, 12), [left] * 3), want[9:12])


def test_pages_keep_what_they_hold_when_there_come_more(run: Run) -> None:
    want = run.logits(TOKENS, [80])
    table = run.new_table()
    run.step(TOKENS[:80], range(80), [table] * 80)
    pages = run.program.pages
    assert pages is not None
    taken = [pages.take() for _ in range(100)]
    assert len({*taken, *table, *run.table}) == 100 + len(table) + len(run.table)
    assert np.array_equal(run.step(TOKENS[80:], range(80, 90), [table] * 10), want[80:])


def test_more_pages_are_reserved_while_there_are_more(gpu: GpuDevice) -> None:
    shape = KVShape(layers=3, heads=2, head_size=32)
    size = shape.page_bytes
    budget = MemoryBudget(60 * size)
    pages = GpuPages(gpu, shape, budget)
    taken = [pages.take() for _ in range(ALWAYS)]
    assert budget.used == 0  # whoever made it has reserved these
    taken += [pages.take() for _ in range(ALWAYS + 1)]  # which doubles them twice
    assert budget.used == 3 * ALWAYS * size
    with pytest.raises(MemoryBudgetExceeded):
        taken.extend(iter(pages.take, None))
    assert len(set(taken)) == len(taken) == budget.used // size + ALWAYS == 36
    for page in taken:
        pages.give_back(page)
    assert budget.used == 0
    assert pages.take() < ALWAYS
    pages.release()


def test_a_step_that_gives_way_after_each_quantum_goes_on_where_it_was(run: Run, tiny_path: Path) -> None:
    want = run.logits(TOKENS[:5])
    device = GpuDevice(quantum_s=0.0)  # each quantum is one dispatch
    device.start()
    try:
        other = Run(device, tiny_path)
        gave_way = [0]
        submissions = [device.counts.submissions]

        def between() -> None:
            gave_way.append(device.counts.submissions - submissions[-1])
            submissions.append(device.counts.submissions)

        device.preempt()
        got = other.step(TOKENS[:5], range(5), [other.table] * 5, between)
        assert np.array_equal(got, want)
        assert len(gave_way) > other.dispatches / IN_FLIGHT - 2
        assert max(gave_way) <= IN_FLIGHT
        assert device.counts.dispatches == device.counts.submissions == other.dispatches
    finally:
        device.close()


def test_quanta_are_as_long_as_submissions_before_have_shown(run: Run) -> None:
    counts, dispatches = run.device.counts, run.dispatches

    def submissions(seconds: float) -> int:
        for _ in range(200):
            run.program.learn(1e6, seconds)
        before = counts.submissions
        run.logits(TOKENS[:5])
        return counts.submissions - before

    assert submissions(1e-9) == 1
    assert submissions(1e6) == dispatches
    assert submissions(1e-9) == 1


def test_a_step_that_fails_is_a_device_error_and_can_be_begun_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = run.logits(TOKENS[:5])
    encode = run.program.encode

    def broken(begun: Any, workspace: GpuWorkspace) -> Any:
        if workspace.at:
            raise RuntimeError("lost")
        return encode(begun, workspace)

    monkeypatch.setattr(run.device, "quantum_s", 0.0)
    monkeypatch.setattr(run.program, "encode", broken)
    with pytest.raises(DeviceLost, match="'gpu' is lost: a step failed: lost"):
        run.logits(TOKENS[:5])
    monkeypatch.undo()
    assert np.array_equal(run.logits(TOKENS[:5]), want)


def test_matrices_in_pieces_give_the_same_bits(gpu: GpuDevice, tmp_path: Path) -> None:
    path = Tiny(form="F16").write(tmp_path / "m.gguf")
    run = Run(gpu, path)
    device = GpuDevice(max_binding=66_000)
    device.start()
    try:
        pieces = Run(device, path)
        assert pieces.dispatches > run.dispatches
        assert np.array_equal(pieces.logits(TOKENS[:30]), run.logits(TOKENS[:30]))
    finally:
        device.close()


def test_an_adapter_without_packed_products_gives_the_same_bits(
    run: Run, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = run.logits(TOKENS[:30])
    device = GpuDevice()
    device.start()
    try:
        monkeypatch.setattr(device, "_pipelines", Pipelines(device.device, packed_dot=False))
        assert np.array_equal(Run(device, tiny_path).logits(TOKENS[:30]), want)
    finally:
        device.close()
