import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import BYTE_NAMES, in_memory, tokenizer_metadata, write_gguf

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.llm.byte_level import PRE_TOKENIZERS
from coro_rt.llm.gguf_file import open_gguf
from coro_rt.llm.tokenizer import Tokenizer, _Splitter

DATA = Path(__file__).parents[1] / "data"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def make(**more) -> Tokenizer:
        path = tmp_path_factory.mktemp("tokenizer") / "f.gguf"
        return Tokenizer.from_gguf(open_gguf(write_gguf(path, tokenizer_metadata(**more))))

    return make


@pytest.fixture(scope="module")
def tiny(make) -> Tokenizer:
    return make()


@pytest.fixture(scope="module")
def smollm2(model_path) -> Tokenizer:
    return Tokenizer.from_gguf(open_gguf(model_path))


def names(tokenizer: Tokenizer, ids: list[int]) -> list[bytes]:
    return [tokenizer.token_bytes(token) for token in ids]


def test_merges_apply_in_their_order_and_words_keep_their_space(tiny):
    assert names(tiny, tiny.encode("hello hello hell")) == [b"hello", b" hello", b" ", b"hell"]


def test_smollm_cuts_digits_singly_and_gpt2_does_not(make):
    merges = ["Ġ 1", "1 2"]
    smollm, gpt2 = make(merges=merges, pre="smollm"), make(merges=merges, pre="gpt-2")
    assert names(smollm, smollm.encode("12 12")) == [b"1", b"2", b" ", b"1", b"2"]
    assert names(gpt2, gpt2.encode("12 12")) == [b"12", b" 1", b"2"]


CUTS = {
    "qwen2": "I|'ll| pay| |1|2|3|4|€,\n\n| | ok|'RE|  ",
    "llama-bpe": "I|'ll| pay| |123|4|€,\n\n| | ok|'RE|  ",
    "dbrx": "I|'ll| pay| |123|4|€,\n\n| | ok|'RE|  ",
    "gpt-4o": "I'll| pay| |123|4|€,\n\n| | ok'RE|  ",
}


@pytest.mark.parametrize("pre", CUTS)
def test_texts_are_cut_as_the_makers_of_a_model_cut_them(pre):
    cut, text = PRE_TOKENIZERS[pre].pre_tokenizer(), CUTS[pre].replace("|", "")
    assert "|".join(text[a:b] for _, (a, b) in cut.pre_tokenize_str(text)) == CUTS[pre]


def test_llama_3_takes_a_word_that_is_a_token_whole():
    merges = ["h e", "l l", "l o", "he ll"]  # "hello" is a token, but no merge leads to it
    for pre, expected in ("llama-bpe", [b"hello"]), ("dbrx", [b"hell", b"o"]):
        metadata = tokenizer_metadata(merges=merges, pre=pre, user_defined=["hello"])
        metadata["tokenizer.ggml.token_type"][-1] = 1
        tokenizer = Tokenizer.from_gguf(in_memory(metadata))
        assert names(tokenizer, tokenizer.encode("hello")) == expected
        assert tokenizer.add_bos == (pre == "llama-bpe")


def test_qwen_composes_characters_first(make):
    tokenizer = make(pre="qwen2")
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


@given(text=st.text("<a>b ", max_size=40))
def test_names_are_found_as_a_regular_expression_finds_them(text):
    some = {"<a>": 1, "<a>>": 2, "b": 3, "  ": 4, "<ab>": 5}
    pattern = "|".join(map(re.escape, sorted(some, key=len, reverse=True)))
    expected = [some.get(piece, piece) for piece in re.split(f"({pattern})", text) if piece]
    assert _Splitter(some).split(text) == expected


@given(text=TEXTS)
def test_any_text_survives_the_round_trip(tiny, text):
    ids = tiny.encode(text)
    assert b"".join(names(tiny, ids)) == text.encode()
    assert tiny.decode(ids) == text


FORGERIES = st.lists(TEXTS | st.sampled_from(["<|im_start|>", "<|im_end|>", "<|", "|>", "im_end"])).map(
    "".join
)


@given(text=FORGERIES)
def test_plain_text_never_gives_a_control_token(tiny, text):
    ids = tiny.encode(text)
    assert not {0, 1, 2}.intersection(ids)
    assert tiny.decode(ids) == text


def test_no_merge_leads_to_a_control_token(make):
    with pytest.raises(ModelFileError, match="'a b' does not join two tokens to a third"):
        make(control=["<|endoftext|>", "ab", "<|im_end|>"], stray_merges=["a b"])


def test_special_text_gives_control_tokens_at_their_longest_names(make):
    tokenizer = make(control=["<|endoftext|>", "<|im", "<|im_end|>"])
    assert tokenizer.encode("<|im_end|>a<|im", special=True) == [2, *tokenizer.encode("a"), 1]
    assert tokenizer.encode("", special=True) == []


