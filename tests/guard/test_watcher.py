"""The pointer is followed; what does not load stays out, is reported, and leaves the champion in service."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from guard.bundle import Bundle
from guard.engine import Engine
from guard.exports import POINTER, Exports
from guard.metrics import Metrics
from guard.settings import GuardSettings, Precision
from guard.watcher import Watcher
from tests.toys import publish_toy, rewrite_manifest


@pytest.fixture
def metrics() -> Metrics:
    """Fresh series."""
    return Metrics()


@pytest.fixture
def engine(guard_settings: GuardSettings, metrics: Metrics) -> Iterator[Engine]:
    """An engine without a model."""
    opened = Engine(guard_settings, metrics)
    yield opened
    opened.close()


@pytest.fixture
def watcher(engine: Engine, exports: Exports, guard_settings: GuardSettings, metrics: Metrics) -> Watcher:
    """A watcher that looks when told to."""
    return Watcher(engine, exports, guard_settings, metrics)


def _serving(engine: Engine) -> str | None:
    return engine.bundle.version if engine.bundle else None


def _problem(watcher: Watcher) -> str | None:
    return watcher.problem


def _swaps(metrics: Metrics, result: str) -> float | None:
    return metrics.registry.get_sample_value("guard_swaps_total", {"result": result})


async def test_nothing_there(watcher: Watcher, engine: Engine) -> None:
    """Without a folder of exports there is nothing to serve and nothing wrong."""
    await watcher.look()
    assert (_serving(engine), watcher.problem) == (None, None)


async def test_follows_the_pointer(watcher: Watcher, engine: Engine, exports: Exports, metrics: Metrics) -> None:
    """Each promotion is served at the next look, and the model in service is the one that is named."""
    for version in ("0001", "0002", "0003"):
        publish_toy(exports, parent="0000")
        with capture_logs() as logs:
            await watcher.look()
        assert _serving(engine) == version
        assert logs[-1]["event"] == "swapped"
        labels = {"model_version": version, "backbone": "toy", "artefact": "fp32", "parent": "0000"}
        assert metrics.registry.get_sample_value("guard_model_info", labels) == 1
    assert metrics.render().count(b"\nguard_model_info{") == 1
    assert (_swaps(metrics, "swapped"), _swaps(metrics, "failed")) == (3, 0)


async def test_demanded_artefact_that_is_not_there(
    engine: Engine, exports: Exports, guard_settings: GuardSettings, metrics: Metrics
) -> None:
    """A champion without the demanded artefact is not served, and the reason names the setting."""
    demanding = guard_settings.model_copy(update={"artefact": Precision.INT8})
    watcher = Watcher(engine, exports, demanding, metrics)
    publish_toy(exports)
    await watcher.look()
    assert _serving(engine) is None
    assert "GUARD_ARTEFACT=int8, but export 0001 has only fp32" in (_problem(watcher) or "")


async def test_published_is_not_promoted(watcher: Watcher, engine: Engine, exports: Exports) -> None:
    """A version that is only published is not served."""
    publish_toy(exports)
    await watcher.look()
    publish_toy(exports, promote=False)
    await watcher.look()
    assert _serving(engine) == "0001"


async def test_same_champion_is_not_loaded_again(watcher: Watcher, engine: Engine, exports: Exports) -> None:
    """Looking again at the champion in service loads nothing."""
    publish_toy(exports)
    await watcher.look()
    bundle = engine.bundle
    await watcher.look()
    assert engine.bundle is bundle


async def test_memory_is_given_back(watcher: Watcher, exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look after a swap gives back what the loading took and what the version before held, once."""
    released: list[str | None] = []
    monkeypatch.setattr("guard.watcher.release_memory", lambda: released.append(exports.champion()))
    for looks in (3, 3):
        publish_toy(exports)
        for _ in range(looks):
            await watcher.look()
    assert released == ["0001", "0002"]


async def test_rollback(watcher: Watcher, engine: Engine, exports: Exports) -> None:
    """When the pointer goes back, the version before is served again."""
    for _ in range(2):
        publish_toy(exports)
        await watcher.look()
    exports.rollback(by="test", reason="worse")
    await watcher.look()
    assert _serving(engine) == "0001"


