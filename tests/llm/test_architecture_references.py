"""llama.cpp reads the random-weight files of these tests too: what it gave for them is in `tests/data`.

So names of tensors and keys, and how texts are cut, do not rest on our own reading alone.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import BYTE_NAMES, in_memory, sentence_piece_metadata, tokenizer_metadata
from tiny import TINIES

from coro_rt.llm.tokenizer import Tokenizer

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "llama-cpp-architectures.json").read_text())
BOUND = 0.05  # of the logits' standard deviation: llama.cpp rounds what it multiplies to float16


@pytest.mark.parametrize(
    "case", REFERENCE["models"], ids=lambda case: f"{case['architecture']} {case['options']}"
)
def test_the_plain_models_are_those_of_llama_cpp(case: dict[str, Any]) -> None:
    """The programs are held against the plain models in test_architectures.py."""
    logits = TINIES[case["architecture"]](**case["options"]).logits(REFERENCE["tokens"])
    off = np.abs(logits[[0, 30, 60, 89], :6] - np.array(case["logits"]))
    assert off.max() < BOUND * case["std"]


@pytest.mark.parametrize("pre", REFERENCE["byte_level"]["ids"])
def test_texts_are_cut_as_by_llama_cpp(pre: str) -> None:
    """Any two of the characters' bytes may merge, so what has not merged was cut."""
    characters = {byte for char in REFERENCE["byte_level"]["characters"] for byte in char.encode()}
    names = sorted(BYTE_NAMES[byte] for byte in characters)
    metadata = tokenizer_metadata(merges=[f"{a} {b}" for a in names for b in names], pre=pre)
    tokenizer = Tokenizer.from_gguf(in_memory(metadata))
    texts, ids = REFERENCE["byte_level"]["texts"], REFERENCE["byte_level"]["ids"][pre]
    assert [tokenizer.encode(text) for text in texts] == ids


@pytest.mark.parametrize("case", REFERENCE["sentence_piece"]["ids"], ids=lambda case: str(case["options"]))
def test_pieces_are_joined_as_by_llama_cpp(case: dict[str, Any]) -> None:
    metadata = sentence_piece_metadata(REFERENCE["sentence_piece"]["pieces"], **case["options"])
    tokenizer = Tokenizer.from_gguf(in_memory(metadata, case["architecture"]))
    texts = REFERENCE["sentence_piece"]["texts"]
    assert [tokenizer.encode(text, special=True) for text in texts] == case["ids"]
