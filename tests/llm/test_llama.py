"""A whole model against plain NumPy, in every format; and files that the builder must refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Tiny

from coro_rt.errors import ModelError, ModelFileError, UnsupportedModel
from coro_rt.kernels.formats import Format
from coro_rt.kernels.gang import Gang, Outcome
from coro_rt.kernels.kv import new_page
from coro_rt.kernels.program import Workspace
from coro_rt.llm import llama
from coro_rt.llm.gguf_file import open_gguf

TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 250, 90)]


def logits_of(path: Path, tokens: list[int]) -> np.ndarray:
    with open_gguf(path) as file:
        sizes = llama.Hyperparameters.from_gguf(file)
        program = llama.build(file, sizes, sizes.context)
    workspace = Workspace(sizes.widths, rows=len(tokens), tail=len(tokens), threads=1)
    pages = [new_page(sizes.kv) for _ in range(-(-len(tokens) // 64))]
    table = np.array([page.ctypes.data for page in pages], np.int64)
    positions = np.arange(len(tokens), dtype=np.int32)
    workspace.begin(np.array(tokens, np.int32), positions, [table] * len(tokens), tail=len(tokens))
    assert Gang(1).run(program, workspace) is Outcome.DONE
    return workspace.logits.copy()


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
        assert off.max() < INTEGER_BOUND
        assert np.quantile(off, 0.05) < INTEGER_LEAST
    else:
        assert off.max() < FLOAT_BOUND * layers


@pytest.mark.parametrize("form", list(Format.known))
def test_a_model_computes_what_the_architecture_says(form: str, tmp_path: Path) -> None:
    tiny = Tiny(form=form)
    got, want = logits_of(tiny.write(tmp_path / "m.gguf"), TOKENS), tiny.logits(TOKENS)
    check(got, want, integers=Format.known[form].quantized)


@pytest.mark.parametrize(
    "options",
    [
        {"own_head": True},
        {"rope_factors": True},
        {"heads": 6, "kv_heads": 1, "head_size": 64, "hidden": 160, "feed_forward": 224},
        {"heads": 2, "kv_heads": 2, "layers": 1},
        {"layers": 5},
    ],
    ids=str,
)
def test_other_shapes_compute_what_the_architecture_says(options: dict[str, Any], tmp_path: Path) -> None:
    tiny = Tiny(**options)
    got, want = logits_of(tiny.write(tmp_path / "m.gguf"), TOKENS), tiny.logits(TOKENS)
    check(got, want, integers=False, layers=tiny.layers)


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
        ({"llama__expert_count": 8}, UnsupportedModel, "mixtures of experts"),
    ],
    ids=str,
)
def test_a_file_that_contradicts_itself_is_refused(
    changes: dict[str, Any], error: type[ModelError], says: str, tmp_path: Path
) -> None:
    path = Tiny().write(tmp_path / "m.gguf", **changes)
    with pytest.raises(error, match=says):
        logits_of(path, TOKENS)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = Tiny().write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"gpt99"))
    with (
        open_gguf(path) as file,
        pytest.raises(UnsupportedModel, match="'gpt99' is not supported; supported: llama"),
    ):
        llama.Hyperparameters.from_gguf(file)


def test_a_width_that_the_kernels_cannot_do_is_refused(tmp_path: Path) -> None:
    tiny = Tiny(hidden=72)
    with (
        open_gguf(tiny.write(tmp_path / "m.gguf")) as file,
        pytest.raises(UnsupportedModel, match="multiples of 32"),
    ):
        llama.Hyperparameters.from_gguf(file)
