import contextlib
import math
import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import small_gguf, write_gguf

from coro_rt.errors import ModelError, ModelFileError, ModelNotFound, UnsupportedModel
from coro_rt.llm import gguf_header
from coro_rt.llm.gguf_file import GGUFFile, open_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return small_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture
def damaged(small, tmp_path):
    """Writes a copy of the small file with `new` at `at`, and tries to open it."""

    def open_copy(at: int, new: bytes) -> GGUFFile:
        content = small.read_bytes()
        copy = tmp_path / "damaged.gguf"
        copy.write_bytes(content[:at] + new + content[at + len(new) :])
        return open_gguf(copy)

    return open_copy


def assert_sound(file: GGUFFile) -> None:
    for tensor in file.tensors.values():
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.type]
        assert tensor.data.nbytes == math.prod(tensor.shape) // block * block_bytes
        assert not tensor.data.flags.writeable
        int(tensor.data.sum())  # every byte can be read


def test_values_and_tensors_come_as_plain_python_and_raw_bytes(small):
    with open_gguf(small) as file:
        assert (file.path, file.size, file.architecture) == (small, small.stat().st_size, "llama")
        assert file.metadata["general.name"] == "småll"
        assert file.metadata["tokenizer.ggml.tokens"] == ["a", "bc", ""]
        assert file.metadata["tokenizer.ggml.add_bos_token"] is True
        half = file.tensors["half"]
        assert (half.name, half.shape, half.type) == ("half", (3, 4), gguf.GGMLQuantizationType.F16)
        assert half.data.view("<f2").reshape(half.shape)[2, 1] == 9
        assert file.tensors["quantized"].shape == (2, 64)
        assert list(file.tensors) == ["norm", "half", "quantized"]
        assert_sound(file)


def test_closing_forgets_the_tensors_but_views_stay_valid(small):
    file = open_gguf(small)
    data = file.tensors["norm"].data
    file.close()
    file.close()
    with pytest.raises(ModelFileError, match="closed"):
        _ = file.tensors
    assert data.view("<f4")[4] == 4.0


def test_typed_access_says_which_key_what_came_and_what_was_expected(small):
    file = open_gguf(small)
    assert file.require_int("llama.block_count") == 2
    assert file.require_float("llama.block_count") == 2.0
    assert file.get_float("llama.rope.freq_base", default=1.0) == 10000.0
    assert file.get_int("no.such.key", default=7) == 7
    assert file.get_bool("tokenizer.ggml.add_bos_token", default=False) is True
    assert file.get_str("no.such.key", default=None) is None
    assert file.require_ints("tokenizer.ggml.token_type") == [1, 1, 3]
    with pytest.raises(ModelFileError, match=r"'no.such.key' is missing; an integer was expected"):
        file.require_int("no.such.key")
    with pytest.raises(ModelFileError, match=r"'general.name' is str 'småll', not an integer"):
        file.get_int("general.name", default=0)
    with pytest.raises(ModelFileError, match="bool 'True', not an integer"):
        file.require_int("tokenizer.ggml.add_bos_token")
    with pytest.raises(ModelFileError, match="array of str, not an array of integers"):
        file.require_ints("tokenizer.ggml.tokens")
    with pytest.raises(ModelFileError, match="not a string"):
        file.require_str("llama.block_count")
    with pytest.raises(ModelFileError, match="not an array of strings"):
        file.require_strs("general.name")


def test_a_number_that_is_nan_or_infinite_is_refused(tmp_path):
    file = open_gguf(write_gguf(tmp_path / "f", {"nan": math.nan, "inf": math.inf}))
    for key in "nan", "inf":
        with pytest.raises(ModelFileError, match="not a finite number"):
            file.require_float(key)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.booleans()
        | st.integers(0, 2**32 - 1)
        | st.floats(width=32, allow_nan=False)
        | st.text()
        | st.lists(st.text(), min_size=1)
        | st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1),
        max_size=6,
    ),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), max_size=4),
)
def test_both_readers_see_the_same_file(tmp_path, metadata, shapes):
    """The `gguf` package's own reader is the reference for sound files."""
    tensors = {f"t{i}": np.arange(math.prod(s), dtype=np.float32).reshape(s) for i, s in enumerate(shapes)}
    path = write_gguf(tmp_path / "f.gguf", metadata, tensors)
    file, other = open_gguf(path), gguf.GGUFReader(path)
    theirs = {k: v.contents() for k, v in other.fields.items() if not k.startswith("GGUF.")}
    assert dict(file.metadata) == theirs
    assert [t.name for t in other.tensors] == list(file.tensors)
    for tensor in other.tensors:
        mine = file.tensors[tensor.name]
        assert mine.type == tensor.tensor_type
        assert mine.shape == tensor.data.shape
        assert np.array_equal(mine.data.view("<f4").reshape(mine.shape), tensor.data)


