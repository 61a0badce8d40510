"""Texts into verdicts, under exactly one version."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator, Sequence

import pytest

from guard.bundle import Bundle, Outputs, Window
from guard.engine import ENCODE_INLINE_CHARS, Engine, release_memory
from guard.errors import EmptyText, NoModel, NoRoom, OutOfTime, TooLarge
from guard.exports import Exports
from guard.metrics import Metrics
from guard.reading import Reading
from guard.settings import GuardSettings
from guard.taxonomy import Category
from tests.toys import publish_toy


@pytest.fixture
def metrics() -> Metrics:
    """Fresh series."""
    return Metrics()


@pytest.fixture
def engine(guard_settings: GuardSettings, metrics: Metrics, toy: Bundle) -> Iterator[Engine]:
    """An engine with a toy in service."""
    opened = Engine(guard_settings, metrics)
    opened.swap(toy)
    yield opened
    opened.close()


class _Waiting(Bundle):
    """A bundle that waits before it encodes, or before it runs."""

    def __init__(self, bundle: Bundle, *, encode: bool = False) -> None:
        self.__dict__.update(bundle.__dict__)
        self._slow_encode = encode
        self.entered = threading.Event()
        self.free = threading.Event()

    def encode(self, texts: Sequence[str]) -> list[list[Window]]:
        """Wait if told to; then encode."""
        if self._slow_encode:
            self.entered.set()
            assert self.free.wait(30)
        return super().encode(texts)

    def run(self, windows: Sequence[Window]) -> Outputs:
        """Wait, unless the encoding has; then run."""
        if not self._slow_encode:
            self.entered.set()
            assert self.free.wait(30)
        return super().run(windows)


async def test_no_model(guard_settings: GuardSettings, metrics: Metrics) -> None:
    """An engine without a bundle has a problem and no verdicts."""
    engine = Engine(guard_settings, metrics)
    assert engine.problem == "no model is loaded"
    with pytest.raises(NoModel, match="bootstrap"):
        await engine.classify(["hello"])
    engine.close()


async def test_request_keeps_its_bundle(engine: Engine, exports: Exports, toy: Bundle) -> None:
    """A request that began under one version is answered by it though another is in service by then."""
    old = _Waiting(toy)
    engine.swap(old)
    begun = asyncio.create_task(engine.classify(["hello rash"]))
    await asyncio.to_thread(old.entered.wait, 30)
    votes = {"hello": Category.SELF_HARM, "rash": Category.SELF_HARM}
    engine.swap(Bundle.load(exports, publish_toy(exports, votes=votes, default=None)))
    later = asyncio.create_task(engine.classify(["hello rash"]))
    old.free.set()
    before, after = await asyncio.gather(begun, later)
    assert (before.model_version, after.model_version) == ("0001", "0002")
    assert after.verdicts[0].category is Category.SELF_HARM
    assert before.verdicts[0].category is not Category.SELF_HARM


async def test_old_bundle_is_let_go(engine: Engine, exports: Exports) -> None:
    """After a swap nothing holds the bundle that served before, without the garbage collector's help."""
    gc.disable()
    try:
        engine.swap(Bundle.load(exports, "0001"))
        assert engine.bundle is not None
        gone = weakref.ref(engine.bundle)
        await engine.classify(["hello"])
        engine.swap(Bundle.load(exports, "0001"))
        while engine._batcher._idle < 1:  # noqa: ASYNC110 - the worker is on its way back from its last run
            await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def test_long_texts_leave_the_loop_free(engine: Engine, toy: Bundle) -> None:
    """While a long text is being read, the loop answers others."""
    slow = _Waiting(toy, encode=True)
    engine.swap(slow)
    long = asyncio.create_task(engine.classify(["hello " * ENCODE_INLINE_CHARS]))
    await asyncio.to_thread(slow.entered.wait, 30)
    engine.swap(toy)
    assert (await engine.classify(["hello"])).verdicts[0].category is Category.NOT_HARMFUL
    assert not long.done()
    slow.free.set()
    assert (await long).windows[0] > 1


