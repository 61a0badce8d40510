"""A second model beside the champion: it is asked in the pauses only, counted, and can hold up and harm nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from guard.bundle import Bundle
from guard.engine import Engine
from guard.exports import Exports
from guard.intake import Intake
from guard.metrics import Metrics
from guard.settings import GuardSettings
from guard.shadow import WAITING, Shadow
from guard.store import Store
from guard.taxonomy import Category
from tests.guard.store.scenes import pooled
from tests.toys import VOTES, publish_toy

OTHERWISE = {**VOTES, "sue": Category.NOT_HARMFUL}


@pytest.fixture
def metrics() -> Metrics:
    """Fresh series."""
    return Metrics()


@pytest.fixture
def settings(guard_settings: GuardSettings) -> GuardSettings:
    """Settings under which every request is shadowed and no certain verdict is audited."""
    return guard_settings.model_copy(update={"shadow_share": 1.0, "audit_rate": 0.0, "intake_flush_ms": 1})


@pytest.fixture
def engine(settings: GuardSettings, metrics: Metrics, toy: Bundle) -> Iterator[Engine]:
    """An engine with a toy in service."""
    opened = Engine(settings, metrics)
    opened.swap(toy)
    yield opened
    opened.close()


@pytest.fixture
def other(exports: Exports, engine: Engine) -> str:
    """A version that thinks otherwise about one word, named as the shadow."""
    version = publish_toy(exports, votes=OTHERWISE, promote=False)
    exports.set_shadow(version)
    return version


Make = Callable[..., Shadow]


@pytest.fixture
async def make(
    engine: Engine, exports: Exports, settings: GuardSettings, metrics: Metrics, store: Store
) -> AsyncIterator[Make]:
    """Make a shadow with some settings; it is closed at the end."""
    made: list[Shadow] = []

    def build(*, sample: float = 0.0, **changes: Any) -> Shadow:
        changed = settings.model_copy(update=changes)
        intake = Intake(store, changed, metrics, clock=store.clock, sample=lambda: 0.999)
        made.append(Shadow(engine, intake, exports, changed, metrics, sample=lambda: sample))
        return made[-1]

    yield build
    for shadow in made:
        await asyncio.to_thread(shadow.close)


async def _ask(engine: Engine, shadow: Shadow, *texts: str, store: bool = True, **thresholds: float) -> None:
    judged = await engine.classify(texts)
    limits = {Category(name.replace("_", "-")): limit for name, limit in thresholds.items()}
    shadow.offer(judged, thresholds=limits, user="ann", store=store)


def _fates(metrics: Metrics) -> dict[str, float]:
    value = metrics.registry.get_sample_value
    return {fate: value("guard_shadow_requests_total", {"fate": fate}) or 0 for fate in ("scored", "dropped", "failed")}


async def _fated(metrics: Metrics, **fates: int) -> None:
    async with asyncio.timeout(30):
        while _fates(metrics) != {"scored": 0, "dropped": 0, "failed": 0} | fates:  # noqa: ASYNC110 - a thread is at work
            await asyncio.sleep(0.001)


def _count(metrics: Metrics, version: str, champion: Category, shadow: Category) -> float | None:
    labels = {"model_version": version, "champion": champion, "shadow": shadow}
    return metrics.registry.get_sample_value("guard_shadow_verdicts_total", labels)


async def test_counts_and_pools_disagreements(
    make: Make, engine: Engine, metrics: Metrics, other: str, store: Store
) -> None:
    """Texts are counted by both categories; those about which the two disagree enter the pool with the share."""
    shadow = make(shadow_share=0.25)
    await shadow.look()
    await _ask(engine, shadow, "sue", "hello")
    await _ask(engine, shadow, "sue him", store=False)
    await _fated(metrics, scored=2)
    assert _count(metrics, other, Category.LEGAL_ADVICE, Category.NOT_HARMFUL) == 2
    assert _count(metrics, other, Category.NOT_HARMFUL, Category.NOT_HARMFUL) == 1
    assert await shadow._intake.flush()
    assert [(text.text, text.inclusion_probability) for text in await pooled(store)] == [("sue", 0.25)]
    assert await store.pool.audits() == {}


async def test_uncertain_ones_are_there_already(make: Make, engine: Engine, metrics: Metrics, other: str) -> None:
    """A disputed text of which the champion is unsure has come into the pool by that, and is not offered again."""
    shadow = make(uncertain_above=0.0)
    await shadow.look()
    await _ask(engine, shadow, "sue")
    await _fated(metrics, scored=1)
    assert not shadow._intake._waiting


async def test_thresholds_of_the_request(make: Make, engine: Engine, metrics: Metrics, other: str) -> None:
    """What a request overrode holds for the second model as well: otherwise they would differ about that."""
    shadow = make()
    await shadow.look()
    await _ask(engine, shadow, "hello", not_harmful=1.0, self_harm=0.0001)
    await _fated(metrics, scored=1)
    assert _count(metrics, other, Category.NOT_HARMFUL, Category.SELF_HARM) == 1


async def test_share(make: Make, engine: Engine, metrics: Metrics, other: str) -> None:
    """Only those drawn are judged twice."""
    for sample in (0.5, 0.49):
        shadow = make(shadow_share=0.5, sample=sample)
        await shadow.look()
        await _ask(engine, shadow, "hello")
    await _fated(metrics, scored=1)


async def test_follows_the_pointer(make: Make, engine: Engine, exports: Exports, other: str) -> None:
    """The version named is loaded, and let go of when none is named or when it has become the champion."""
    shadow = make()

    async def after_a_look() -> str | None:
        await shadow.look()
        return shadow.bundle.version if shadow.bundle else None

    assert await after_a_look() == other
    third = publish_toy(exports, promote=False)
    exports.set_shadow(third)
    assert await after_a_look() == third
    engine.swap(Bundle.load(exports, third))
    assert await after_a_look() is None
    exports.set_shadow(other)
    assert await after_a_look() == other
    exports.set_shadow(None)
    assert await after_a_look() is None


async def test_broken_shadow(make: Make, exports: Exports, other: str) -> None:
    """A version that does not load is not used, and the one before it is kept."""
    shadow = make()
    await shadow.look()
    broken = publish_toy(exports, promote=False)
    exports.set_shadow(broken)
    (exports.path(broken) / "model.onnx").write_bytes(b"")
    await shadow.look()
    assert shadow.bundle is not None
    assert shadow.bundle.version == other


async def test_no_share_loads_nothing(make: Make, other: str) -> None:
    """Without a share no second model takes up memory."""
    shadow = make(shadow_share=0.0)
    task = asyncio.create_task(shadow.run())
    await asyncio.sleep(0.05)
    assert shadow.bundle is None
    task.cancel()


async def test_workers_go_first(
    make: Make, engine: Engine, metrics: Metrics, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the workers are busy nothing is judged twice, what does not fit into the queue is dropped, and offering never waits."""
    shadow = make()
    await shadow.look()
    busy = True
    monkeypatch.setattr(Engine, "busy", property(lambda _: busy))
    judged = await engine.classify(["hello"])
    async with asyncio.timeout(1):
        shadow.offer(judged, thresholds=None, user=None, store=True)
        while not shadow._waiting.empty():  # noqa: ASYNC110 - the thread takes the first one
            await asyncio.sleep(0)
        for _ in range(WAITING + 5):
            shadow.offer(judged, thresholds=None, user=None, store=True)
    assert _fates(metrics) == {"scored": 0, "dropped": 5, "failed": 0}
    busy = False
    await _fated(metrics, scored=WAITING + 1, dropped=5)


async def test_failing_model(
    make: Make, engine: Engine, metrics: Metrics, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second model that fails is counted, and asked again with the next request."""
    shadow = make()
    await shadow.look()
    assert shadow.bundle is not None
    with monkeypatch.context() as broken:
        broken.setattr(shadow.bundle, "run", None)
        await _ask(engine, shadow, "hello")
        await _fated(metrics, failed=1)
    await _ask(engine, shadow, "hello")
    await _fated(metrics, failed=1, scored=1)
