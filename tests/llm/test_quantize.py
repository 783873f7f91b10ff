"""Quantizing a file or a folder: what comes out loads, computes, and is there as a whole or not at all."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from makers import small_gguf, write_gguf
from safetensors_maker import write_safetensors
from test_architectures import TOKENS, check, logits_of
from tiny import TEMPLATE, Tiny
from tiny_bert import WORDS, TinyBert

from coro_rt.cli.quantize import TYPES as CLI_TYPES
from coro_rt.errors import ModelError, ModelFileError, ModelNotFound, QuantizeError, UnsupportedModel
from coro_rt.kernels.formats import Format
from coro_rt.llm.gguf_file import open_gguf
from coro_rt.llm.quantize import TYPES, quantize
from coro_rt.llm.wordpiece import WordPiece


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def tiny_f32(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("quantize") / "tiny.gguf")


def assert_alone(path: Path, *others: Path) -> None:
    assert sorted(path.parent.iterdir()) == sorted([path, *others])


def values_of(path: Path, name: str) -> np.ndarray:
    with open_gguf(path) as file:
        tensor = file.tensors[name]
        shape = (int(np.prod(tensor.shape[:-1])), tensor.shape[-1])
        return Format.known[tensor.type.name].dequantize(tensor.data, shape).copy()


def raw_metadata(path: Path) -> dict[str, bytes]:
    with open_gguf(path) as file:
        return file.raw_metadata()


@pytest.mark.parametrize("kind", TYPES)
def test_the_result_loads_and_the_report_says_its_errors(
    kind: str, tiny: Tiny, tiny_f32: Path, tmp_path: Path
) -> None:
    target = tmp_path / "q.gguf"
    done: list[tuple[int, int]] = []
    report = quantize(tiny_f32, target, kind, progress=lambda *counts: done.append(counts))
    assert_alone(target)
    assert report.target_bytes == target.stat().st_size
    assert report.source_bytes == tiny_f32.stat().st_size
    assert done == sorted(done)
    assert done[-1] == (sum(v.size for v in tiny.weights.values()),) * 2
    assert [tensor.name for tensor in report.tensors] == list(tiny.weights)
    for tensor in report.tensors:
        want = tiny.weights[tensor.name].reshape(-1, tensor.shape[-1])
        back = values_of(target, tensor.name)
        size = float(np.sqrt(np.square(want).mean()))
        assert tensor.rms_error == pytest.approx(
            float(np.sqrt(np.square(back - want).mean())) / size, rel=1e-3
        )
        assert tensor.max_error == pytest.approx(float(np.abs(back - want).max()) / size, rel=1e-3)
        assert tensor.target == ("F32" if want.shape[0] == 1 else kind.upper())
        assert (tensor.rms_error == 0) == (tensor.target == "F32")
        assert tensor.rms_error < {8: 0.006, 6: 0.025, 5: 0.045, 4: 0.09}.get(
            Format.known[kind.upper()].bits, 3e-3
        )
    assert np.isfinite(logits_of(target, TOKENS)).all()


def test_metadata_are_kept_as_they_are_but_for_the_type(tiny_f32: Path, tmp_path: Path) -> None:
    quantize(tiny_f32, tmp_path / "q.gguf", "q4_k")
    before, after = raw_metadata(tiny_f32), raw_metadata(tmp_path / "q.gguf")
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == {"general.file_type", "general.quantization_version"}
    again = tmp_path / "again.gguf"
    quantize(tiny_f32, again, "f16")
    quantize(again, tmp_path / "q8.gguf", "q8_0")
    changed = raw_metadata(tmp_path / "q8.gguf")
    with open_gguf(tmp_path / "q8.gguf") as file:
        assert file.require_int("general.file_type") == gguf.LlamaFileType.MOSTLY_Q8_0
        assert file.require_int("general.quantization_version") == 2
    assert list(changed)[: len(before)] == list(before)


def test_other_readers_read_the_same(tiny_f32: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.gguf"
    quantize(tiny_f32, target, "q6_k")
    reader = gguf.GGUFReader(target)
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["tokenizer.chat_template"].contents() == TEMPLATE
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q6_K
    for tensor in reader.tensors:
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
        ours = values_of(target, tensor.name).reshape(theirs.shape)
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", ["F16", "BF16"])
def test_half_precision_is_a_source_too(form: str, tmp_path: Path) -> None:
    tiny = Tiny(form=form)
    quantize(tiny.write(tmp_path / "half.gguf"), tmp_path / "q.gguf", "q8_0")
    want = tiny.weights["blk.0.attn_q.weight"]
    assert (
        np.abs(values_of(tmp_path / "q.gguf", "blk.0.attn_q.weight") - want).max() < 0.01 * np.abs(want).max()
    )
    assert quantize(tmp_path / "half.gguf", tmp_path / "f32.gguf", "f32").tensors[0].rms_error == 0


@pytest.mark.parametrize(
    ("kind", "columns", "became"),
    [
        ("q4_k", 96, "Q4_1"),
        ("q5_k", 96, "Q5_1"),
        ("q6_k", 96, "Q8_0"),
        ("q4_k", 48, "F16"),
        ("q4_0", 48, "F16"),
        ("bf16", 48, "BF16"),
    ],
)
def test_rows_that_do_not_fit_get_a_simpler_type_that_is_named(
    kind: str, columns: int, became: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).standard_normal((4, columns), dtype=np.float32)
    path = write_gguf(tmp_path / "a.gguf", {}, {"odd.weight": values})
    (tensor,) = quantize(path, tmp_path / "q.gguf", kind).tensors
    assert tensor.target == became
    unit = Format.known[kind.upper()].unit
    assert tensor.note == (None if became == kind.upper() else f"rows of {columns} are no multiple of {unit}")
    assert tensor.rms_error < 0.09


def test_what_is_added_and_vectors_stay_in_float32(tmp_path: Path) -> None:
    report = quantize(TinyBert().write(tmp_path / "b.gguf"), tmp_path / "q.gguf", "q4_0")
    kept = {tensor.name: tensor.note for tensor in report.tensors if tensor.target == "F32"}
    assert kept["position_embd.weight"] == kept["token_types.weight"] == "added, not multiplied"
    assert kept["token_embd_norm.bias"] == kept["blk.1.attn_q.bias"] == "a vector"
    assert {tensor.target for tensor in report.tensors if tensor.name not in kept} == {"Q4_0"}


def test_tensors_of_many_dimensions_and_zeros_are_quantized(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).standard_normal((2, 3, 64), dtype=np.float32)
    tensors = {"cube.weight": cube, "zero.weight": np.zeros((2, 64), np.float32)}
    first, second = quantize(
        write_gguf(tmp_path / "a.gguf", {}, tensors), tmp_path / "q.gguf", "q8_0"
    ).tensors
    assert first.shape == (2, 3, 64)
    assert np.abs(values_of(tmp_path / "q.gguf", "cube.weight") - cube.reshape(6, 64)).max() < 0.02
    assert (second.rms_error, second.max_error) == (0, 0)


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    big = np.random.default_rng(0).standard_normal((4096, 1024), dtype=np.float32)
    path = write_gguf(tmp_path / "a.gguf", {}, {f"{i}.weight": big for i in range(3)})
    tracemalloc.start()
    quantize(path, tmp_path / "q.gguf", "q4_1")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.5 * big.nbytes  # of 48 MB; some rows at a time


def test_the_same_input_gives_the_same_bytes_and_replaces_what_was_there(
    tiny_f32: Path, tmp_path: Path
) -> None:
    target = tmp_path / "q.gguf"
    quantize(tiny_f32, target, "q5_1")
    first = target.read_bytes()
    target.write_bytes(b"something else")
    quantize(tiny_f32, target, "Q5_1")
    assert target.read_bytes() == first


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, RuntimeError])
def test_whatever_ends_it_leaves_nothing_behind(
    error: type[BaseException], tiny_f32: Path, tmp_path: Path
) -> None:
    target = tmp_path / "q.gguf"
    target.write_bytes(b"before")

    def progress(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(error):
        quantize(tiny_f32, target, "q4_0", progress=progress)
    assert_alone(target)
    assert target.read_bytes() == b"before"


def test_the_source_is_not_overwritten(tiny_f32: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(tiny_f32)
    before = tiny_f32.read_bytes()
    for target in (tiny_f32, link):
        with pytest.raises(QuantizeError, match="is the file to read: give the new file another name"):
            quantize(tiny_f32, target, "q4_0")
    assert tiny_f32.read_bytes() == before


def test_what_is_quantized_is_not_quantized_again(tiny_f32: Path, tmp_path: Path) -> None:
    quantize(tiny_f32, tmp_path / "q8.gguf", "q8_0")
    with pytest.raises(
        QuantizeError, match=r"is quantized already \(Q8_0\); a second rounding .* F32, F16 or BF16"
    ):
        quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "q4_0")
    assert_alone(tmp_path / "q8.gguf")


def test_an_unknown_type_names_the_known_ones(tiny_f32: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="no type 'int4'; the types are: f32, f16, bf16, q4_0, q4_1"):
        quantize(tiny_f32, tmp_path / "q.gguf", "int4")
    assert CLI_TYPES == TYPES


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [(np.nan, "q4_0", "no numbers"), (np.inf, "f16", "infinities"), (1e6, "f16", "too large for F16"),
     (1e9, "q8_0", "too large for Q8_0"), (3e38, "q4_k", "too large for Q4_K")],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(value: float, kind: str, says: str, tmp_path: Path) -> None:
    values = np.zeros((2, 256), np.float32)
    values[1, 5] = value
    path = write_gguf(tmp_path / "a.gguf", {}, {"bad.weight": values})
    with pytest.raises(QuantizeError, match=rf"the tensor bad.weight .*{says}"):
        quantize(path, tmp_path / "q.gguf", kind)
    assert_alone(path)


def test_a_target_that_cannot_be_is_refused_first(tiny_f32: Path, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "q.gguf"):
        with pytest.raises(QuantizeError, match="cannot be written"):
            quantize(tiny_f32, target, "q4_0")


def test_a_source_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no file"):
        quantize(tmp_path / "missing.gguf", tmp_path / "q.gguf", "q4_0")
    with pytest.raises(ModelNotFound, match="holds 0 safetensors files"):
        quantize(tmp_path, tmp_path / "q.gguf", "q4_0")
    (tmp_path / "letter.gguf").write_text("Dear model")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        quantize(tmp_path / "letter.gguf", tmp_path / "q.gguf", "q4_0")
    with pytest.raises(QuantizeError, match="quantized already"):
        quantize(small_gguf(tmp_path / "s.gguf"), tmp_path / "q.gguf", "q4_0")
    part = write_gguf(tmp_path / "part.gguf", {"split.count": 2}, {"a": np.zeros(4, np.float32)})
    with pytest.raises(UnsupportedModel, match="one of 2 files"):
        quantize(part, tmp_path / "q.gguf", "q4_0")


# Folders of model hubs


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_folder_with_a_bert_becomes_the_same_model(dtype: str, prefix: str, tmp_path: Path) -> None:
    tiny = TinyBert()
    folder = tiny.write_folder(tmp_path / "hub", prefix=prefix, dtype=dtype)
    for source in (folder, folder / "model.safetensors"):
        report = quantize(source, tmp_path / "q.gguf", "f32")
        assert {tensor.name for tensor in report.tensors} == tiny.weights.keys()
        for name, want in tiny.weights.items():
            got = values_of(tmp_path / "q.gguf", name).reshape(want.shape)
            assert np.abs(got - want).max() <= {"F32": 0, "F16": 4e-3, "BF16": 4e-2}[dtype]
    ours, by_hand = open_gguf(tmp_path / "q.gguf"), open_gguf(tiny.write(tmp_path / "hand.gguf"))
    for key, value in tiny.metadata.items():
        assert ours.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert WordPiece(ours).encode("The cat!") == WordPiece(by_hand).encode("The cat!")


def test_a_vocabulary_file_does_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    folder = TinyBert().write_folder(tmp_path / "hub")
    quantize(folder, tmp_path / "a.gguf", "f32")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    quantize(folder, tmp_path / "b.gguf", "f32")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def llama_folder(tiny: Tiny, folder: Path, *, shards: bool = False, **changes: Any) -> Path:
    """The model as a folder of a hub: pairs that turn together stand half a head apart there."""
    folder.mkdir()
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names |= {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"} | {
        "attn_output": "self_attn.o_proj"
    }
    names |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    tensors: dict[str, np.ndarray] = {}
    for name, values in tiny.weights.items():
        stem = name.removesuffix(".weight")
        if stem.endswith(("attn_q", "attn_k")):
            values = (
                values.reshape(-1, tiny.head_size // 2, 2, tiny.hidden).swapaxes(1, 2).reshape(values.shape)
            )
        block, _, part = stem.rpartition(".")
        top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
        hub = f"model.layers.{block[4:]}.{names[part]}" if block else top[part]
        tensors[hub + ".weight"] = values
    if shards:
        halves = [dict(list(tensors.items())[i::2]) for i in range(2)]
        where = {}
        for i, half in enumerate(halves):
            write_safetensors(folder / f"model-{i}.safetensors", half)
            where |= dict.fromkeys(half, f"model-{i}.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    else:
        write_safetensors(folder / "model.safetensors", tensors)
    names_of = tiny.tokenizer["tokenizer.ggml.tokens"]
    bpe = tokenizers.models.BPE(
        vocab={name: i for i, name in enumerate(names_of) if i > 2},
        merges=[tuple(merge.split(" ")) for merge in tiny.tokenizer["tokenizer.ggml.merges"]],
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False),
        ]
    )
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = [{"id": i, "content": names_of[i], "special": True} for i in range(3)]
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    settings = {
        "bos_token": "<|im_start|>",
        "eos_token": {"content": "<|im_end|>"},
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    heads = tiny.weights["blk.0.attn_q.weight"].shape[0] // tiny.head_size
    config = {
        "model_type": "llama", "hidden_size": tiny.hidden,
        "intermediate_size": len(tiny.weights["blk.0.ffn_up.weight"]), "num_hidden_layers": tiny.layers,
        "num_attention_heads": heads, "num_key_value_heads": tiny.kv_heads, "head_dim": tiny.head_size,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": tiny.context,
        "vocab_size": len(names_of), "tie_word_embeddings": "output.weight" not in tiny.weights,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize("options", [{}, {"own_head": True}], ids=str)
@pytest.mark.parametrize("shards", [False, True])
def test_a_folder_with_a_llama_becomes_the_same_model(options: Any, shards: bool, tmp_path: Path) -> None:
    tiny = Tiny(**options)
    quantize(llama_folder(tiny, tmp_path / "hub", shards=shards), tmp_path / "q.gguf", "f32")
    check(logits_of(tmp_path / "q.gguf", TOKENS), tiny.logits(TOKENS), integers=False)
    with open_gguf(tmp_path / "q.gguf") as ours:
        metadata = {f"llama.{key}": value for key, value in tiny.metadata.items()}
        for key, value in (metadata | tiny.tokenizer).items():
            assert ours.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value), key
        assert ours.metadata["tokenizer.chat_template"] == TEMPLATE


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model_type": "mamba"}, UnsupportedModel, "'mamba' is not supported; supported: llama, bert"),
        ({"model_type": None}, ModelFileError, "'model_type' is missing"),
        ({"rope_scaling": {"rope_type": "yarn"}}, UnsupportedModel, "'yarn'"),
        ({"attention_bias": True}, UnsupportedModel, "attention_bias"),
        ({"hidden_act": "relu"}, UnsupportedModel, "'relu'"),
        ({"hidden_size": 128}, ModelFileError, "has shape"),
        ({"hidden_size": "wide"}, ModelFileError, "'hidden_size' is 'wide'"),
        ({"num_hidden_layers": 3}, ModelFileError, "blk.2.attn_norm.weight is missing"),
        ({"num_hidden_layers": 1}, UnsupportedModel, "model.layers.1.input_layernorm.weight"),
        ({"num_attention_heads": 0}, ModelFileError, "0 heads"),
        ({"vocab_size": 10}, ModelFileError, "has shape"),
    ],
    ids=str,
)
def test_a_folder_that_cannot_be_right_is_refused(
    changes: dict[str, Any], error: type[ModelError], says: str, tmp_path: Path
) -> None:
    folder = llama_folder(Tiny(), tmp_path / "hub", **changes)
    with pytest.raises(error, match=says):
        quantize(folder, tmp_path / "q.gguf", "f16")
    assert_alone(folder)


@pytest.mark.parametrize(
    ("part", "value", "error", "says"),
    [
        ("model", {"type": "Unigram"}, UnsupportedModel, "'Unigram' is not supported"),
        ("model", {"type": "WordPiece", "vocab": {"a": 0}}, ModelFileError, r"lacks \[CLS\]"),
        ("model", {"type": "WordPiece", "vocab": {"a": 0, "b": 0}}, ModelFileError, "not distinct"),
        ("model", {"type": "WordPiece", "vocab": {"a": []}}, ModelFileError, "not distinct"),
        ("model", {"type": "WordPiece"}, ModelFileError, "'vocab' is missing"),
        ("model", None, ModelFileError, "'model' is missing"),
        ("normalizer", {"type": "NFC"}, UnsupportedModel, "the normalizer .* is not supported"),
        ("pre_tokenizer", {"type": "Whitespace"}, UnsupportedModel, "the pre_tokenizer .* is not supported"),
    ],
)
def test_a_tokenizer_that_is_not_known_is_refused(
    part: str, value: Any, error: type[ModelError], says: str, tmp_path: Path
) -> None:
    folder = TinyBert().write_folder(tmp_path / "hub")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {part: value}))
    with pytest.raises(error, match=says):
        quantize(folder, tmp_path / "q.gguf", "f16")


def test_another_way_to_cut_texts_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(Tiny(), tmp_path / "hub")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedModel, match="this way to cut a text before merging is not known"):
        quantize(folder, tmp_path / "q.gguf", "f16")


def test_pooling_is_read_where_sentence_encoders_say_it(tmp_path: Path) -> None:
    folder = TinyBert().write_folder(tmp_path / "hub")
    (folder / "1_Pooling").mkdir()
    for mode, number in (("mean_tokens", 1), ("cls_token", 2)):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
        quantize(folder, tmp_path / "q.gguf", "f32")
        with open_gguf(tmp_path / "q.gguf") as file:
            assert file.require_int("bert.pooling_type") == number
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(UnsupportedModel, match="pooling by"):
        quantize(folder, tmp_path / "q.gguf", "f32")


HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b"abc", "header would have"),
        (b"\xff" * 100, "header would have"),
        ((100).to_bytes(8, "little") + b"{", "header would have"),
        ((3).to_bytes(8, "little") + b"{,}" + bytes(8), "not JSON"),
        ((2).to_bytes(8, "little") + b"[]" + bytes(8), "not a JSON object"),
        ({"a": 5}, "no dtype, shape and data_offsets"),
        ({"a": HEADER["a"] | {"data_offsets": [0, 16]}}, "does not fit"),
        ({"a": HEADER["a"] | {"data_offsets": [8, 0]}}, "does not fit"),
        ({"a": HEADER["a"] | {"data_offsets": [-8, 0]}}, "does not fit"),
        ({"a": HEADER["a"] | {"shape": [-2]}}, "has the shape"),
        ({"a": HEADER["a"] | {"shape": [3]}}, "does not fit"),
    ],
    ids=str,
)
def test_a_safetensors_file_that_lies_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    if isinstance(content, dict):
        text = json.dumps(content).encode()
        content = len(text).to_bytes(8, "little") + text + bytes(8)
    folder = TinyBert().write_folder(tmp_path / "hub")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match=says):
        quantize(folder, tmp_path / "q.gguf", "f16")


def test_a_folder_without_its_settings_is_named(tmp_path: Path) -> None:
    folder = TinyBert().write_folder(tmp_path / "hub")
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    with pytest.raises(ModelNotFound, match="holds neither"):
        quantize(folder, tmp_path / "q.gguf", "f16")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelFileError, match="holds list, not an object"):
        quantize(folder, tmp_path / "q.gguf", "f16")
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"no file .*config.json"):
        quantize(folder, tmp_path / "q.gguf", "f16")
