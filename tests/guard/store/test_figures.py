"""The estimates in the store: the latest alone, written by the one learner."""

from datetime import timedelta

import pytest

from guard.errors import Conflict
from guard.store import Store
from guard.store.figures import Estimated
from guard.taxonomy import Category
from tests.conftest import START
from tests.guard.store.scenes import label_all, learner, open_batch


def figure(
    value: float | None, category: Category | None = Category.SELF_HARM, measure: str = "miss_rate"
) -> Estimated:
    """Return a figure of version 0001, or a drift where there is no category."""
    version = None if category is None else "0001"
    return Estimated(measure, version, category, value, value, value, 0.5, 7.5, START - timedelta(days=28), START)


async def test_the_latest_stand_alone(store: Store) -> None:
    """What is written takes the place of all that was there, and comes out as it went in."""
    fence = await learner(store)
    assert await store.figures.latest() == []
    await store.figures.replace([figure(0.1)], fence=fence)
    now = [figure(None), figure(0.2, None, "class_mix")]
    await store.figures.replace(now, fence=fence)
    assert await store.figures.latest() == now
    await store.figures.replace([], fence=fence)
    assert await store.figures.latest() == []


async def test_a_learner_without_the_lease_is_refused(store: Store) -> None:
    """Figures of a learner that lost its lease change nothing."""
    fence = await learner(store)
    await store.figures.replace([figure(0.1)], fence=fence)
    with pytest.raises(Conflict):
        await store.figures.replace([], fence=fence - 1)
    assert len(await store.figures.latest()) == 1


async def test_reviewed_errors(store: Store) -> None:
    """Standing labels that differ from the verdict are counted by both; right, unclear and undone ones are not."""
    fence = await learner(store)
    await open_batch(store, fence, "a", "b", "c", "d", "e")
    legal = Category.LEGAL_ADVICE
    await label_all(store, legal, legal, Category.SELF_HARM, None, Category.NOT_HARMFUL)
    await store.review.undo("ann")
    assert await store.figures.reviewed_errors() == {(legal, Category.SELF_HARM): 2}
