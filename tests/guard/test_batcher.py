"""Windows into runs: whatever happens, every request gets an answer, and the company it keeps changes nothing in it."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from guard.batcher import LENGTH_RATIO, Batcher
from guard.bundle import Bundle, Outputs, Window
from guard.decision import softmax
from guard.errors import NoModel, NoRoom, OutOfTime
from guard.exports import Artefact, BatchPolicy, Exports
from guard.taxonomy import CATEGORIES
from tests.toys import VOTES, publish_toy

LONG_S = 30.0  # longer than any test: what is to be answered is answered before


class FakeBundle(Bundle):
    """A bundle whose runs wait until they are let go, and whose logits are the first token of each window.

    Args:
        size: Messages a run.
        tokens: Tokens a run.
        blocked: Whether runs wait for `release`.
    """

    def __init__(self, *, size: int = 8, tokens: int = 512, blocked: bool = False) -> None:
        self.artefact = Artefact("model.onnx", "fp32", BatchPolicy(size, tokens))
        self.version = "0001"
        self.runs: list[list[int]] = []
        self.error: BaseException | None = None
        self.entered = threading.Event()
        self.free = threading.Event()
        if not blocked:
            self.free.set()

    def run(self, windows: Sequence[Window]) -> Outputs:
        """Take note of the windows' lengths, wait, and give the first tokens."""
        self.runs.append([len(w.ids) for w in windows])
        self.entered.set()
        assert self.free.wait(LONG_S)
        if self.error is not None:
            raise self.error
        rows = np.repeat(np.array([[w.ids[0]] for w in windows], dtype=np.float32), len(CATEGORIES), axis=1)
        return Outputs(logits=rows, embeddings=rows)

    async def taken(self) -> None:
        """Wait until a run has begun."""
        await asyncio.to_thread(self.entered.wait, LONG_S)


def window(length: int = 4, first: int = 1) -> Window:
    """Return a window of some length."""
    return Window((first,) + (0,) * (length - 1))


@contextmanager
def batching(**arguments: Any) -> Iterator[Batcher]:
    """Open a batcher with one thread and room for all, and close it."""
    batcher = Batcher(**{"threads": 1, "max_queue_tokens": 10_000, **arguments})
    try:
        yield batcher
    finally:
        batcher.close()


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    """A batcher with one thread and room for all."""
    with batching() as opened:
        yield opened


@pytest.fixture
async def blocked() -> AsyncIterator[FakeBundle]:
    """A bundle whose runs wait; they are let go at the end of the test, so that the batcher can close."""
    bundle = FakeBundle(blocked=True)
    yield bundle
    bundle.free.set()


def submit(batcher: Batcher, bundle: Bundle, *windows: Window, timeout_s: float = LONG_S) -> "asyncio.Task[Any]":
    """Start a request."""
    return asyncio.create_task(batcher.run(bundle, windows, timeout_s=timeout_s))


async def settled() -> None:
    """Let the tasks that were started reach their first wait."""
    for _ in range(3):
        await asyncio.sleep(0)


# answers


async def test_windows_keep_their_order(batcher: Batcher) -> None:
    """A request's logits stand in the order of its windows, however they were sorted into runs."""
    lengths = random.Random(1).choices(range(1, 60), k=100)
    logits = await batcher.run(FakeBundle(), [window(n, first=i) for i, n in enumerate(lengths)], timeout_s=LONG_S)
    assert logits[:, 0].tolist() == list(range(100))


async def test_many_requests_at_once() -> None:
    """With several threads and many requests each gets its own logits."""
    bundle = FakeBundle()
    with batching(threads=4, max_queue_tokens=10**6) as batcher:
        length = random.Random(2).randint
        requests = [[window(length(1, 40), first=n) for _ in range(n % 5 + 1)] for n in range(400)]
        tasks = [submit(batcher, bundle, *windows) for windows in requests]
        answers = await asyncio.gather(*tasks)
    assert [a[:, 0].tolist() for a in answers] == [[n] * (n % 5 + 1) for n in range(400)]
    assert batcher.queue_tokens == 0