async def test_long_texts_are_led_back_off_the_loop(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where in a long text the harm lies is found in a thread, while the loop answers others."""
    threads = []

    def span(_: Reading, __: int) -> tuple[int, int]:
        threads.append(threading.current_thread())
        return 0, 1

    monkeypatch.setattr(Reading, "span", span)
    await engine.classify(["hello " * ENCODE_INLINE_CHARS])
    assert threads != []
    assert threading.main_thread() not in threads


async def test_reading_has_the_same_deadline(guard_settings: GuardSettings, metrics: Metrics, toy: Bundle) -> None:
    """A text that takes too long to read is out of time at the deadline, not when it has been read."""
    engine = Engine(guard_settings.model_copy(update={"deadline_ms": 20}), metrics)
    slow = _Waiting(toy, encode=True)
    engine.swap(slow)
    with pytest.raises(OutOfTime, match="20 ms"):
        await engine.classify(["hello " * ENCODE_INLINE_CHARS])
    slow.free.set()
    engine.close()


async def test_full_queue_refuses_before_reading(guard_settings: GuardSettings, metrics: Metrics, toy: Bundle) -> None:
    """Where the queue is full a request is refused before its texts are tokenized, and where a caller cannot wait too."""
    engine = Engine(guard_settings.model_copy(update={"max_queue_tokens": 512}), metrics)
    bundle = _Waiting(toy)
    engine.swap(bundle)
    running = asyncio.create_task(engine.classify(["hello"]))
    await asyncio.to_thread(bundle.entered.wait, 30)
    waiting = asyncio.create_task(engine.classify(["hello " * 300]))
    while not engine.queue_tokens:  # noqa: ASYNC110 - it is on its way
        await asyncio.sleep(0)
    encoded = metrics.registry.get_sample_value("guard_stage_seconds_count", {"stage": "encode"})
    with pytest.raises(NoRoom, match="512"):
        await engine.classify(["hello " * 300])
    assert metrics.registry.get_sample_value("guard_stage_seconds_count", {"stage": "encode"}) == encoded
    bundle.free.set()
    await asyncio.gather(running, waiting)
    engine.close()


async def test_callers_deadline(guard_settings: GuardSettings, metrics: Metrics, toy: Bundle) -> None:
    """The shorter of the caller's deadline and the guard's holds."""
    for limit_ms, deadline_s in ((20, 30.0), (30_000, 0.02), (20, None)):
        engine = Engine(guard_settings.model_copy(update={"deadline_ms": limit_ms}), metrics)
        bundle = _Waiting(toy)
        engine.swap(bundle)
        with pytest.raises(OutOfTime, match=r"within \d\d? ms"):
            await engine.classify(["hello"], deadline_s=deadline_s)
        bundle.free.set()
        engine.close()


async def test_limits(guard_settings: GuardSettings, metrics: Metrics, toy: Bundle) -> None:
    """Too many texts, too long a text and an empty one are each refused by a message that tells which."""
    engine = Engine(guard_settings.model_copy(update={"max_texts": 2, "max_text_chars": 10}), metrics)
    engine.swap(toy)
    assert len((await engine.classify(["h" * 10, "hello"])).verdicts) == 2
    with pytest.raises(TooLarge, match="3 texts"):
        await engine.classify(["a"] * 3)
    with pytest.raises(TooLarge, match="11 characters"):
        await engine.classify(["a", "h" * 11])
    with pytest.raises(EmptyText, match="Text 1"):
        await engine.classify(["a", "\u200b"])
    engine.close()


async def test_judged_texts_are_normalised(engine: Engine) -> None:
    """What goes on to the pool is the text as the tokenizer saw it."""
    assert (await engine.classify(["  \uff53ue\u200b  the\nlandlord "])).texts == ("sue the landlord",)


async def test_stages_are_timed(engine: Engine, metrics: Metrics) -> None:
    """Each stage of a request is observed once."""
    await engine.classify(["hello"])
    engine.close()  # a worker answers before it notes the run
    for stage in ("encode", "queue", "run"):
        assert metrics.registry.get_sample_value("guard_stage_seconds_count", {"stage": stage}) == 1


async def test_workers_problem_is_the_engines(engine: Engine) -> None:
    """What is wrong with the workers is wrong with the engine."""
    engine.close()
    assert engine.problem == "the guard is shutting down"


def test_release_memory() -> None:
    """Giving memory back works on this machine's libc, or does nothing."""
    release_memory()
