"""Versions on disk: whole or not there, altered or refused, and one pointer that only moves as a whole."""

import os
import random
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec
import pytest

from guard.errors import BrokenExport, Conflict, NotFound
from guard.exports import HISTORY, MANIFEST, POINTER, Artefact, BatchPolicy, Exports, Manifest, SelfTest, sha256
from guard.taxonomy import CATEGORIES
from tests.guard import processes

MODEL = bytes(range(256)) * 8


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    """An empty folder of versions."""
    return Exports(tmp_path / "exports")


def _manifest(folder: Path, version: str, cycle_id: int | None) -> Manifest:
    return Manifest(
        version=version,
        parent=None,
        created_at=datetime(2026, 11, 20, tzinfo=UTC),
        backbone="toy",
        labels=CATEGORIES,
        thresholds=dict.fromkeys(CATEGORIES, 0.5),
        temperature=1.0,
        max_tokens=16,
        pad_id=0,
        pad_token="[PAD]",
        artefacts=(Artefact("model.onnx", "fp32", BatchPolicy(8, 512)),),
        files={name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")},
        self_test=(SelfTest("hello", (0.0,) * 6),),
        cycle_id=cycle_id,
    )


def _fill(folder: Path, version: str, cycle_id: int | None = None, *, lacking: str | None = None) -> None:
    (folder / "model.onnx").write_bytes(MODEL + version.encode())
    (folder / "tokenizer.json").write_text("{}")
    (folder / MANIFEST).write_bytes(msgspec.json.encode(_manifest(folder, version, cycle_id)))
    if lacking is not None:
        (folder / lacking).unlink()


def _publish(exports: Exports, cycle_id: int | None = None) -> str:
    with exports.publish() as (version, folder):
        _fill(folder, version, cycle_id)
    return version


def _champions(exports: Exports, number: int) -> None:
    """Publish so many versions and promote one after the other."""
    for _ in range(number):
        exports.promote(_publish(exports), by="test", reason="next")


def _hidden(exports: Exports) -> list[str]:
    return sorted(p.name for p in exports.folder.iterdir() if p.name.startswith(".") and p.name != ".lock")


def _back(exports: Exports) -> str:
    return exports.rollback(by="test", reason="worse").version


# publishing


def test_publish(exports: Exports) -> None:
    """A version is visible from the end of its publication on, complete, and nothing else is left."""
    assert (exports.versions(), exports.champion(), exports.promotions()) == ([], None, [])
    with pytest.raises(NotFound):
        _back(exports)
    with exports.publish() as (version, folder):
        _fill(folder, version)
        assert exports.versions() == []
    assert exports.versions() == [version] == ["0001"]
    assert exports.verify("0001") == exports.manifest("0001")
    assert _hidden(exports) == []


def test_numbers(exports: Exports) -> None:
    """Versions are counted on from the highest there is, and sorted by number, not by letter."""
    _publish(exports)
    (exports.folder / "0001").rename(exports.folder / "9999")
    assert _publish(exports) == "10000"
    assert exports.versions() == ["9999", "10000"]


def test_failed_filling(exports: Exports) -> None:
    """A publication that fails leaves nothing, and its number is free again."""
    with pytest.raises(ZeroDivisionError), exports.publish() as (_, folder):
        (folder / "model.onnx").write_bytes(MODEL[: 1 // 0])
    assert (exports.versions(), _hidden(exports)) == ([], [])
    assert _publish(exports) == "0001"


@pytest.mark.parametrize("lacking", ["model.onnx", "tokenizer.json", MANIFEST])
def test_incomplete_filling(exports: Exports, lacking: str) -> None:
    """What would not verify never becomes visible."""
    with pytest.raises(BrokenExport), exports.publish() as (version, folder):
        _fill(folder, version, lacking=lacking)
    assert (exports.versions(), _hidden(exports)) == ([], [])


@pytest.mark.timeout(20)
def test_long_filling_blocks_nobody(exports: Exports) -> None:
    """While one version is being filled, another can be published and promoted, and the pointer rolled back."""
    _champions(exports, 2)
    with exports.publish() as (version, folder):
        assert _publish(exports) == "0004"
        exports.promote("0004", by="test", reason="urgent")
        assert _back(exports) == "0002"
        _fill(folder, version)
    assert version == "0003"
    assert exports.versions() == ["0001", "0002", "0003", "0004"]


def _hold_publication(folder: Path, ready: Event) -> None:
    with Exports(folder).publish():
        ready.set()
        signal.pause()


def test_dead_writer(exports: Exports) -> None:
    """What a killed writer left is swept away by the next one; what a living one fills is left alone."""
    ready = processes.CONTEXT.Event()
    writer = processes.start(_hold_publication, exports.folder, ready)
    assert ready.wait(30)
    assert _publish(exports) == "0002"
    assert _hidden(exports) == [".0001.partial"]
    writer.kill()
    writer.join()
    assert _publish(exports) == "0003"
    assert _hidden(exports) == []


def _publish_many(folder: Path, number: int, start: Event) -> None:
    start.wait()
    for _ in range(number):
        _publish(Exports(folder))


def test_two_publishers(exports: Exports) -> None:
    """Processes that publish at once get different versions, and every one of them is whole."""
    start = processes.CONTEXT.Event()
    writers = [processes.start(_publish_many, exports.folder, 8, start) for _ in range(3)]
    start.set()
    assert [processes.finish(writer) for writer in writers] == [0, 0, 0]
    assert len(exports.versions()) == 24
    for version in exports.versions():
        assert exports.verify(version).version == version
    assert _hidden(exports) == []


def test_of_cycle(exports: Exports) -> None:
    """The version of a cycle is found, the latest if there are several, whatever is broken beside it."""
    for cycle_id in (7, 7, 8):
        _publish(exports, cycle_id)
    (exports.folder / "0003" / MANIFEST).write_text("{")
    assert exports.of_cycle(7) == "0002"
    assert exports.of_cycle(8) is None


@pytest.mark.parametrize(
    "version", ["0002", "1", "../0001", ".0001.partial", "", "champion", "\u0660\u0660\u0660\u0661"]
)
def test_no_such_version(exports: Exports, version: str) -> None:
    """What is no version is not found, and no name leads out of the folder."""
    _publish(exports)
    for ask in (exports.path, exports.manifest, exports.verify):
        with pytest.raises(NotFound, match="guard models list"):
            ask(version)


# verifying


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _to_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", MANIFEST])
@pytest.mark.parametrize("harm", [_truncate, _empty, Path.unlink, _to_folder])
def test_harmed_file(exports: Exports, name: str, harm: Callable[[Path], None]) -> None:
    """A version of which a file is cut short, empty, missing or something else is refused, and not promoted."""
    _champions(exports, 1)
    _publish(exports)
    harm(exports.folder / "0002" / name)
    with pytest.raises((BrokenExport, NotFound)):
        exports.promote("0002", by="test", reason="broken")
    assert exports.champion() == "0001"


def test_symlink(exports: Exports) -> None:
    """A file that is only a link is refused: what it leads to can change under the version."""
    _publish(exports)
    model = exports.folder / "0001" / "model.onnx"
    model.rename(exports.folder / "elsewhere")
    model.symlink_to(exports.folder / "elsewhere")
    with pytest.raises(BrokenExport, match=r"lacks its file 'model\.onnx'"):
        exports.verify("0001")


def test_flipped_bits(exports: Exports) -> None:
    """Any one bit that differs in the model is noticed."""
    _publish(exports)
    model = exports.folder / "0001" / "model.onnx"
    content = model.read_bytes()
    for offset in random.Random(20261120).sample(range(len(content)), 200):
        model.write_bytes(content[:offset] + bytes([content[offset] ^ (1 << offset % 8)]) + content[offset + 1 :])
        with pytest.raises(BrokenExport, match="sha256 differs"):
            exports.verify("0001")
    model.write_bytes(content)
    exports.verify("0001")


def _alter(exports: Exports, **changes: object) -> None:
    manifest = exports.manifest("0001")
    content = msgspec.json.encode(msgspec.structs.replace(manifest, **changes))
    (exports.folder / "0001" / MANIFEST).write_bytes(content)


@pytest.mark.parametrize("name", ["../champion", "/etc/hostname", "..", ".", "", "sub/file", "model.onnx\x00"])
def test_escaping_name(exports: Exports, name: str) -> None:
    """A manifest that lists a file outside its folder is refused, whether the digest is right or not."""
    _champions(exports, 1)
    outside = exports.folder / "0001" / name if "\x00" not in name else exports.folder
    digest = sha256(outside) if outside.is_file() else "0" * 64
    _alter(exports, files={**exports.manifest("0001").files, name: digest})
    with pytest.raises(BrokenExport, match="lacks its file"):
        exports.verify("0001")


def test_manifest_must_list_the_model(exports: Exports) -> None:
    """A manifest without the digest of its model or its tokenizer, or without any model, is refused."""
    _publish(exports)
    files = exports.manifest("0001").files
    for changes in (
        {"files": {"tokenizer.json": files["tokenizer.json"]}},
        {"files": {"model.onnx": files["model.onnx"]}},
        {"artefacts": ()},
    ):
        _alter(
            exports, **{"files": files, "artefacts": (Artefact("model.onnx", "fp32", BatchPolicy(8, 512)),), **changes}
        )
        with pytest.raises(BrokenExport, match="no digest"):
            exports.verify("0001")


def test_copied_version(exports: Exports) -> None:
    """A version that was copied under another number is refused: its manifest says who it is."""
    _publish(exports)
    (exports.folder / "0001").rename(exports.folder / "0005")
    with pytest.raises(BrokenExport, match="says that it is '0001'"):
        exports.verify("0005")


# promoting


def test_promote(exports: Exports) -> None:
    """The pointer names the version promoted last, and the history who moved it, from where and why."""
    _publish(exports)
    _publish(exports)
    exports.promote("0001", by="cli", reason="first")
    second = exports.promote("0002", by="learner", reason="+2 points", expected="0001")
    assert (exports.folder / POINTER).read_text() == "0002\n"
    assert exports.promotions()[-1] == second
    assert [(m.version, m.previous, m.by, m.reason) for m in exports.promotions()] == [
        ("0001", None, "cli", "first"),
        ("0002", "0001", "learner", "+2 points"),
    ]


def test_stale_promotion(exports: Exports) -> None:
    """Whoever judged against a champion that is one no more is refused, and nothing moves."""
    _champions(exports, 2)
    _publish(exports)
    with pytest.raises(Conflict, match="The champion is 0002, not 0001"):
        exports.promote("0003", by="learner", reason="late", expected="0001")
    assert exports.champion() == "0002"
    assert len(exports.promotions()) == 2


def test_promote_twice(exports: Exports) -> None:
    """A promotion that is asked for again, as after a crash, is the one that was made."""
    _champions(exports, 1)
    _publish(exports)
    first = exports.promote("0002", by="learner", reason="better", expected="0001")
    assert exports.promote("0002", by="learner", reason="better", expected="0001") == first
    assert len(exports.promotions()) == 2
    assert _back(exports) == "0001"


def test_garbled_pointer(exports: Exports) -> None:
    """A pointer that names nothing leads nowhere, and the next promotion mends it."""
    _champions(exports, 1)
    (exports.folder / POINTER).write_bytes(b"\xff../../etc")
    with pytest.raises(NotFound):
        exports.manifest(str(exports.champion()))
    exports.promote("0001", by="test", reason="mend")
    assert exports.champion() == "0001"


# rolling back


def test_rollback(exports: Exports) -> None:
    """Each rollback goes one champion further back, and before the first there is none."""
    _champions(exports, 3)
    assert [_back(exports), _back(exports)] == ["0002", "0001"]
    with pytest.raises(NotFound, match="no champion before 0001"):
        _back(exports)
    assert exports.champion() == "0001"


def test_rollback_then_promote(exports: Exports) -> None:
    """After a rollback the next promotion stands on what was rolled back to, not on what was left."""
    _champions(exports, 3)
    _back(exports)
    exports.promote(_publish(exports), by="test", reason="next")
    assert [_back(exports), _back(exports)] == ["0002", "0001"]


def test_rollback_of_older(exports: Exports) -> None:
    """An older version that was promoted on purpose is a step forward: its rollback returns to where it came from."""
    _champions(exports, 3)
    exports.promote("0001", by="test", reason="on purpose")
    assert [_back(exports), _back(exports), _back(exports)] == ["0003", "0002", "0001"]


def test_rollback_with_pointer_set_by_hand(exports: Exports) -> None:
    """A pointer that somebody wrote by hand is a champion like any other."""
    _champions(exports, 2)
    _publish(exports)
    (exports.folder / POINTER).write_text("0003\n")
    assert [_back(exports), _back(exports)] == ["0002", "0001"]


def test_rollback_to_broken(exports: Exports) -> None:
    """What no longer verifies is not rolled back to."""
    _champions(exports, 2)
    _truncate(exports.folder / "0001" / "model.onnx")
    with pytest.raises(BrokenExport):
        _back(exports)
    assert exports.champion() == "0002"


# crashes


def test_history_cut_short(exports: Exports) -> None:
    """However much of a line a crash left, the moves before it are known and the next one is written whole."""
    _champions(exports, 2)
    history = exports.folder / HISTORY
    content = history.read_bytes()
    cut = content.index(b"\n") + 1
    (exports.folder / POINTER).write_text("0001\n")  # the crash came before the pointer was moved
    for length in (*range(cut, len(content), 9), len(content) - 1):
        history.write_bytes(content[:length])
        assert [m.version for m in exports.promotions()] == ["0001"]
        exports.promote("0002", by="test", reason="again")
        assert [m.version for m in exports.promotions()] == ["0001", "0002"]
        assert _back(exports) == "0001"


def test_move_written_but_not_made(exports: Exports) -> None:
    """A move that stands in the history while the pointer was never moved is no move, then and later."""
    _champions(exports, 2)
    (exports.folder / POINTER).write_text("0001\n")
    assert [m.version for m in exports.promotions()] == ["0001"]
    with pytest.raises(NotFound):
        _back(exports)
    _publish(exports)
    exports.promote("0003", by="test", reason="next", expected="0001")
    assert [m.version for m in exports.promotions()] == ["0001", "0003"]
    assert _back(exports) == "0001"


def _crash_publishing(folder: Path, step: int) -> None:
    with processes.killed_at(step, folder):
        _publish(Exports(folder))


def _crash_promoting(folder: Path, step: int) -> None:
    with processes.killed_at(step, folder):
        Exports(folder).promote("0002", by="test", reason="better")


def _crashes(target: Callable[[Path, int], None], folder: Path, step: int) -> bool:
    code = processes.finish(processes.start(target, folder, step))
    assert code in {0, -signal.SIGKILL}
    return code != 0


@pytest.mark.slow
def test_killed_while_publishing(tmp_path: Path) -> None:
    """Killed at any step, a publication leaves a whole version or none, and the next one finds everything in order."""
    step = 0
    outcomes = []
    crashed = True
    while crashed:
        step += 1
        exports = Exports(tmp_path / str(step))
        _champions(exports, 1)
        crashed = _crashes(_crash_publishing, exports.folder, step)
        outcomes.append(exports.versions())
        for version in exports.versions():
            exports.verify(version)
        assert exports.champion() == "0001"
        assert _publish(exports) == f"{len(outcomes[-1]) + 1:04d}"
        assert _hidden(exports) == []
    assert step > 10
    assert {tuple(o) for o in outcomes} == {("0001",), ("0001", "0002")}


@pytest.mark.slow
def test_killed_while_promoting(tmp_path: Path) -> None:
    """Killed at any step, a promotion leaves the old champion or the new one, and a history that says which."""
    step = 0
    outcomes = set()
    crashed = True
    while crashed:
        step += 1
        exports = Exports(tmp_path / str(step))
        _champions(exports, 1)
        _publish(exports)
        crashed = _crashes(_crash_promoting, exports.folder, step)
        outcomes.add(exports.champion())
        assert exports.promotions()[-1].version == exports.champion()
        exports.promote("0002", by="test", reason="again")
        assert [m.version for m in exports.promotions()] == ["0001", "0002"]
        assert _back(exports) == "0001"
    assert step > 5
    assert outcomes == {"0001", "0002"}


def _promote_many(folder: Path, name: str, start: Event) -> None:
    start.wait()
    exports = Exports(folder)
    for number in range(40):
        try:
            exports.promote(f"{number % 3 + 1:04d}", by=name, reason="race", expected=exports.champion())
        except Conflict:
            continue


def test_two_promoters(exports: Exports) -> None:
    """Of promotions at once each sets out from where the one before it led: none is lost, none made blindly."""
    for _ in range(3):
        _publish(exports)
    exports.promote("0001", by="test", reason="first")
    start = processes.CONTEXT.Event()
    movers = [processes.start(_promote_many, exports.folder, name, start) for name in ("a", "b", "c")]
    start.set()
    assert [processes.finish(mover) for mover in movers] == [0, 0, 0]
    moves = exports.promotions()
    assert len(moves) == (exports.folder / HISTORY).read_bytes().count(b"\n")
    assert [m.previous for m in moves[1:]] == [m.version for m in moves[:-1]]
    assert exports.champion() == moves[-1].version


def test_shadow(exports: Exports) -> None:
    """A version that verifies can shadow the champion, until another does or none; the champion stays where it is."""
    champion, other = _publish(exports), _publish(exports)
    exports.promote(champion, by="test", reason="first")
    assert exports.shadow() is None
    for version in (other, champion, None, None):
        exports.set_shadow(version)
        assert (exports.shadow(), exports.champion()) == (version, champion)
    with pytest.raises(NotFound):
        exports.set_shadow("0009")
    (exports.path(other) / "model.onnx").write_bytes(b"altered")
    with pytest.raises(BrokenExport):
        exports.set_shadow(other)
    assert exports.shadow() is None


def test_pruning_keeps_the_shadow(exports: Exports) -> None:
    """What shadows the champion is not deleted, however old it is."""
    for _ in range(4):
        _publish(exports)
    exports.set_shadow("0002")
    assert exports.prune(1) == ["0001", "0003"]


def test_pruning_keeps_what_may_be_needed(exports: Exports) -> None:
    """The champion, the newest versions and the latest champions stay; the others go, whole."""
    for _ in range(3):
        exports.promote(_publish(exports), by="test", reason="next")
    for _ in range(5):
        _publish(exports)
    assert exports.prune(2) == ["0001", "0004", "0005", "0006"]
    assert exports.versions() == ["0002", "0003", "0007", "0008"]
    assert exports.champion() == "0003"
    assert exports.rollback(by="test", reason="still there").version == "0002"
    assert exports.prune(2) == []
    assert not list(exports.folder.glob(".*.deleted"))


def test_hold(exports: Exports) -> None:
    """A hold stands with who and why until it is ended, and one that cannot be read stands as well."""
    assert exports.hold() is None
    with pytest.raises(NotFound, match="no hold"):
        exports.end_hold()
    exports.set_hold(by="ada", reason="audit week")
    exports.set_hold(by="ben", reason="longer")
    hold = exports.hold()
    assert hold is not None
    assert (hold.by, hold.reason) == ("ben", "longer")
    assert exports.versions() == []
    (exports.folder / "hold").write_text("{")
    assert exports.hold() is not None
    exports.end_hold()
    assert exports.hold() is None


def test_rollback_from_another_champion(exports: Exports) -> None:
    """Who looked at another champion than there is now does not go back by mistake."""
    for _ in range(2):
        exports.promote(_publish(exports), by="test", reason="next")
    with pytest.raises(Conflict, match="The champion is 0002, not 0001"):
        exports.rollback(by="ada", reason="why", expected="0001")
    assert exports.champion() == "0002"
    assert exports.rollback(by="ada", reason="why", expected="0002").version == "0001"
