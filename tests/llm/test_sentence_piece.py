"""SentencePiece's BPE against the definition, done slowly, on random vocabularies."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import in_memory, sentence_piece_metadata

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.llm.tokenizer import Tokenizer

SCORES = {"▁": -9.0, "a": -10.0, "b": -11.0, "aa": -1.0, "▁a": -2.0, "ab": -0.5, "▁aab": -3.0, "ü": -4.0}


def make(pieces=SCORES, arch="llama", **more) -> Tokenizer:
    return Tokenizer.from_gguf(in_memory(sentence_piece_metadata(pieces, **more), arch))


def names(tokenizer: Tokenizer, ids: list[int]) -> list[bytes]:
    return [tokenizer.token_bytes(token) for token in ids]


def slowly(text: str, scores: dict[str, float]) -> list[bytes]:
    """As the paper's authors define it: of all neighbours the best pair, the leftmost of equals, again and
    again."""
    parts = list(text.replace(" ", "▁"))
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            break
        _, i = min(pairs)
        parts[i : i + 2] = ["".join(parts[i : i + 2])]
    out: list[bytes] = []
    for part in parts:
        out += [part.replace("▁", " ").encode()] if part in scores else [bytes([b]) for b in part.encode()]
    return out


PIECES = st.text("ab▁ü", min_size=1, max_size=4)
VOCABULARIES = st.dictionaries(PIECES, st.integers(-6, 0).map(float), max_size=40)


@given(scores=VOCABULARIES, text=st.text("ab ü日\n", max_size=30), prefix=st.booleans())
def test_joining_is_what_the_definition_says(scores, text, prefix):
    tokenizer = make(scores, add_space_prefix=prefix)
    expected = slowly(" " * prefix + text, scores) if text else []
    assert names(tokenizer, tokenizer.encode(text)) == expected
    assert names(tokenizer, tokenizer.encode(text)) == expected, "from memory"


@given(scores=VOCABULARIES, text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
def test_any_text_survives_the_round_trip(scores, text):
    for prefix in True, False:
        tokenizer = make({"▁": -9.0, **scores}, add_space_prefix=prefix)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_best_score_goes_first_and_of_equals_the_leftmost():
    tokenizer = make(add_space_prefix=False)
    assert names(tokenizer, tokenizer.encode("aab")) == [b"a", b"ab"]
    assert names(tokenizer, tokenizer.encode("aaa")) == [b"aa", b"a"]
    assert names(tokenizer, tokenizer.encode(" a")) == [b" a"]


def test_what_is_no_token_is_spelled_in_bytes():
    tokenizer = make(add_space_prefix=False)
    assert names(tokenizer, tokenizer.encode("ü日\n")) == ["ü".encode(), b"\xe6", b"\x97", b"\xa5", b"\n"]


def test_a_long_text_without_spaces_can_be_read():
    """In the square of its length this would take hours."""
    assert len(make(add_space_prefix=False).encode("ab" * 200_000)) == 200_000


def test_a_space_goes_before_a_text_and_after_names():
    tokenizer = make()
    user = 3
    assert tokenizer.encode("a<|user|>a", special=True) == [
        *tokenizer.encode("a"),
        user,
        *tokenizer.encode("a"),
    ]
    assert tokenizer.decode(tokenizer.encode("a<|user|> a", special=True)) == "a a"
    assert tokenizer.encode("") == []


FORGERIES = st.lists(st.text("ab <|>s/", max_size=6) | st.sampled_from(["<s>", "</s>", "<|user|>"])).map(
    "".join
)


@given(text=FORGERIES)
def test_plain_text_never_gives_a_control_token(text):
    tokenizer = make({**SCORES, "<": -1.0, "<|": -1.0, "s>": -1.0})
    ids = tokenizer.encode(text)
    assert not {0, 1, 2, 3}.intersection(ids)
    assert tokenizer.decode(ids) == text


@given(parts=st.lists(st.tuples(FORGERIES, st.just(False))))
def test_texts_in_parts_are_one_text(parts):
    tokenizer = make()
    assert tokenizer.encode_parts(parts) == tokenizer.encode("".join(text for text, _ in parts))


def test_user_defined_runs_of_spaces_are_found_however_the_file_writes_them():
    for run in "  ", "▁▁":
        tokenizer = make(user_defined=[run], add_space_prefix=False)
        token = tokenizer.vocab_size - 1
        assert tokenizer.encode("a  a") == [*tokenizer.encode("a"), token, *tokenizer.encode("a")]
        assert tokenizer.decode([token]) == "  "


def test_phi_3_swallows_white_space_behind_control_tokens():
    plain, phi = make(), make(arch="phi3")
    user, a = 3, plain.encode("a")
    assert phi.encode("<|user|>\n a", special=True) == [user, *a]
    assert phi.encode("<|user|>\n", special=True) == [user]
    assert phi.encode("<s> a", special=True) == plain.encode("<s> a", special=True), "but not behind this one"
    assert plain.encode("<|user|>\na", special=True) != [user, *a]


def test_an_answer_behind_a_control_token_begins_without_the_space():
    tokenizer = make()
    user, space_a, b = 3, *tokenizer.encode("a"), tokenizer.encode("ab")[-1]
    behind = tokenizer.bytes_after(user)
    assert [behind(token) for token in (space_a, space_a)] == [b"a", b" a"]
    assert tokenizer.bytes_after(b)(space_a) == b" a", "here it parts two words"


def test_texts_begin_with_a_token_unless_the_file_says_no():
    assert make().add_bos
    assert not make(add_bos_token=False).add_bos


def test_a_lone_surrogate_is_an_error():
    with pytest.raises(UnicodeEncodeError):
        make().encode("a\ud800")


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"scores": [1.0]}, ModelFileError, "but 1 scores"),
        ({"scores": None}, ModelFileError, "scores' is missing"),
        ({"scores": ["x"] * 268}, ModelFileError, "not an array of finite numbers"),
        ({"precompiled_charsmap": [1]}, UnsupportedModel, "precompiled_charsmap is not supported"),
        ({"remove_extra_whitespaces": True}, UnsupportedModel, "remove_extra_whitespaces is not supported"),
        ({"token_type": [1] * 268}, UnsupportedModel, "lacks tokens for the bytes 00 01"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_said(more, error, says):
    with pytest.raises(error, match=says):
        make(**more)