async def test_company_changes_nothing(exports: Exports) -> None:
    """Texts that share runs in whatever mixture get what the bundle gives each of them offline."""
    bundle = Bundle.load(exports, publish_toy(exports))
    chosen = random.Random(3)
    texts = [" ".join(chosen.choices(list(VOTES), k=chosen.randint(1, 25))) for _ in range(300)]
    expected = bundle.score(texts)[0]
    with batching(threads=3, max_queue_tokens=10**6) as batcher:
        parts = [parts[0] for parts in bundle.encode(texts)]
        answers = await asyncio.gather(*(submit(batcher, bundle, part) for part in parts))
    np.testing.assert_allclose(softmax(np.concatenate(answers)), expected, atol=1e-6)


# runs


async def _queue(batcher: Batcher, blocked: FakeBundle, windows: Sequence[tuple[Bundle, Window]]) -> None:
    """Let windows pile up behind a run, then let go and wait for all of them."""
    first = submit(batcher, blocked, window())
    await blocked.taken()
    tasks = [submit(batcher, bundle, part) for bundle, part in windows]
    await settled()
    blocked.free.set()
    await asyncio.gather(first, *tasks)


async def test_runs_grow_while_workers_are_busy(batcher: Batcher, blocked: FakeBundle) -> None:
    """What waits behind a run shares the next one, up to the policy's size."""
    bundle = FakeBundle(size=8)
    await _queue(batcher, blocked, [(bundle, window())] * 20)
    assert [len(run) for run in bundle.runs] == [8, 8, 4]


async def test_one_message_a_run(batcher: Batcher, blocked: FakeBundle) -> None:
    """An artefact that takes one message a run gets one, however many wait (dynamic int8 depends on its company)."""
    bundle = FakeBundle(size=1)
    await _queue(batcher, blocked, [(bundle, window(n)) for n in (4, 4, 9, 4)])
    assert bundle.runs == [[4], [4], [9], [4]]


async def test_tokens_of_a_run_are_bounded(batcher: Batcher, blocked: FakeBundle) -> None:
    """A run padded to its longest window holds at most the policy's tokens; a window above that runs alone."""
    bundle = FakeBundle(size=50, tokens=100)
    await _queue(batcher, blocked, [(bundle, window(n)) for n in [10, 12, 14] * 6 + [120, 120]])
    assert all(len(run) * max(run) <= 100 or len(run) == 1 for run in bundle.runs)
    assert sum(map(len, bundle.runs)) == 20
    assert max(map(len, bundle.runs)) > 5


async def test_similar_lengths_share_a_run(batcher: Batcher, blocked: FakeBundle) -> None:
    """A long and a short window never share a run, so that little of it is padding; the oldest goes first."""
    bundle = FakeBundle(size=5)
    await _queue(batcher, blocked, [(bundle, window(n)) for n in (100, 4, 100, 5, 100, 4, 6, 99)])
    assert bundle.runs == [[100, 100, 100, 99], [4, 5, 4, 6]]
    assert all(max(run) <= min(run) * LENGTH_RATIO for run in bundle.runs)


async def test_one_bundle_a_run(batcher: Batcher, blocked: FakeBundle) -> None:
    """Windows of two bundles never share a run: each is run by the one its request began with."""
    old, new = FakeBundle(), FakeBundle()
    await _queue(batcher, blocked, [(b, window()) for b in (old, new, old, new, new)])
    assert (old.runs, new.runs) == ([[4, 4]], [[4, 4, 4]])


async def test_idle_workers_share_the_work() -> None:
    """Several windows that arrive while all workers are idle are spread over them."""
    bundle = FakeBundle(blocked=True)
    with batching(threads=2) as batcher:
        while batcher._idle < 2:  # noqa: ASYNC110 - the threads have just been started
            await asyncio.sleep(0)
        task = submit(batcher, bundle, *[window()] * 6)
        while len(bundle.runs) < 2:  # noqa: ASYNC110 - both are on their way
            await asyncio.sleep(0)
        bundle.free.set()
        await task
    assert sorted(map(len, bundle.runs)) == [3, 3]


