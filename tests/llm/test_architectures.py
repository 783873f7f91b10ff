"""Whole models against plain NumPy, of every architecture and in every format; and files that are refused."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TINIES, Tiny, TinyGemma3, TinyPhi3, TinyQwen2, TinyQwen3

import coro_rt
from coro_rt.errors import ModelError, ModelFileError, UnsupportedModel
from coro_rt.kernels.formats import Format
from coro_rt.kernels.gang import Gang, Outcome
from coro_rt.kernels.kv import new_page
from coro_rt.kernels.program import Program
from coro_rt.kernels.workspace import Workspace
from coro_rt.llm.architecture import Hyperparameters
from coro_rt.llm.build import build
from coro_rt.llm.gguf_file import open_gguf

TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 250, 90)]


def logits_of(
    path: Path, tokens: list[int], cuts: Sequence[int] = (), threads: int = 1, kv_bits: int = 16
) -> np.ndarray:
    """Logits after each token; `cuts`: where the prompt is cut into steps."""
    gang = Gang(threads)
    gang.start()
    with open_gguf(path) as file:
        sizes = replace(Hyperparameters.from_gguf(file), kv_bits=kv_bits)
        program = Program()
        build(file, sizes, sizes.context, program)
    pages = [new_page(sizes.kv) for _ in range(-(-len(tokens) // 64))]
    table = np.array([page.ctypes.data for page in pages], np.int64)
    positions = np.arange(len(tokens), dtype=np.int32)
    logits = []
    for begin, end in pairwise([0, *cuts, len(tokens)]):
        count = end - begin
        workspace = Workspace(sizes.widths, rows=count, tail=count, threads=threads)
        step = np.array(tokens[begin:end], np.int32)
        workspace.begin(step, positions[begin:end], [table] * count, tail=count)
        assert gang.run(program, workspace) is Outcome.DONE
        logits.append(workspace.logits.copy())
    gang.close()
    return np.concatenate(logits)


FLOAT_BOUND = (
    2e-3  # of the standard deviation of the logits: keys and values may round the other way in float16
)
INTEGER_BOUND = (
    8e-2  # an activation on the edge between two int8 values may round the other way: a step of 1/127,
)
INTEGER_LEAST = 1e-3  # which later tokens inherit through attention; some logits see none of it


def check(got: np.ndarray, want: np.ndarray, *, integers: bool, layers: int = 2) -> None:
    off = np.abs(got - want) / want.std()
    if integers:
        assert off.max() < INTEGER_BOUND * max(1, layers / 2)
        assert np.quantile(off, 0.05) < INTEGER_LEAST
    else:
        assert off.max() < FLOAT_BOUND * layers


@pytest.mark.parametrize("form", list(Format.known))
def test_a_model_computes_what_the_architecture_says(form: str, tmp_path: Path) -> None:
    tiny = Tiny(form=form)
    got, want = logits_of(tiny.write(tmp_path / "m.gguf"), TOKENS), tiny.logits(TOKENS)
    check(got, want, integers=Format.known[form].quantized)


@pytest.mark.parametrize("form", ["F32", "Q4_1"])
@pytest.mark.parametrize("tiny", [TinyQwen2, TinyQwen3, TinyPhi3, TinyGemma3], ids=lambda tiny: tiny.arch)
def test_every_architecture_computes_what_was_published(tiny: type[Tiny], form: str, tmp_path: Path) -> None:
    model = tiny(form=form)
    got, want = logits_of(model.write(tmp_path / "m.gguf"), TOKENS), model.logits(TOKENS)
    check(got, want, integers=form != "F32", layers=model.layers)


SHAPES = [
    (Tiny, {"own_head": True}),
    (Tiny, {"rope_factors": True}),
    (Tiny, {"rope_linear": 4.0, "rope_factors": True}),
    (Tiny, {"biases": True}),
    (Tiny, {"heads": 6, "kv_heads": 1, "head_size": 64, "hidden": 160, "feed_forward": 224}),
    (Tiny, {"heads": 2, "kv_heads": 2, "layers": 1}),
    (Tiny, {"layers": 5}),
    (TinyQwen2, {"own_head": True, "heads": 14, "kv_heads": 2, "head_size": 64, "hidden": 896}),
    (TinyQwen3, {"own_head": True, "heads": 4, "kv_heads": 2, "head_size": 128}),
    (TinyPhi3, {"window": 17, "own_head": True}),
    (TinyPhi3, {"window": 64, "heads": 4, "hidden": 384}),
    (TinyPhi3, {"original_context": 64}),
    (TinyPhi3, {"original_context": 256}),
    (TinyPhi3, {"head_size": 128, "hidden": 256, "rope_width": 96, "original_context": 64}),
    (TinyGemma3, {"head_size": 256, "hidden": 320, "window": 33}),
    (TinyGemma3, {"rope_linear": 8.0, "window": 1}),
    (TinyGemma3, {"layers": 62, "hidden": 64, "heads": 2, "head_size": 64, "feed_forward": 32}),
]


@pytest.mark.parametrize(("tiny", "options"), SHAPES, ids=str)
def test_other_shapes_compute_what_the_architecture_says(
    tiny: type[Tiny], options: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny(**options)
    got, want = logits_of(model.write(tmp_path / "m.gguf"), TOKENS), model.logits(TOKENS)
    check(got, want, integers=False, layers=model.layers)


@pytest.mark.parametrize("arch", TINIES)
def test_logits_are_the_same_to_the_bit_however_the_prompt_is_cut(arch: str, tmp_path: Path) -> None:
    path = TINIES[arch](form="Q8_0").write(tmp_path / "m.gguf")
    whole = logits_of(path, TOKENS)
    for cuts, threads in ([1], 2), ([64, 65], 3), (range(1, 90), 1):
        assert np.array_equal(logits_of(path, TOKENS, cuts, threads), whole), cuts


@pytest.mark.anyio
@pytest.mark.parametrize("arch", TINIES)
async def test_every_architecture_chats_with_its_own_tokenizer(arch: str, tmp_path: Path) -> None:
    path = TINIES[arch](form="Q4_0").write(tmp_path / "m.gguf")
    async with coro_rt.open_runtime() as runtime, await runtime.load_model(path) as llm:
        async with llm.chat("hello  <|im_end|>", max_tokens=5, ignore_eos=True) as stream:
            tokens = [token async for token in stream]
        assert len(tokens) == 5
        ids = llm.tokenizer.encode("hello  <|im_end|>")
        assert llm.tokenizer.decode(ids) == "hello  <|im_end|>"


def test_formats_may_mix_inside_a_layer(tmp_path: Path) -> None:
    tiny = Tiny(mixed=True, own_head=True)
    assert len(set(tiny.forms.values())) == len(Format.known)
    got, want = logits_of(tiny.write(tmp_path / "m.gguf"), TOKENS), tiny.logits(TOKENS)
    check(got, want, integers=True)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"llama__block_count": None}, ModelFileError, "llama.block_count"),
        ({"llama__block_count": 3}, ModelFileError, "blk.2.attn_norm.weight is missing"),
        ({"llama__feed_forward_length": 128}, ModelFileError, "ffn_gate.weight has shape"),
        ({"llama__attention__head_count": 0}, ModelFileError, "0 heads"),
        ({"llama__attention__head_count_kv": 3}, ModelFileError, "contradict each other"),
        ({"llama__context_length": 2**31}, ModelFileError, "implausible context"),
        ({"llama__rope__dimension_count": 66}, ModelFileError, "contradict each other"),
        ({"llama__rope__freq_base": 0.0}, ModelFileError, "implausible"),
        ({"llama__rope__scaling__type": "yarn"}, UnsupportedModel, "'yarn' is not supported"),
        ({"llama__rope__scaling__type": "linear"}, ModelFileError, "scaling.factor' is missing"),
        ({"llama__expert_count": 8}, UnsupportedModel, "mixtures of experts"),
        ({"llama__final_logit_softcapping": 30.0}, UnsupportedModel, "capped logits"),
        ({"llama__attention__value_length": 64}, UnsupportedModel, "keys of 32 and values of 64"),
        ({"llama__block_count": 1}, UnsupportedModel, "9 tensors belong to something"),
    ],
    ids=str,
)
def test_a_file_that_contradicts_itself_is_refused(
    changes: dict[str, Any], error: type[ModelError], says: str, tmp_path: Path
) -> None:
    path = Tiny().write(tmp_path / "m.gguf", **changes)
    with pytest.raises(error, match=says):
        logits_of(path, TOKENS)


def test_a_tensor_that_no_operation_uses_is_named(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.vector("blk.0.attn_q_norm.weight", 32)
    with pytest.raises(UnsupportedModel, match=r"not supported for 'llama': blk.0.attn_q_norm.weight"):
        logits_of(tiny.write(tmp_path / "m.gguf"), TOKENS)


def test_factors_are_divided_by(tmp_path: Path) -> None:
    tiny = Tiny(rope_factors=True)
    tiny.weights["rope_freqs.weight"][3] = 0
    with pytest.raises(ModelFileError, match="has values that are not positive"):
        logits_of(tiny.write(tmp_path / "m.gguf"), TOKENS)


def test_a_window_without_bounds_is_refused(tmp_path: Path) -> None:
    path = TinyGemma3().write(tmp_path / "m.gguf", gemma3__attention__sliding_window=2**32 - 1)
    with pytest.raises(ModelFileError, match="implausible sliding window"):
        logits_of(path, TOKENS)


def test_long_factors_need_to_say_where_long_begins(tmp_path: Path) -> None:
    path = TinyPhi3(original_context=64).write(
        tmp_path / "m.gguf", phi3__rope__scaling__original_context_length=None
    )
    with pytest.raises(ModelFileError, match="original_context_length' is missing"):
        logits_of(path, TOKENS)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = Tiny().write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"gpt99"))
    with (
        open_gguf(path) as file,
        pytest.raises(UnsupportedModel, match="'gpt99' is not supported; supported: llama, qwen2"),
    ):
        Hyperparameters.from_gguf(file)


def test_a_width_that_the_kernels_cannot_do_is_refused(tmp_path: Path) -> None:
    tiny = Tiny(hidden=72)
    with (
        open_gguf(tiny.write(tmp_path / "m.gguf")) as file,
        pytest.raises(UnsupportedModel, match="multiples of 32"),
    ):
        Hyperparameters.from_gguf(file)
