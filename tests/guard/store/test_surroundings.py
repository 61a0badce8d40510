"""What stands around a pick is opened when it is asked for, as far as it is still there."""

from typing import Any

from guard.store import Store
from guard.store.cycles import Picked
from guard.store.states import CycleState
from guard.store.surroundings import Around, Neighbour
from guard.taxonomy import Category
from tests.guard.store.scenes import add, advance, arrival, label_all, open_batch, open_cycle, pooled


async def _scene(store: Store, fence: int) -> tuple[int, dict[str, Any]]:
    """Label "old one" and "old two", pick "pick" and "other" from a pool of six; return the cycle and a reason."""
    first = await open_batch(store, fence, "old one", "old two", user="ada")
    await label_all(store, Category.LEGAL_ADVICE, None)
    await advance(store, first, fence, CycleState.HELD)
    await add(store, *(arrival(f"text {n}", "ben" if n == 2 else "cleo") for n in range(6)))
    ids = [message.id for message in await pooled(store)]
    cycle = await open_cycle(store, fence)
    reason = {"near": ids[1:3], "neighbours": [[1, 0.9], [2, 0.8], [4711, 0.7]]}
    picks = [Picked(ids[0], reason, 0.5), Picked(ids[5], {"near": [ids[1], *ids[3:5]]}, 0.5)]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    return cycle.id, reason


async def test_around(store: Store, fence: int) -> None:
    """Near messages, what is near other picks, and those labelled messages that have a label, each with its text."""
    cycle_id, reason = await _scene(store, fence)
    assert await store.surroundings.of(cycle_id, reason) == Around(
        near=["text 1", "text 2"],
        elsewhere=["text 3"],  # two of each other pick, and of those what is not near this one
        neighbours=[Neighbour("old one", Category.LEGAL_ADVICE, 0.9)],
    )


async def test_erased(store: Store, fence: int) -> None:
    """What a user sent is not shown around others' messages either, once the user is erased."""
    cycle_id, reason = await _scene(store, fence)
    await store.pool.erase_user("ada")
    await store.pool.erase_user("ben")
    around = await store.surroundings.of(cycle_id, reason)
    assert (around.near, around.neighbours) == (["text 1"], [])


async def test_nothing_known(store: Store, fence: int) -> None:
    """A reason that says nothing of surroundings, as older ones and those of audits, has none."""
    cycle_id, _ = await _scene(store, fence)
    assert await store.surroundings.of(cycle_id, {"audit": True}) == Around([], [], [])
