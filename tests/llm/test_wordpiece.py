"""WordPiece: the longest pieces first, no capitals, no accents, and no control token from plain text."""

import pytest
from tiny_bert import WORDS, TinyBert

from coro_rt.llm.gguf_file import open_gguf
from coro_rt.llm.wordpiece import WordPiece


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> WordPiece:
    path = TinyBert(layers=1, hidden=32, heads=1, feed_forward=32).write(
        tmp_path_factory.mktemp("b") / "b.gguf"
    )
    with open_gguf(path) as file:
        return WordPiece(file)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the cats", ["the", "cat", "##s"]),
        ("The  CATS\n", ["the", "cat", "##s"]),
        ("thé cât", ["the", "cat"]),
        ("sitting", ["s", "##i", "##t", "##ting"]),
        ("unknown, un known.", ["un", "##known", ",", "un", "k", "##n", "##o", "##w", "##n", "."]),
        ("猫 cat", ["[UNK]", "cat"]),
        ("猫猫", ["[UNK]", "[UNK]"]),
        ("ca猫t", ["c", "##a", "[UNK]", "t"]),
        ("a" * 101, ["[UNK]"]),
        ("[SEP]", ["[", "s", "##e", "##p", "]"]),
        ("[MASK] ▁the ##s", ["[", "m", "##a", "##s", "##k", "]", "[UNK]", "[UNK]", "[UNK]", "s"]),
        ("", []),
        ("\u0000\ufffd\t", []),
    ],
)
def test_a_text_is_cut_into_the_longest_pieces(tokenizer: WordPiece, text: str, pieces: list[str]) -> None:
    ids = tokenizer.encode(text)
    assert (WORDS[ids[0]], WORDS[ids[-1]]) == ("[CLS]", "[SEP]")
    assert [WORDS[token] for token in ids[1:-1]] == pieces


def test_decoding_gives_the_words_back(tokenizer: WordPiece) -> None:
    assert tokenizer.decode(tokenizer.encode("The cats sat!")) == "the cats sat !"
    with pytest.raises(IndexError, match="there is no token 999"):
        tokenizer.decode([999])
