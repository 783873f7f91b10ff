"""The tokenizer of a folder from a model hub (tokenizer.json, or vocab.txt) as the keys of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from gguf.constants import TokenType

from coro_rt.errors import ModelFileError, ModelNotFound, UnsupportedModel

from .byte_level import PRE_TOKENIZERS
from .gguf_writer import boolean, integers, string, strings, uint32
from .settings_file import SettingsFile
from .wordpiece import CONTINUATION, SPECIAL, WORD_START

__all__ = ["tokenizer_metadata"]


def tokenizer_metadata(folder: Path, config: SettingsFile, vocabulary: int) -> dict[str, bytes]:
    """The keys `tokenizer.…` for a model with embeddings for `vocabulary` tokens.

    Raises ModelNotFound, ModelFileError, and UnsupportedModel for a kind that GGUF or coro_rt has no name
    for.
    """
    options = folder / "tokenizer_config.json"
    settings = SettingsFile.read(options) if options.is_file() else SettingsFile(options, {})
    path = folder / "tokenizer.json"
    if path.is_file():
        file = SettingsFile.read(path)
        model = SettingsFile(path, file.require("model", dict))
        kind = model.values.get("type")
        if kind == "WordPiece":
            names, specials = _word_pieces(file, model)
        elif kind == "BPE":
            return _byte_pairs(file, model, settings, config, vocabulary)
        else:
            raise UnsupportedModel(
                f"{path}: the tokenizer model {kind!r} is not supported; WordPiece and BPE are"
            )
    elif (folder / "vocab.txt").is_file():
        path = folder / "vocab.txt"
        if settings.get("do_lower_case", bool, True) is not True:
            raise UnsupportedModel(f"{options}: a tokenizer that keeps capitals is not supported")
        names = path.read_text(encoding="utf-8").split("\n")
        names = names[:-1] if names[-1] == "" else names
        specials = {name for name in SPECIAL.values() if name in names}
    else:
        raise ModelNotFound(f"{folder} holds neither tokenizer.json nor vocab.txt")
    if len(names) > vocabulary or len(set(names)) != len(names):
        raise ModelFileError(f"{path}: {len(names)} tokens, some perhaps twice; embeddings for {vocabulary}")
    return _word_piece_keys(path, names, specials, vocabulary) | {
        "tokenizer.ggml.token_type_count": uint32(config.require("type_vocab_size", int))
    }


def _word_pieces(file: SettingsFile, model: SettingsFile) -> tuple[list[str], set[str]]:
    expected: dict[str, dict[str, Any]] = {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    }
    for part, wanted in expected.items():
        found = file.get(part, dict, {})
        differs = {key: found.get(key) for key, value in wanted.items() if found.get(key) != value}
        if differs or found.get("strip_accents") is False:
            raise UnsupportedModel(f"{file.path}: the {part} {found} is not supported; {wanted} is")
    if model.values.get("continuing_subword_prefix", CONTINUATION) != CONTINUATION:
        raise UnsupportedModel(f"{file.path}: pieces inside a word do not begin with {CONTINUATION!r}")
    names = _names(file, model.require("vocab", dict))
    added = [entry for entry in file.get("added_tokens", list, []) if isinstance(entry, dict)]
    return names, {
        entry["content"] for entry in added if entry.get("special") and entry.get("content") in names
    }


def _names(file: SettingsFile, vocab: dict[str, Any]) -> list[str]:
    """The tokens by id. Ids without a token get a name of their own, as in other converters."""
    ids = list(vocab.values())
    if not all(type(token) is int and 0 <= token < 1 << 22 for token in ids) or len(set(ids)) != len(ids):
        raise ModelFileError(f"{file.path}: the vocabulary's ids are not distinct small integers")
    by_id = {token: name for name, token in vocab.items()}
    return [by_id.get(token, f"[PAD{token}]") for token in range(max(ids, default=-1) + 1)]


def _word_piece_keys(path: Path, names: list[str], specials: set[str], vocabulary: int) -> dict[str, bytes]:
    missing = [name for name in SPECIAL.values() if name not in names]
    if missing:
        raise ModelFileError(f"{path}: the vocabulary lacks {', '.join(missing)}")
    control = specials | set(SPECIAL.values())
    # as GGUF has it: a mark where a word begins, none inside
    tokens = [
        name
        if name in control
        else name.removeprefix(CONTINUATION)
        if name.startswith(CONTINUATION) and name != CONTINUATION
        else WORD_START + name
        for name in names
    ]
    types = [TokenType.CONTROL if name in control else TokenType.NORMAL for name in names]
    padding = range(len(names), vocabulary)
    ids = {key: uint32(names.index(name)) for key, name in SPECIAL.items()}
    return {
        "tokenizer.ggml.model": string("bert"),
        "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": strings(tokens + [f"[PAD{token}]" for token in padding]),
        "tokenizer.ggml.token_type": integers(types + [TokenType.UNUSED] * len(padding)),
        **{f"tokenizer.ggml.{key}_token_id": value for key, value in ids.items()},
        "tokenizer.ggml.add_bos_token": boolean(True),
        "tokenizer.ggml.add_sep_token": boolean(True),
    }


def _byte_pairs(
    file: SettingsFile, model: SettingsFile, settings: SettingsFile, config: SettingsFile, vocabulary: int
) -> dict[str, bytes]:
    if model.get("byte_fallback", bool, False):
        raise UnsupportedModel(f"{file.path}: of BPE tokenizers only the byte-level ones are supported")
    pre = _pre_tokenizer(file, whole=model.get("ignore_merges", bool, False))
    vocab = dict(model.require("vocab", dict))
    kinds: dict[str, TokenType] = {}
    for entry in file.get("added_tokens", list, []):
        match entry:
            case {"id": int(token), "content": str(name)}:
                vocab[name] = token
                kinds[name] = TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED
            case _:
                raise ModelFileError(f"{file.path}: an added token without id and content: {entry!r}")
    names = _names(file, vocab)
    if len(names) > vocabulary:
        raise ModelFileError(f"{file.path}: {len(names)} tokens, but embeddings for {vocabulary}")
    names += [f"[PAD{token}]" for token in range(len(names), vocabulary)]
    types = [kinds.get(name, TokenType.NORMAL if name in vocab else TokenType.UNUSED) for name in names]
    merges = [" ".join(merge) if _pair(merge) else merge for merge in model.require("merges", list)]
    if not all(isinstance(merge, str) for merge in merges):
        raise ModelFileError(f"{file.path}: the merges are not pairs of tokens")
    keys = {
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string(pre),
        "tokenizer.ggml.tokens": strings(names),
        "tokenizer.ggml.token_type": integers(types),
        "tokenizer.ggml.merges": strings(merges),
    }
    if (begins := settings.get("add_bos_token", bool, None)) is not None:
        keys["tokenizer.ggml.add_bos_token"] = boolean(begins)
    for kind, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        named = settings.values.get(f"{kind}_token")  # a name, or an object that has one
        named = named.get("content") if isinstance(named, dict) else named
        stated = config.values.get(f"{kind}_token_id")  # an id, or several
        stated = stated[0] if isinstance(stated, list) and stated else stated
        special = vocab.get(named) if isinstance(named, str) else stated
        if type(special) is int and 0 <= special < len(names):
            keys[f"tokenizer.ggml.{key}_token_id"] = uint32(special)
    template = settings.values.get("chat_template")
    jinja = settings.path.parent / "chat_template.jinja"
    if jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    if isinstance(template, str):
        keys["tokenizer.chat_template"] = string(template)
    return keys


def _pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(half, str) for half in merge)


def _pre_tokenizer(file: SettingsFile, *, whole: bool) -> str:
    """The name of how the file cuts texts: the first of ours that says the same."""
    found = _plain(file.values.get("pre_tokenizer"))
    normalizer = file.values.get("normalizer")
    for name, cut in PRE_TOKENIZERS.items():
        ours = tokenizers.Tokenizer(tokenizers.models.BPE())
        ours.pre_tokenizer = cut.pre_tokenizer()
        same = _plain(json.loads(ours.to_str())["pre_tokenizer"]) == found
        if same and cut.whole == whole and normalizer == ({"type": "NFC"} if cut.composed else None):
            return name
    raise UnsupportedModel(
        f"{file.path}: this way to cut a text before merging is not known: {str(found)[:200]}; known are "
        + ", ".join(PRE_TOKENIZERS)
    )


def _plain(part: Any) -> Any:
    """Without what changes no token."""
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Sequence" and len(part.get("pretokenizers") or ()) == 1:
        return _plain(part["pretokenizers"][0])
    return {key: _plain(value) for key, value in part.items() if key != "trim_offsets"}
