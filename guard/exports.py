"""The versions on disk and the champion pointer: `exports/0001/`, `exports/champion`.

The learner publishes and promotes; the guard reads. A visible version is a complete one, and the pointer is one file
replaced atomically. What a killed writer leaves behind is swept away by the next.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from guard.errors import BrokenExport, Conflict, NotFound
from guard.taxonomy import Category

MANIFEST: Final = "manifest.json"
POINTER: Final = "champion"
SHADOW: Final = "shadow"
HOLD: Final = "hold"
HISTORY: Final = "promotions.jsonl"
_VERSION = re.compile(r"[0-9]{4,}")
_PARTIAL = re.compile(r"\.([0-9]{4,})\.partial")


class BatchPolicy(msgspec.Struct, frozen=True):
    """How messages may share a run of one artefact."""

    max_batch_size: int
    max_batch_tokens: int


class SelfTest(msgspec.Struct, frozen=True):
    """A harmless text and the logits the export gave for it when it was made: `(6,)` floats."""

    text: str
    logits: tuple[float, ...]


class Artefact(msgspec.Struct, frozen=True):
    """One ONNX file of an export.

    Args:
        file: Its name in the export's folder.
        precision: fp32, int8 or fp16.
        batch: How messages may share a run.
        self_test: Its own logits of harmless texts; where there are none, those of the manifest hold.
        agreement: Share of decisions that are those of fp32, on texts it was not calibrated with.
        run_ms: CPU time of a run of one message on the machine that made it, for comparing artefacts with each other.
    """

    file: str
    precision: str
    batch: BatchPolicy
    self_test: tuple[SelfTest, ...] = ()
    agreement: float | None = None
    run_ms: float | None = None


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
    rollback: bool = False


class Hold(msgspec.Struct, frozen=True):
    """That the learner promotes nothing until somebody ends it; people may."""

    at: datetime
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
        return self._pointed(POINTER)

    def shadow(self) -> str | None:
        """Return the version that shadows the champion; None when there is none."""
        return self._pointed(SHADOW)

    def set_shadow(self, version: str | None) -> None:
        """Have a version shadow the champion, or none.

        Raises:
            NotFound: There is no such version.
            BrokenExport: It does not verify.
        """
        if version is not None:
            self.verify(version)
        with self._locked():
            if version is not None:
                self._point(SHADOW, version)
            else:
                (self.folder / SHADOW).unlink(missing_ok=True)

    def hold(self) -> Hold | None:
        """Return the hold that stands; one that cannot be read stands as well."""
        try:
            return msgspec.json.decode((self.folder / HOLD).read_bytes(), type=Hold)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            return Hold(datetime.fromtimestamp(0, UTC), "unknown", f"the file {HOLD} cannot be read")

    def set_hold(self, *, by: str, reason: str) -> None:
        """Have the learner promote nothing from now on; a hold that stands is replaced."""
        with self._locked():
            self._point(HOLD, msgspec.json.encode(Hold(datetime.now(UTC), by, reason)).decode())

    def end_hold(self) -> None:
        """Let the learner promote again.

        Raises:
            NotFound: There is no hold.
        """
        with self._locked():
            try:
                (self.folder / HOLD).unlink()
            except FileNotFoundError:
                raise NotFound("There is no hold: the learner promotes what passes the gate.") from None
            _sync(self.folder)

    def manifest(self, version: str) -> Manifest:
        """Read a version's manifest.

        Raises:
            NotFound: There is no such version.
            BrokenExport: The manifest cannot be read.
        """
        return _read_manifest(version, self.path(version))

    def verify(self, version: str) -> Manifest:
        """Check every file of a version against its digest and return the manifest.

        Raises:
            NotFound: There is no such version.
            BrokenExport: A file is missing or altered, or a name leads out of the folder.
        """
        manifest = self.manifest(version)
        _verify(version, self.path(version), manifest)
        return manifest

    def of_cycle(self, cycle_id: int) -> str | None:
        """Return the version that a cycle published, if it did; broken ones are passed over."""
        for version in reversed(self.versions()):
            with suppress(BrokenExport):
                if self.manifest(version).cycle_id == cycle_id:
                    return version
        return None

    @contextmanager
    def publish(self) -> Iterator[tuple[str, Path]]:
        """Yield the next version and a hidden folder to fill; on success make it visible, complete and on disk.

        Others may publish and promote meanwhile: filling takes minutes and holds no lock but that of its own folder.

        Raises:
            BrokenExport: What was filled in would not verify.
        """
        with ExitStack() as stack:
            with self._locked():
                version = self._reserve()
                partial = self.folder / f".{version}.partial"
                partial.mkdir()
                stack.enter_context(_held(partial))
                stack.callback(shutil.rmtree, partial, ignore_errors=True)  # while it is still held
            yield version, partial
            _verify(version, partial, _read_manifest(version, partial))
            for path in partial.rglob("*"):
                _sync(path)
            _sync(partial)
            partial.rename(self.folder / version)
            _sync(self.folder)

    def promote(self, version: str, *, by: str, reason: str, expected: str | None = None) -> Promotion:
        """Move the pointer to a version; where it stands there already, nothing moves.

        Args:
            version: The new champion.
            by: Who moves it.
            reason: Why, in words.
            expected: The champion the caller judged against; a stale caller is refused.

        Raises:
            NotFound: There is no such version.
            BrokenExport: It does not verify.
            Conflict: The champion is no longer the expected one.
        """
        return self._move(version, by=by, reason=reason, expected=expected, rollback=False)

    def rollback(self, *, by: str, reason: str, expected: str | None = None) -> Promotion:
        """Move the pointer back to the champion before this one; a second rollback goes one further back.

        Raises:
            Conflict: The champion is no longer the expected one.
            NotFound: There is none before it.
            BrokenExport: It does not verify any more.
        """
        champion = self.champion()
        if expected is not None and champion != expected:
            raise Conflict(f"The champion is {champion}, not {expected}: look again before going back.")
        trail: list[str] = []
        for move in self.promotions():
            if move.previous is not None and trail[-1:] != [move.previous]:
                trail.append(move.previous)  # somebody set the pointer by hand
            if move.rollback and trail[-2:-1] == [move.version]:
                trail.pop()
            else:
                trail.append(move.version)
        if champion is not None and trail[-1:] != [champion]:
            trail.append(champion)
        if len(trail) < 2:  # noqa: PLR2004 - the champion and one before it
            raise NotFound(f"There is no champion before {champion} to go back to; `guard models promote` takes any.")
        return self._move(trail[-2], by=by, reason=reason, expected=champion, rollback=True)

    def prune(self, keep: int) -> list[str]:
        """Delete old versions and return them; champion, shadow, the newest `keep` and the last `keep` champions stay."""
        with self._locked():
            champions = [move.version for move in self.promotions()][-keep:]
            kept = {self.champion(), self.shadow(), *self.versions()[-keep:], *champions}
            doomed = [version for version in self.versions() if version not in kept]
            for version in doomed:
                hidden = self.folder / f".{version}.deleted"
                (self.folder / version).rename(hidden)  # a visible version is a complete one, to its last moment
                shutil.rmtree(hidden)
        return doomed

    def promotions(self) -> list[Promotion]:
        """Return every move of the pointer, oldest first.

        A line cut short by a crash is passed over, and so is a move that was written down but not made: the pointer still
        stood where it set out from.
        """
        try:
            lines = (self.folder / HISTORY).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        moves: list[Promotion] = []
        for line in lines:
            with suppress(msgspec.DecodeError):
                moves.append(msgspec.json.decode(line, type=Promotion))
        stops = [*(move.previous for move in moves[1:]), self.champion()]
        return [move for move, stop in zip(moves, stops, strict=True) if move.previous != stop]

    def _move(self, version: str, *, by: str, reason: str, expected: str | None, rollback: bool) -> Promotion:
        self.verify(version)
        with self._locked():
            previous = self.champion()
            if previous == version and (made := [m for m in self.promotions() if m.version == version]):
                return made[-1]
            if expected is not None and previous != expected:
                raise Conflict(f"The champion is {previous}, not {expected}: judge {version} against it first.")
            promotion = Promotion(datetime.now(UTC), version, previous, by, reason, rollback)
            self._write_down(promotion)
            self._point(POINTER, version)
        return promotion

    def _pointed(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text(errors="replace").strip() or None
        except FileNotFoundError:
            return None

    def _point(self, name: str, line: str) -> None:
        partial = self.folder / f".{name}.partial"
        partial.write_text(f"{line}\n")
        _sync(partial)
        partial.replace(self.folder / name)
        _sync(self.folder)

    def _write_down(self, promotion: Promotion) -> None:
        with (self.folder / HISTORY).open("a+b") as history:
            whole = not history.tell() or os.pread(history.fileno(), 1, history.tell() - 1) == b"\n"
            history.write((b"" if whole else b"\n") + msgspec.json.encode(promotion) + b"\n")
            history.flush()
            os.fsync(history.fileno())

    def _reserve(self) -> str:
        """Return the next version, after removing what dead writers left of theirs."""
        taken = [0]
        for path in self.folder.iterdir():
            if _VERSION.fullmatch(path.name):
                taken.append(int(path.name))
            elif (match := _PARTIAL.fullmatch(path.name)) is not None:
                try:
                    with _held(path):
                        shutil.rmtree(path, ignore_errors=True)
                except (BlockingIOError, FileNotFoundError):  # its writer lives, or has just come to an end
                    taken.append(int(match[1]))
        return f"{1 + max(taken):04d}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder for as long as this process lives and stays in the block; BlockingIOError when another has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _read_manifest(version: str, folder: Path) -> Manifest:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (msgspec.DecodeError, OSError) as error:
        raise BrokenExport(f"The manifest of export {version} cannot be read ({type(error).__name__}).") from None


def _verify(version: str, folder: Path, manifest: Manifest) -> None:
    if manifest.version != version:
        raise BrokenExport(f"Export {version} says that it is {manifest.version[:40]!r}.")
    missing = [a.file for a in manifest.artefacts if a.file not in manifest.files]
    if missing or "tokenizer.json" not in manifest.files or not manifest.artefacts:
        raise BrokenExport(f"Export {version} lists no digest of its model or tokenizer.")
    for name, digest in manifest.files.items():
        file = folder / name
        if Path(name).name != name or file.is_symlink() or not file.is_file():
            raise BrokenExport(f"Export {version} lacks its file {name[:80]!r}.")
        try:
            altered = sha256(file) != digest
        except OSError as error:
            raise BrokenExport(f"Export {version}: {name} cannot be read ({type(error).__name__}).") from None
        if altered:
            raise BrokenExport(f"Export {version}: {name} is not the file that was published (sha256 differs).")


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