# refusals


async def test_room(blocked: FakeBundle) -> None:
    """Tokens that may wait are bounded; what leaves makes room again."""
    with batching(max_queue_tokens=100) as batcher:
        first = submit(batcher, blocked, window(4))
        await blocked.taken()
        waiting = [submit(batcher, blocked, window(50)) for _ in range(2)]
        await settled()
        assert batcher.queue_tokens == 100
        with pytest.raises(NoRoom, match="100"):
            await batcher.run(blocked, [window(1)], timeout_s=LONG_S)
        blocked.free.set()
        await asyncio.gather(first, *waiting)
        assert batcher.queue_tokens == 0
        await batcher.run(blocked, [window(50)], timeout_s=LONG_S)


async def test_request_larger_than_the_room() -> None:
    """A request that alone exceeds the room is taken when nothing else waits: it could never be sent otherwise."""
    with batching(max_queue_tokens=100) as batcher:
        assert len(await batcher.run(FakeBundle(), [window(60)] * 5, timeout_s=LONG_S)) == 5


async def _paced(batcher: Batcher, seconds: float, tokens: int) -> None:
    """Have the batcher believe that runs take this long, whatever it measured before."""
    for _ in range(1000):
        batcher._admission.pace.note(seconds, tokens)


async def test_full_queue_says_when_to_come_again(blocked: FakeBundle) -> None:
    """A refusal names the seconds until all threads have drained the queue at their measured pace, at least one."""
    with batching(threads=2, max_queue_tokens=100) as batcher:
        running = []
        for begun in (1, 2):
            running.append(submit(batcher, blocked, window(200)))
            while len(blocked.runs) < begun:  # noqa: ASYNC110 - it is on its way
                await asyncio.sleep(0)
        waiting = submit(batcher, blocked, window(90))
        await settled()
        for seconds, retry_after_s in ((0.0, 1), (0.1, 5), (0.15, 7)):
            await _paced(batcher, seconds, tokens=1)
            with pytest.raises(NoRoom) as refused:
                await batcher.run(blocked, [window(11)], timeout_s=LONG_S)
            assert refused.value.retry_after_s == retry_after_s
        blocked.free.set()
        await asyncio.gather(waiting, *running)


async def test_late_already_when_it_comes(batcher: Batcher, blocked: FakeBundle) -> None:
    """What cannot be run in its time behind what waits is refused at once; who waits longer, or asks for less, is let in."""
    running = submit(batcher, blocked, window())
    await blocked.taken()
    first = submit(batcher, blocked, window(10))
    await settled()
    await _paced(batcher, 0.1, tokens=1)
    for tokens, timeout_s, refused in ((10, 1.9, True), (10, 3.0, False), (1, 2.9, False), (20, 3.0, True)):
        if refused:
            with pytest.raises(NoRoom, match=f"{timeout_s * 1000:.0f} ms"):
                batcher.check(tokens, timeout_s=timeout_s)
        else:
            batcher.check(tokens, timeout_s=timeout_s)
    blocked.free.set()
    await asyncio.gather(running, first)


async def test_pace_that_was_once_slow(batcher: Batcher) -> None:
    """Where nothing waits everything is tried, however slow runs were: otherwise nobody would see that they are not."""
    await _paced(batcher, 3600, tokens=1)
    await batcher.run(FakeBundle(), [window()], timeout_s=1)


async def test_deadline(batcher: Batcher, blocked: FakeBundle) -> None:
    """A request is answered when its time is up though its run is not over."""
    with pytest.raises(OutOfTime, match="20 ms"):
        await batcher.run(blocked, [window()], timeout_s=0.02)