def test_what_is_not_a_readable_file_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match="no file"):
        open_gguf(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match="no file"):
        open_gguf(write_gguf(tmp_path / "f") / "below a file")
    with pytest.raises(ModelFileError, match="is not a file"):
        open_gguf(tmp_path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        open_gguf("null\0byte")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ModelFileError, match="is not a file"):
        open_gguf(tmp_path / "fifo")
    for content, message in [(b"", "is empty"), (b"GIF89a" * 10, "not a GGUF file"), (b"GG", "not a GGUF")]:
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ModelFileError, match=message):
            open_gguf(tmp_path / "other")


def test_a_file_without_permission_is_named(small, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied", str(small))

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no mode stops
    with pytest.raises(ModelFileError, match="cannot be read: Permission denied"):
        open_gguf(small)


def test_other_versions_and_byte_orders_are_unsupported_by_name(damaged):
    with pytest.raises(UnsupportedModel, match="version 1"):
        damaged(4, struct.pack("<I", 1))
    with pytest.raises(UnsupportedModel, match="version 4"):
        damaged(4, struct.pack("<I", 4))
    with pytest.raises(UnsupportedModel, match="big-endian"):
        damaged(4, struct.pack(">I", 3))


def test_truncation_at_every_byte_is_an_error(small, tmp_path):
    content = small.read_bytes()
    end = max(np.flatnonzero(np.frombuffer(content, np.uint8)))  # what follows is padding
    copy = tmp_path / "cut.gguf"
    for length in range(end + 1):
        copy.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            open_gguf(copy)


def field(small: Path, name: str) -> int:
    """Where the bytes after a name in the header begin."""
    return small.read_bytes().index(name.encode()) + len(name)


LIES = {
    "more tensors than bytes": (lambda s: 8, "<Q", 2**60, "claims"),
    "more keys than bytes": (lambda s: 16, "<Q", 2**60, "claims"),
    "one key too many": (lambda s: 16, "<Q", 9, "."),
    "a name longer than the file": (lambda s: 24, "<Q", 2**63, "needs 9223372036854775808 bytes"),
    "an array longer than the file": (lambda s: field(s, "ggml.tokens") + 8, "<Q", 2**40, "claims"),
    "an unknown value type": (lambda s: field(s, "block_count"), "<I", 99, "unknown value type 99"),
    "arrays in arrays": (lambda s: field(s, "ggml.tokens") + 4, "<I", 9, "."),
    "no dimensions": (lambda s: field(s, "norm"), "<I", 0, "0 dimensions"),
    "too many dimensions": (lambda s: field(s, "norm"), "<I", 5, "5 dimensions"),
    "an empty tensor": (lambda s: field(s, "norm") + 4, "<Q", 0, "is empty"),
    "an extent beyond the file": (lambda s: field(s, "norm") + 4, "<Q", 2**62, "truncated"),
    "an extent that overflows 64 bits": (lambda s: field(s, "half") + 4, "<QQ", (2**63, 2**62), "truncated"),
    "an unknown format": (lambda s: field(s, "norm") + 12, "<I", 4, "unknown format number 4"),
    "a row that is no multiple of the block": (lambda s: field(s, "quantized") + 4, "<Q", 33, "block of 32"),
    "an offset that is not aligned": (lambda s: field(s, "half") + 24, "<Q", 33, "multiple of the alignment"),
    "an offset beyond the file": (lambda s: field(s, "half") + 24, "<Q", 2**64 - 32, "truncated"),
    "tensors that overlap": (lambda s: field(s, "half") + 24, "<Q", 0, "overlap"),
    "a string that is not UTF-8": (lambda s: field(s, "general.name") + 12, "<B", 0xFF, "not UTF-8"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(lie, small, damaged):
    where, layout, value, message = LIES[lie]
    with pytest.raises(ModelFileError, match=message):
        damaged(where(small), struct.pack(layout, *np.atleast_1d(np.array(value, object))))


def test_names_that_come_twice_are_refused(small, tmp_path):
    for old, new in (b"half", b"norm"), (b"llama.rope.freq_base", b"general.architecture"):
        content = small.read_bytes().replace(old, new)
        (tmp_path / "twice").write_bytes(content)
        with pytest.raises(ModelFileError, match="comes twice"):
            open_gguf(tmp_path / "twice")


@pytest.mark.parametrize("alignment", [0, 1, 4, 24, 2**31, "32", 32.0])
def test_a_strange_alignment_is_refused(alignment, tmp_path):
    with pytest.raises(ModelFileError, match="alignment"):
        open_gguf(write_gguf(tmp_path / "f", {"general.alignment": alignment}))


def test_a_file_without_an_architecture_is_refused(small, tmp_path):
    (tmp_path / "f").write_bytes(small.read_bytes().replace(b"general.arch", b"general.arhc"))
    with pytest.raises(ModelFileError, match=r"general\.architecture"):
        open_gguf(tmp_path / "f")


def header(*parts: bytes, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, keys) + b"".join(parts)


def key(name: str, kind: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind)


def test_arrays_nest_only_so_deep(tmp_path):
    deep = struct.pack("<IQ", 9, 1) * 100_000
    (tmp_path / "f").write_bytes(header(key("k", 9), deep, keys=1))
    with pytest.raises(ModelFileError, match="nests"):
        open_gguf(tmp_path / "f")


def test_a_header_may_hold_only_so_much(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(header(key("k", 9), struct.pack("<IQ", 0, 5000), bytes(5000), keys=1))
    monkeypatch.setattr(gguf_header, "MAX_VALUES", 4000)
    with pytest.raises(ModelFileError, match="more than 4000 values"):
        open_gguf(tmp_path / "f")
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 3000)
    with pytest.raises(ModelFileError, match="of the 3000 allowed for a header"):
        open_gguf(tmp_path / "f")


INTERESTING = [0, 1, 2, 8, 9, 12, 13, 31, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**48, 2**63, 2**64 - 1]
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.binary(min_size=1, max_size=8)
        | st.sampled_from(INTERESTING).map(lambda value: struct.pack("<Q", value))
        | st.sampled_from(INTERESTING).map(lambda value: struct.pack("<I", value & 0xFFFFFFFF)),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS)
def test_a_damaged_file_is_an_error_or_sound_and_takes_little_memory(small, tmp_path, mutations):
    content = bytearray(small.read_bytes())
    for at, new in mutations:
        at %= len(content)
        content[at : at + len(new)] = new
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with contextlib.suppress(ModelError):
            assert_sound(open_gguf(path))
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_damaged_file_of_any_single_word_is_an_error_or_sound(small, tmp_path):
    """Every offset gets every value: counts, lengths, types and offsets all lie in turn."""
    content = small.read_bytes()
    path = tmp_path / "damaged.gguf"
    for at in range(len(content) - 8):
        for value in 0, 9, 2**32 - 1, 2**64 - 1:
            path.write_bytes(content[:at] + struct.pack("<Q", value) + content[at + 8 :])
            with contextlib.suppress(ModelError):
                assert_sound(open_gguf(path))


def test_dropped_pages_are_read_again(tmp_path):
    values = np.random.default_rng(0).standard_normal((64, 512), dtype=np.float32)
    with open_gguf(write_gguf(tmp_path / "m.gguf", {}, {"first": values, "second": values})) as file:
        for tensor in file.tensors.values():
            for _ in range(2):
                assert np.array_equal(tensor.data.view(np.float32).reshape(values.shape), values)
                file.drop_pages(tensor)
