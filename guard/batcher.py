"""Windows into runs: worker threads over one bundle at a time, a bounded queue, and no future left unresolved.

No timer: a free worker takes what waits, so runs grow only while all workers are busy. Windows of one run have similar
lengths and belong to one bundle.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from guard import priority
from guard.admission import Admission
from guard.bundle import Bundle, Outputs, Window
from guard.errors import NoModel, OutOfTime
from guard.logs import frames
from guard.taxonomy import CATEGORIES

LENGTH_RATIO: Final = 1.5  # a run pads to its longest window: at most half of a window's tokens are padding
STALLED_S: Final = 1.0  # a free worker drops what has expired within milliseconds: what lies longer has none

_log = structlog.get_logger()


class Observer(Protocol):
    """Is told of every run, from the worker's thread."""

    def __call__(self, *, waited_s: float, ran_s: float, windows: int) -> None:
        """Take note of one run: the longest wait in it, its time, and its size."""


class Tracer(Protocol):
    """Follows requests into the runs that their windows have a part in; see `guard.traces`."""

    def mark(self) -> Any:
        """Return which request is being served."""

    def ran(self, parts: Iterable[tuple[Any, float, int]], *, began: float, model_version: str) -> None:
        """Take note of a run that has just ended: of each window its request's mark, when it was queued, its tokens."""


class _Job:
    """The windows of one request: shared by its items, answered once."""

    __slots__ = (
        "bundle",
        "expires",
        "future",
        "logits",
        "loop",
        "mark",
        "queued",
        "remaining",
        "settled",
        "waiting_tokens",
    )

    def __init__(self, bundle: Bundle, windows: int, tokens: int, expires: float) -> None:
        self.bundle = bundle
        self.mark: Any = None
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[npt.NDArray[np.float32]] = self.loop.create_future()
        self.logits = np.empty((windows, len(CATEGORIES)), dtype=np.float32)
        self.remaining = windows
        self.waiting_tokens = tokens
        self.expires = expires
        self.queued = time.monotonic()
        self.settled = False


def _settle(jobs: Iterable[_Job], error: BaseException | None = None) -> None:
    """Resolve the futures of jobs, all of one event loop, from any thread; those settled already stay as they are."""
    unsettled = [job for job in jobs if not job.settled]
    for job in unsettled:
        job.settled = True
    if unsettled:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            unsettled[0].loop.call_soon_threadsafe(_resolve, unsettled, error)  # wakes the loop once, not for each


def _resolve(jobs: Sequence[_Job], error: BaseException | None) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(job.logits)
        else:
            job.future.set_exception(error)


class _Item:
    """One window of a job."""

    __slots__ = ("index", "job", "window")

    def __init__(self, job: _Job, index: int, window: Window) -> None:
        self.job, self.index, self.window = job, index, window