async def test_expired_in_the_queue(batcher: Batcher, blocked: FakeBundle) -> None:
    """What expired while it waited is never run."""
    first = submit(batcher, blocked, window())
    await blocked.taken()
    bundle = FakeBundle()
    with pytest.raises(OutOfTime):
        await batcher.run(bundle, [window()], timeout_s=0.01)
    blocked.free.set()
    await first
    await batcher.run(bundle, [window(9)], timeout_s=LONG_S)
    assert bundle.runs == [[9]]
    assert batcher.queue_tokens == 0


class _Time:
    """A clock that moves only when told to, in the place of the `time` module."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time it shows."""
        return self.now


async def test_expired_while_the_loop_was_busy(
    batcher: Batcher, blocked: FakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What expired is not run even where the event loop has not come to say so yet."""
    clock = _Time()
    monkeypatch.setattr("guard.batcher.time", clock)
    first = submit(batcher, blocked, window())
    await blocked.taken()
    bundle = FakeBundle()
    late = submit(batcher, bundle, window())
    await settled()
    clock.now += LONG_S
    blocked.free.set()
    with pytest.raises(OutOfTime, match="before the run"):
        await late
    await first
    assert bundle.runs == []


async def test_no_time_left(batcher: Batcher) -> None:
    """A request that comes with no time left is out of time."""
    with pytest.raises(OutOfTime):
        await batcher.run(FakeBundle(blocked=False), [window()], timeout_s=-1)


async def test_cancelled_before_its_run(batcher: Batcher, blocked: FakeBundle) -> None:
    """What a client gave up while it waited is never run, and its room in the queue is free at once."""
    first = submit(batcher, blocked, window())
    await blocked.taken()
    bundle = FakeBundle()
    given_up, kept = submit(batcher, bundle, window(50), window(51)), submit(batcher, bundle, window(4))
    await settled()
    assert batcher.queue_tokens == 105
    given_up.cancel()
    await settled()
    assert batcher.queue_tokens == 4
    blocked.free.set()
    await asyncio.gather(first, kept)
    assert bundle.runs == [[4]]
    assert batcher.queue_tokens == 0
    assert given_up.cancelled()


async def test_cancelled_during_its_run(batcher: Batcher, blocked: FakeBundle) -> None:
    """A client that gives up during its run harms nobody who shares it."""
    given_up, kept = submit(batcher, blocked, window(4)), submit(batcher, blocked, window(4, first=7))
    await blocked.taken()
    given_up.cancel()
    await settled()
    blocked.free.set()
    assert (await kept)[0, 0] == 7


# failures


@pytest.mark.parametrize(
    "error", [RuntimeError("text"), MemoryError(), SystemExit(1), KeyboardInterrupt(), StopIteration()]
)
async def test_failed_run(batcher: Batcher, blocked: FakeBundle, error: BaseException) -> None:
    """Everyone in a run that fails is told so without the library's words; the worker lives and runs the next."""
    blocked.error = error
    first = submit(batcher, blocked, window())
    await blocked.taken()
    together = [submit(batcher, blocked, window(), window()) for _ in range(3)]
    await settled()
    blocked.free.set()
    failures = await asyncio.gather(first, *together, return_exceptions=True)
    assert [type(f) for f in failures] == [NoModel] * 4
    assert {str(f) for f in failures} == {f"The run failed ({type(error).__name__})."}
    assert batcher.problem is None
    assert (await batcher.run(FakeBundle(), [window(first=3)], timeout_s=LONG_S))[0, 0] == 3


async def test_failed_part(batcher: Batcher) -> None:
    """A request of many windows fails as soon as one of its runs does, and the rest of it is not run."""
    bundle = FakeBundle(size=1)
    bundle.error = RuntimeError()
    with pytest.raises(NoModel):
        await batcher.run(bundle, [window()] * 50, timeout_s=LONG_S)
    await batcher.run(FakeBundle(), [window()], timeout_s=LONG_S)
    assert len(bundle.runs) == 1
    assert batcher.queue_tokens == 0


async def test_too_few_rows(batcher: Batcher) -> None:
    """A run that gives fewer rows than it was asked for is a failure, not an answer for some."""

    class Short(FakeBundle):
        def run(self, windows: Sequence[Window]) -> Outputs:
            outputs = super().run(windows)
            return Outputs(logits=outputs.logits[:-1], embeddings=outputs.embeddings)

    with pytest.raises(NoModel):
        await batcher.run(Short(), [window(), window()], timeout_s=LONG_S)


async def test_observer_that_fails() -> None:
    """A metric that cannot be written costs nobody an answer."""

    def observe(**_: Any) -> None:
        raise ValueError

    with batching(observe=observe) as batcher:
        for _ in range(3):
            await batcher.run(FakeBundle(), [window()], timeout_s=LONG_S)
        assert batcher.problem is None


async def test_observer_is_told_of_each_run() -> None:
    """Each run is reported with its size and times."""
    told: list[dict[str, float]] = []
    with batching(observe=lambda **run: told.append(run)) as batcher:
        await batcher.run(FakeBundle(size=2), [window()] * 3, timeout_s=LONG_S)
    assert sum(run["windows"] for run in told) == 3
    assert all(0 <= run["waited_s"] < LONG_S and 0 <= run["ran_s"] < LONG_S for run in told)


async def test_closed_while_waiting(batcher: Batcher, blocked: FakeBundle) -> None:
    """Closing answers what waits, lets what runs end, and refuses what comes."""
    running = submit(batcher, blocked, window(first=5))
    await blocked.taken()
    waiting = [submit(batcher, blocked, window(), window()) for _ in range(3)]
    await settled()
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    assert [type(f) for f in await asyncio.gather(*waiting, return_exceptions=True)] == [NoModel] * 3
    with pytest.raises(NoModel, match="shutting down"):
        await batcher.run(blocked, [window()], timeout_s=LONG_S)
    assert batcher.problem == "the guard is shutting down"
    blocked.free.set()
    await closing
    assert (await running)[0, 0] == 5
    assert not any(worker.is_alive() for worker in batcher._workers)


def _die(*_: Any, **__: Any) -> Any:
    raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_dead_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the threads themselves have died, that is the batcher's problem, and requests are refused at once."""
    monkeypatch.setattr(Batcher, "_take", _die)
    with batching(threads=2) as batcher:
        for worker in batcher._workers:
            worker.join(LONG_S)
        assert batcher.problem == "2 of 2 worker threads have died"
        with pytest.raises(NoModel, match="restart"):
            await batcher.run(FakeBundle(), [window()], timeout_s=LONG_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_death_with_work_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dying thread had in hand is out of time at its deadline, no later."""
    monkeypatch.setattr(Batcher, "_next_run", _die)
    with batching() as batcher:
        with pytest.raises(OutOfTime):
            await batcher.run(FakeBundle(), [window()], timeout_s=0.05)
        assert batcher.problem == "1 of 1 worker threads have died"


async def test_stuck_workers(batcher: Batcher, blocked: FakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are stuck in a run while others wait beyond their time are a problem, until they come back."""
    monkeypatch.setattr("guard.batcher.STALLED_S", 0.0)
    first = submit(batcher, blocked, window())
    await blocked.taken()
    with pytest.raises(OutOfTime):
        await batcher.run(blocked, [window()], timeout_s=0.01)
    assert batcher.problem == "the worker threads are stuck in their runs"
    blocked.free.set()
    await first
    await batcher.run(FakeBundle(), [window()], timeout_s=LONG_S)
    assert batcher.problem is None


def test_loop_that_has_gone() -> None:
    """A run that ends after its event loop was closed leaves the worker alive."""
    bundle = FakeBundle(blocked=True)
    with batching() as batcher:

        async def give_up() -> None:
            task = submit(batcher, bundle, window())
            await bundle.taken()
            task.cancel()

        asyncio.run(give_up())
        bundle.free.set()

        async def again() -> Any:
            return await batcher.run(FakeBundle(), [window(first=2)], timeout_s=LONG_S)

        assert asyncio.run(again())[0, 0] == 2
        assert batcher.problem is None
