"""The versions on disk and the champion pointer: `exports/0001/`, `exports/champion`.

The learner publishes and promotes; the guard reads. A visible version is a complete one, and the pointer is one file
replaced atomically.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from guard.errors import BrokenExport, Conflict, NotFound
from guard.taxonomy import Category

MANIFEST: Final = "manifest.json"
POINTER: Final = "champion"
HISTORY: Final = "promotions.jsonl"
_VERSION = re.compile(r"\d{4,}")


class BatchPolicy(msgspec.Struct, frozen=True):
    """How messages may share a run of one artefact."""

    max_batch_size: int
    max_batch_tokens: int


class Artefact(msgspec.Struct, frozen=True):
    """One ONNX file of an export."""

    file: str
    precision: str
    batch: BatchPolicy


class SelfTest(msgspec.Struct, frozen=True):
    """A harmless text and the logits the export gave for it when it was made: `(6,)` floats."""

    text: str
    logits: tuple[float, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an export is made of, and what it was when it was made."""

    version: str
    parent: str | None
    created_at: datetime
    backbone: str
    labels: tuple[Category, ...]
    thresholds: dict[Category, float]
    temperature: float
    max_tokens: int
    pad_id: int
    pad_token: str
    artefacts: tuple[Artefact, ...]
    files: dict[str, str]
    self_test: tuple[SelfTest, ...]
    cycle_id: int | None = None
    snapshot: str | None = None
    libraries: dict[str, str] = {}
    metrics: dict[str, float] = {}


class Promotion(msgspec.Struct, frozen=True):
    """One move of the pointer."""

    at: datetime
    version: str
    previous: str | None
    by: str
    reason: str


class Exports:
    """The folder of versions.

    Args:
        folder: `exports/`; made when the first version is published.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, version: str) -> Path:
        """Return the folder of a version.

        Raises:
            NotFound: There is no such version.
        """
        path = self.folder / version
        if not _VERSION.fullmatch(version) or not (path / MANIFEST).is_file():
            raise NotFound(f"There is no export {version[:40]!r}; `guard models list` shows those there are.")
        return path

    def versions(self) -> list[str]:
        """Return all complete versions, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (p.name for p in self.folder.iterdir() if _VERSION.fullmatch(p.name) and (p / MANIFEST).is_file())
        return sorted(found, key=int)

    def champion(self) -> str | None:
        """Return the version the pointer names; None when there is none yet."""
        try:
            return (self.folder / POINTER).read_text().strip() or None
        except FileNotFoundError:
            return None

    def manifest(self, version: str) -> Manifest:
        """Read a version's manifest.

        Raises:
            NotFound: There is no such version.
            BrokenExport: The manifest cannot be read.
        """
        try:
            return msgspec.json.decode((self.path(version) / MANIFEST).read_bytes(), type=Manifest)
        except (msgspec.DecodeError, OSError) as error:
            raise BrokenExport(f"The manifest of export {version} cannot be read ({type(error).__name__}).") from None

    def verify(self, version: str) -> Manifest:
        """Check every file of a version against its digest and return the manifest.

        Raises:
            NotFound: There is no such version.
            BrokenExport: A file is missing or altered, or a name leads out of the folder.
        """
        manifest, path = self.manifest(version), self.path(version)
        if manifest.version != version:
            raise BrokenExport(f"Export {version} says that it is {manifest.version[:40]!r}.")
        missing = [a.file for a in manifest.artefacts if a.file not in manifest.files]
        if missing or "tokenizer.json" not in manifest.files or not manifest.artefacts:
            raise BrokenExport(f"Export {version} lists no digest of its model or tokenizer.")
        for name, digest in manifest.files.items():
            file = path / name
            if Path(name).name != name or file.is_symlink() or not file.is_file():
                raise BrokenExport(f"Export {version} lacks its file {name[:80]!r}.")
            if sha256(file) != digest:
                raise BrokenExport(f"Export {version}: {name} is not the file that was published (sha256 differs).")
        return manifest

    def of_cycle(self, cycle_id: int) -> str | None:
        """Return the version that a cycle published, if it did."""
        return next((v for v in reversed(self.versions()) if self.manifest(v).cycle_id == cycle_id), None)

    @contextmanager
    def publish(self) -> Iterator[tuple[str, Path]]:
        """Yield the next version and a hidden folder to fill; on success make it visible, complete and on disk."""
        with self._locked():
            version = f"{1 + max((int(v) for v in self.versions()), default=0):04d}"
            partial = self.folder / f".{version}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield version, partial
                for file in partial.iterdir():
                    _sync(file)
                _sync(partial)
                partial.rename(self.folder / version)
                _sync(self.folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def promote(self, version: str, *, by: str, reason: str, expected: str | None = None) -> Promotion:
        """Move the pointer to a version.

        Args:
            version: The new champion.
            by: Who moves it.
            reason: Why, in words.
            expected: The champion the caller judged against; a stale caller is refused.

        Raises:
            NotFound: There is no such version.
            Conflict: The champion is no longer the expected one.
        """
        self.verify(version)
        with self._locked():
            previous = self.champion()
            if expected is not None and previous != expected:
                raise Conflict(f"The champion is {previous}, not {expected}: judge {version} against it first.")
            promotion = Promotion(datetime.now(UTC), version, previous, by, reason)
            partial = self.folder / f".{POINTER}.partial"
            partial.write_text(f"{version}\n")
            _sync(partial)
            with (self.folder / HISTORY).open("ab") as history:
                history.write(msgspec.json.encode(promotion) + b"\n")
                history.flush()
                os.fsync(history.fileno())
            partial.replace(self.folder / POINTER)
            _sync(self.folder)
        return promotion

    def rollback(self, *, by: str, reason: str) -> Promotion:
        """Move the pointer back to the champion before this one.

        Raises:
            NotFound: There is none before it.
        """
        champion = self.champion()
        for promotion in reversed(self.promotions()):
            if promotion.version == champion and promotion.previous is not None:
                return self.promote(promotion.previous, by=by, reason=reason, expected=champion)
        raise NotFound(f"There is no champion before {champion} to go back to.")

    def promotions(self) -> list[Promotion]:
        """Return every move of the pointer, oldest first; a line cut short by a crash is passed over."""
        try:
            lines = (self.folder / HISTORY).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        moves = []
        for line in lines:
            try:
                moves.append(msgspec.json.decode(line, type=Promotion))
            except msgspec.DecodeError:
                continue
        return moves

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
