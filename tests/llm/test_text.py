import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coro_rt.llm.text import TextStream

ALPHABET = st.text("abé日🙂", max_size=30)


def cut(content: bytes, cuts: list[int]) -> list[bytes]:
    """The content as pieces, cut at any bytes."""
    places = sorted({0, len(content), *(place % (len(content) + 1) for place in cuts)})
    return [content[a:b] for a, b in itertools.pairwise(places)]


def stream(pieces: list[bytes], stop: Sequence[str] = ()) -> tuple[list[str], TextStream]:
    """What each piece released, and at last the flush."""
    text = TextStream(lambda token: pieces[token], stop)
    return [*(text.push(token) for token in range(len(pieces))), text.flush()], text


def until_stop(text: str, stop: list[str]) -> tuple[str, bool]:
    """The meaning: the text before the stop string that ends first; of those, that begins first."""
    ends = [(text.index(string) + len(string), -len(string)) for string in stop if string in text]
    if not ends:
        return text, False
    end, length = min(ends)
    return text[: end + length], True


@given(
    text=ALPHABET, cuts=st.lists(st.integers(0, 200)), stop=st.lists(st.text("abé", min_size=1, max_size=5))
)
@example(text="aab", cuts=[1, 2], stop=["ab"])
@example(text="xaabaab", cuts=[2, 5], stop=["aabaac", "baa"])
def test_the_pieces_join_to_the_text_before_the_first_stop_string(text, cuts, stop):
    released, whole = stream(cut(text.encode(), cuts), stop)
    assert ("".join(released), whole.stopped) == until_stop(text, stop)


@given(text=ALPHABET, cuts=st.lists(st.integers(0, 200)))
def test_without_stop_strings_only_unfinished_characters_are_held_back(text, cuts):
    pieces = cut(text.encode(), cuts)
    released, _ = stream(pieces)
    so_far = b""
    for i, piece in enumerate(pieces):
        so_far += piece
        assert "".join(released[: i + 1]) == so_far.decode(errors="ignore")


@given(
    text=st.text("ab", max_size=20),
    stop=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_no_more_is_held_back_than_could_become_a_stop_string(text, stop):
    released, whole = stream([char.encode() for char in text], stop)
    for i in range(len(text)):
        held = text[len("".join(released[: i + 1])) : i + 1]
        if held and "".join(released[:-1]) != until_stop(text, stop)[0]:
            assert any(string.startswith(held) for string in stop)
    assert whole.stopped == until_stop(text, stop)[1]


@given(content=st.binary(max_size=30), cuts=st.lists(st.integers(0, 200)))
def test_bytes_that_are_not_utf8_are_replaced_as_in_one_piece(content, cuts):
    released, _ = stream(cut(content, cuts))
    assert "".join(released) == content.decode(errors="replace")


def test_after_a_stop_nothing_is_released():
    released, text = stream([b"one.", b" two", b" three"], [". t"])
    assert released == ["one", "", "", ""]
    assert text.stopped


def test_of_stop_strings_that_end_together_the_one_that_begins_first_counts():
    assert stream([b"wxyz"], ["yz", "xyz"])[0] == ["w", ""]


def test_a_held_back_beginning_is_released_when_it_goes_on_otherwise_or_ends():
    assert stream([b"a<", b"|im", b"x"], ["<|im_end|>"])[0] == ["a", "", "<|imx", ""]
    assert stream([b"a<", b"|im"], ["<|im_end|>"])[0] == ["a", "", "<|im"]


def test_a_text_that_ends_within_a_character_ends_in_a_replacement_character():
    assert stream([b"a\xf0\x9f"])[0] == ["a", "\ufffd"]
    assert stream([b"a\xf0\x9f"], ["\ufffd"])[0] == ["a", ""]


def test_tokens_without_bytes_release_nothing():
    assert stream([b"", b"a", b""])[0] == ["", "a", "", ""]


def test_stop_strings_are_checked():
    with pytest.raises(ValueError, match="empty"):
        TextStream(bytes, ["a", ""])
    for wrong in "end", [b"end"], ["a", None]:
        with pytest.raises(TypeError, match="not a sequence of strings"):
            TextStream(bytes, wrong)
