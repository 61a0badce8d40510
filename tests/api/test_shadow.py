"""The shadow beside live traffic: callers see nothing of it, operators see what it thinks."""

import asyncio
from collections.abc import Callable

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.taxonomy import Category
from tests.api.conftest import Serve, update
from tests.toys import VOTES, publish_toy


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a thread is at work
        await asyncio.sleep(0.01)


async def test_shadowed_traffic(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """The champion answers; what both think is in the metrics, and a disputed text in the pool."""
    publish_toy(exports)
    other = publish_toy(exports, votes={**VOTES, "sue": Category.NOT_HARMFUL}, promote=False)
    exports.set_shadow(other)
    settings = update(guard_settings, shadow_share=1.0, audit_rate=0.0, watch_interval_ms=10, intake_flush_ms=1)
    async with asyncio.timeout(30), serve(settings) as running:
        await _until(lambda: running.metric("guard_shadow_info", model_version=other) == 1)
        answer = (await running.classify(text="sue")).json()
        assert (answer["model_version"], answer["results"][0]["category"]) == ("0001", "legal-advice")
        disputed = {"model_version": other, "champion": "legal-advice", "shadow": "not-harmful"}
        await _until(lambda: running.metric("guard_shadow_verdicts_total", **disputed) == 1)
        await _until(lambda: running.metric("guard_intake_total", fate="new") == 1)
        await running.classify(text="sue them", store=False)
        await _until(lambda: running.metric("guard_shadow_verdicts_total", **disputed) == 2)
        assert await running.intake.flush()
        assert await running.store.pool.size() == 1