class Batcher:
    """Runs windows on worker threads.

    Args:
        threads: Worker threads; one run uses one of them.
        max_queue_tokens: Tokens that may wait; a request that would exceed it is refused at once.
        observe: Told of every run.
        tracer: Told whose windows were in it.
    """

    def __init__(
        self,
        *,
        threads: int,
        max_queue_tokens: int,
        observe: Observer | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._admission = Admission(threads=threads, max_tokens=max_queue_tokens)
        self._observe = observe
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._counting = threading.Lock()
        self._idle = 0
        self._closed = False
        self.queue_tokens = 0
        self._workers = [threading.Thread(target=self._work, name=f"batcher-{n}", daemon=True) for n in range(threads)]
        for worker in self._workers:
            worker.start()

    @property
    def problem(self) -> str | None:
        """Why work is not done as it should be; None when it is."""
        if self._closed:
            return "the guard is shutting down"
        dead = sum(not worker.is_alive() for worker in self._workers)
        if dead:
            return f"{dead} of {len(self._workers)} worker threads have died"
        with self._changed:
            if self._waiting and self._waiting[0].job.expires + STALLED_S < time.monotonic():
                return "the worker threads are stuck in their runs"
        return None

    @property
    def busy(self) -> bool:
        """Whether work waits, or every worker is in a run."""
        return bool(self._waiting) or self._idle == 0

    async def run(self, bundle: Bundle, windows: Sequence[Window], *, timeout_s: float) -> npt.NDArray[np.float32]:
        """Run windows on a bundle and return their `(n, 6)` logits.

        Raises:
            NoRoom: Too many tokens wait already, or more than can be run within `timeout_s`.
            OutOfTime: The windows were not run within `timeout_s`.
            NoModel: The batcher is closed, its workers have died, or the run failed.
        """
        tokens = sum(len(w.ids) for w in windows)
        job = _Job(bundle, len(windows), tokens, time.monotonic() + timeout_s)
        if self._tracer is not None:
            job.mark = self._tracer.mark()
        with self._changed:
            if self._closed:
                raise NoModel("The guard is shutting down.", retry_after_s=5)
            if not any(worker.is_alive() for worker in self._workers):
                raise NoModel("No worker thread is alive: restart the guard.", retry_after_s=5)
            self.check(tokens, timeout_s=timeout_s)
            self.queue_tokens += tokens
            self._waiting.extend(_Item(job, index, window) for index, window in enumerate(windows))
            self._changed.notify(len(windows))
        timer = job.loop.call_later(timeout_s, self._expire, job, timeout_s)
        try:
            return await job.future
        finally:
            timer.cancel()
            job.settled = True  # whoever waited is gone: what is left of the job is dropped when it is taken
            if job.waiting_tokens:
                with self._changed:  # its room is free from now on
                    self.queue_tokens -= job.waiting_tokens
                    job.waiting_tokens = 0

    def check(self, tokens: int, *, timeout_s: float) -> None:
        """Refuse what the queue has no room for, and what it could not run in time; where nothing waits, nothing is.

        Raises:
            NoRoom: With the seconds until the queue has drained at the rate measured last.
        """
        self._admission.check(self.queue_tokens, tokens, timeout_s=timeout_s)

    def close(self) -> None:
        """Refuse new work, fail what waits, and let the workers end their runs."""
        with self._changed:
            self._closed = True
            left = {item.job for item in self._waiting}
            self._waiting.clear()
            self.queue_tokens = 0
            for job in left:
                job.waiting_tokens = 0
            self._changed.notify_all()
        _settle(left, NoModel("The guard is shutting down.", retry_after_s=5))
        for worker in self._workers:
            worker.join()

    def _expire(self, job: _Job, timeout_s: float) -> None:
        if not job.future.done():
            job.future.set_exception(
                OutOfTime(
                    f"No verdict within {timeout_s * 1000:.0f} ms; the queue holds {self.queue_tokens} tokens.",
                    retry_after_s=self._admission.drained_s(self.queue_tokens),
                )
            )

    def _work(self) -> None:
        priority.give_way(priority.RUNS)
        free = time.monotonic()
        while (items := self._take()) is not None:
            if items:
                self._run(items, free)
                free = time.monotonic()
            del items  # or they would keep their bundle alive, 100 MB of it, until the next request

    def _run(self, items: Sequence[_Item], free: float) -> None:
        bundle, began = items[0].job.bundle, time.monotonic()
        try:
            outputs = bundle.run([item.window for item in items])
            since = max(free, min(item.job.queued for item in items))  # what lies between two runs slows them down too
            self._admission.pace.note(time.monotonic() - since, sum(len(item.window.ids) for item in items))
            self._deliver(items, outputs)
            if self._observe is not None:
                waited = max(began - item.job.queued for item in items)
                self._observe(waited_s=waited, ran_s=time.monotonic() - began, windows=len(items))
            if self._tracer is not None:
                parts = [(item.job.mark, item.job.queued, len(item.window.ids)) for item in items]
                self._tracer.ran(parts, began=began, model_version=bundle.version)
        except BaseException as error:  # noqa: BLE001 - whatever a run raises, its requests get an answer and the worker lives
            _log.error("run_failed", model_version=bundle.version, error=type(error).__name__, frames=frames(error))
            _settle({item.job for item in items}, NoModel(f"The run failed ({type(error).__name__})."))

    def _take(self) -> list[_Item] | None:
        """Wait for work and take one run of it; None when closed."""
        with self._changed:
            self._idle += 1
            try:
                while not self._waiting and not self._closed:
                    self._changed.wait()
            finally:
                self._idle -= 1
            if not self._waiting:
                return None
            return self._next_run(share=math.ceil(len(self._waiting) / (self._idle + 1)))

    def _next_run(self, share: int) -> list[_Item]:
        """Take the oldest live item and those behind it that fit: same bundle, similar length, within its policy."""
        now = time.monotonic()
        run: list[_Item] = []
        passed: list[_Item] = []
        longest = shortest = 0
        while self._waiting and len(run) < share:
            item = self._waiting.popleft()
            length = len(item.window.ids)
            if item.job.settled or item.job.expires <= now:
                _settle([item.job], OutOfTime("The deadline passed before the run."))
                continue
            if run:
                policy = run[0].job.bundle.artefact.batch
                long, short = max(longest, length), min(shortest, length)
                if (
                    item.job.bundle is not run[0].job.bundle
                    or long > short * LENGTH_RATIO
                    or long * (len(run) + 1) > policy.max_batch_tokens
                ):
                    passed.append(item)
                    if len(passed) >= policy.max_batch_size:
                        break
                    continue
            run.append(item)
            longest, shortest = (max(longest, length), min(shortest, length)) if len(run) > 1 else (length, length)
            share = min(share, run[0].job.bundle.artefact.batch.max_batch_size)
            self.queue_tokens -= length
            item.job.waiting_tokens -= length
        self._waiting.extendleft(reversed(passed))
        return run

    def _deliver(self, items: Sequence[_Item], outputs: Outputs) -> None:
        for item, logits in zip(items, outputs.logits, strict=True):
            item.job.logits[item.index] = logits
        done = []
        with self._counting:  # two workers may finish windows of one job at once
            for item in items:
                item.job.remaining -= 1
                if not item.job.remaining:
                    done.append(item.job)
        _settle(done)