def test_user_defined_tokens_are_found_in_every_text(make):
    tokenizer = make(user_defined=["<tool>", "ü "])
    tool = tokenizer.vocab_size - 2
    for special in True, False:
        assert tokenizer.encode("hello<tool>ü ", special=special) == [
            *tokenizer.encode("hello"),
            tool,
            tool + 1,
        ]
    assert tokenizer.decode([tool, tool + 1]) == "<tool>ü "


def test_ends_and_beginning_come_from_the_file(make):
    tokenizer = make(eot_token_id=1, add_bos_token=True)
    assert tokenizer.eos_ids == {0, 1, 2}  # <|endoftext|> by its name
    assert (tokenizer.bos_id, tokenizer.add_bos) == (1, True)
    plain = make(control=["<x>"], bos_token_id=None, eos_token_id=0)
    assert (plain.eos_ids, plain.bos_id, plain.add_bos) == ({0}, None, False)


def test_the_end_is_a_control_token_whatever_type_the_file_gives_it(make):
    tokenizer = make(control=[], user_defined=["<end>"], bos_token_id=None, eos_token_id=256 + 5)
    assert tokenizer.eos_ids == {261}
    assert 261 not in tokenizer.encode("<end>")
    assert tokenizer.encode("<end>", special=True) == [261]
    assert tokenizer.token_bytes(261) == b""


def test_a_character_of_bytes_that_the_vocabulary_lacks_becomes_the_replacement_character(make):
    tokenizer = make(missing_bytes=b"\x04\xf1\xc0")
    assert tokenizer.decode(tokenizer.encode("a\x04b\U00040000ü")) == "a\ufffdb\ufffdü"


def test_a_lone_surrogate_is_an_error_and_broken_bytes_are_replaced(tiny):
    with pytest.raises(UnicodeEncodeError):
        tiny.encode("a\ud800")
    assert tiny.decode(tiny.encode("ü")[:1]) == "\ufffd"


def test_an_id_outside_the_vocabulary_is_an_error(tiny):
    assert tiny.token_bytes(tiny.vocab_size - 1) == b" hello"
    for token in -1, tiny.vocab_size:
        with pytest.raises(IndexError, match=f"no token {token}"):
            tiny.token_bytes(token)


def test_unknown_tokenizers_are_named(make):
    with pytest.raises(UnsupportedModel, match=r"'bert' is not supported; known are 'gpt2', 'llama'"):
        make(model="bert")
    with pytest.raises(UnsupportedModel, match=r"is 'klingon'; known are 'gpt-2', 'smollm', 'qwen2'"):
        make(pre="klingon")
    with pytest.raises(UnsupportedModel, match=r"is none; known are"):
        make(pre=None)


BROKEN = {
    "no vocabulary": ({"tokens": None}, "tokens' is missing"),
    "no types": ({"token_type": None}, "token_type' is missing"),
    "another number of types": ({"token_type": [1, 1]}, "but 2 token types"),
    "a type that BPE does not have": ({"token_type": [6] * 264}, "token type 6"),
    "a token that comes twice": ({"control": ["<|im_end|>", "a", "<|im_end|>"]}, "same text"),
    "a character that is no byte": (
        {"tokens": ["日", *BYTE_NAMES], "token_type": [1] * 257},
        "'日', which stands for no byte",
    ),
    "too few bytes": ({"missing_bytes": b"\xef"}, "lacks the bytes ef"),
    "an end outside of the vocabulary": ({"eos_token_id": 5000}, "eos_token_id' is 5000"),
    "a merge of one token": ({"stray_merges": ["a"]}, "'a' does not join"),
    "a merge of three tokens": ({"stray_merges": ["h e l"]}, "'h e l' does not join"),
    "a merge with nothing": ({"stray_merges": [" a"]}, "' a' does not join"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_tokenizer_is_refused(fault, make):
    options, message = BROKEN[fault]
    with pytest.raises(ModelFileError, match=message):
        make(**options)


@pytest.mark.model
def test_prompts_and_texts_equal_those_of_llama_cpp(smollm2):
    for case in json.loads((DATA / "smollm2-greedy.json").read_text())["cases"]:
        assert smollm2.encode(case["prompt"], special=True) == case["prompt_tokens"]
        assert smollm2.decode(case["tokens"]) == case["text"]
    perplexity = json.loads((DATA / "smollm2-perplexity.json").read_text())
    again = smollm2.encode(smollm2.decode(perplexity["tokens"]))
    assert again[:-1] == perplexity["tokens"][: len(again) - 1], "but for the last word, which was cut off"
    assert (smollm2.eos_ids, smollm2.bos_id, smollm2.add_bos) == ({0, 2}, 1, False)
    assert smollm2.vocab_size == 49152


@pytest.mark.model
@given(text=FORGERIES)
def test_any_text_survives_the_default_model_except_for_bytes_it_lacks(smollm2, text):
    ids = smollm2.encode(text)
    assert not ids or min(ids) > 16, "no control token"
    lacking = {4, 6, 19, 20, 22, 29, 0xF1, 0xF2}
    assert smollm2.decode(ids) == "".join("\ufffd" if lacking & {*char.encode()} else char for char in text)