def _flip(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "truncated": lambda folder: (folder / "model.onnx").write_bytes(b"x"),
    "missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "self-test": lambda folder: rewrite_manifest(folder, self_test=()),
    "manifest": lambda folder: (folder / "manifest.json").write_bytes(b'{"\xff'),
    "gone": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_broken_champion(
    watcher: Watcher, engine: Engine, exports: Exports, metrics: Metrics, breakage: str
) -> None:
    """A champion that does not load leaves the one before it in service, and problem, metric and log tell of it."""
    publish_toy(exports)
    await watcher.look()
    version = publish_toy(exports)
    BREAKAGES[breakage](exports.folder / version)
    with capture_logs() as logs:
        await watcher.look()
    assert _serving(engine) == "0001"
    assert watcher.problem is not None
    assert version in watcher.problem
    assert _swaps(metrics, "failed") == 1
    assert [(log["event"], log["log_level"], log["version"]) for log in logs] == [("swap_failed", "error", version)]
    assert (await engine.classify(["hello"])).model_version == "0001"
    assert engine.problem is None


async def test_broken_first_champion(watcher: Watcher, engine: Engine, exports: Exports) -> None:
    """When the very first champion does not load, nothing is served."""
    version = publish_toy(exports)
    _flip(exports.path(version))
    await watcher.look()
    assert (_serving(engine), engine.problem) == (None, "no model is loaded")


@pytest.mark.parametrize("content", [b"0007\n", b"nonsense", b"../0001", b"\xff\xfe", b"x" * 10_000, b"0001\n0002\n"])
async def test_pointer_to_nothing(watcher: Watcher, engine: Engine, exports: Exports, content: bytes) -> None:
    """A pointer that names no version, or is no text, is a problem; the champion stays."""
    publish_toy(exports)
    await watcher.look()
    (exports.folder / POINTER).write_bytes(content)
    await watcher.look()
    assert _serving(engine) == "0001"
    assert watcher.problem
    assert len(watcher.problem) < 300


async def test_pointer_that_cannot_be_read(watcher: Watcher, engine: Engine, exports: Exports) -> None:
    """A pointer that is no file is a problem, and a sound pointer is followed again."""
    publish_toy(exports)
    await watcher.look()
    (exports.folder / POINTER).unlink()
    (exports.folder / POINTER).mkdir()
    await watcher.look()
    assert watcher.problem == "the champion pointer cannot be read (IsADirectoryError)"
    (exports.folder / POINTER).rmdir()
    publish_toy(exports)
    await watcher.look()
    assert (_serving(engine), _problem(watcher)) == ("0002", None)


async def test_broken_champion_is_tried_again_later(
    watcher: Watcher, engine: Engine, exports: Exports, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken champion is not loaded at every look, but after a while it is, and is served once it is whole."""
    publish_toy(exports)
    await watcher.look()
    version = publish_toy(exports)
    model = exports.path(version) / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:100])
    for _ in range(3):
        await watcher.look()
    assert _swaps(metrics, "failed") == 1
    model.write_bytes(whole)
    monkeypatch.setattr("guard.watcher.RETRY_S", 0.0)
    await watcher.look()
    assert (_serving(engine), watcher.problem) == (version, None)


async def test_next_version_is_not_kept_waiting(watcher: Watcher, engine: Engine, exports: Exports) -> None:
    """While a broken champion waits for its next try, another one is loaded at once."""
    publish_toy(exports)
    _flip(exports.path("0001"))
    await watcher.look()
    publish_toy(exports)
    await watcher.look()
    assert (_serving(engine), watcher.problem) == ("0002", None)


async def test_problem_ends_with_a_rollback(watcher: Watcher, engine: Engine, exports: Exports) -> None:
    """When the pointer returns to the version in service, there is no problem any more."""
    publish_toy(exports)
    await watcher.look()
    _flip(exports.path(publish_toy(exports)))
    await watcher.look()
    exports.rollback(by="test", reason="broken")
    await watcher.look()
    assert (_serving(engine), watcher.problem) == ("0001", None)


async def test_slow_load_holds_nobody_up(
    watcher: Watcher, engine: Engine, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a version is being loaded, the one before it answers; nothing waits for the load."""
    publish_toy(exports)
    await watcher.look()
    loading, free = threading.Event(), threading.Event()
    load = Bundle.load

    def slow(*arguments: Any, **keywords: Any) -> Bundle:
        loading.set()
        assert free.wait(30)
        return load(*arguments, **keywords)

    monkeypatch.setattr(Bundle, "load", slow)
    publish_toy(exports)
    looking = asyncio.create_task(watcher.look())
    await asyncio.to_thread(loading.wait, 30)
    for _ in range(20):
        assert (await engine.classify(["hello"])).model_version == "0001"
    assert not looking.done()
    free.set()
    await looking
    assert (await engine.classify(["hello"])).model_version == "0002"


async def test_runs_until_cancelled(
    engine: Engine, exports: Exports, guard_settings: GuardSettings, metrics: Metrics
) -> None:
    """The task looks again and again until it is cancelled."""
    swapped = asyncio.Event()

    class Told(Engine):
        def swap(self, bundle: Bundle) -> None:
            super().swap(bundle)
            swapped.set()

    told = Told(guard_settings, metrics)
    watcher = Watcher(told, exports, guard_settings.model_copy(update={"watch_interval_ms": 10}), metrics)
    task = asyncio.create_task(watcher.run())
    for version in ("0001", "0002"):
        publish_toy(exports)
        await asyncio.wait_for(swapped.wait(), 30)
        swapped.clear()
        assert _serving(told) == version
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    told.close()
