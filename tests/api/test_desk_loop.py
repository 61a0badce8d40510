"""The loop page over HTTP: its numbers are those of the store, of the manifests and of /metrics, and its deeds are kept."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.states import CycleState, Deed, Role
from guard.taxonomy import CATEGORIES
from tests.api.conftest import Running, Serve
from tests.api.test_roles import csrf, log_in
from tests.guard.review.scenes import CHALLENGER, CHAMPION, CHANGES, MAP, REASON, SECRET, judged_and_open
from tests.toys import publish_toy

BROWSER = {"accept": "text/html"}
PROGRAM = {"accept": "application/json"}
LOOP = "/review/loop"


@pytest.fixture
async def running(serve: Serve, store_settings: GuardSettings, exports: Exports) -> AsyncIterator[Running]:
    """An application on either database with two champions one after the other, a third version and two cycles."""
    for promote in (True, True, False):
        publish_toy(exports, promote=promote)
    async with serve(store_settings) as started:
        await judged_and_open(started.store)
        yield started


async def _enter(running: Running, name: str, role: Role) -> httpx.AsyncClient:
    await running.store.reviewers.add(name, role, "hash")
    token = await log_in(running, name)
    headers = {"cookie": f"lifeguard={token}", "x-csrf-token": csrf(token)}
    return httpx.AsyncClient(transport=running.client._transport, base_url=running.client.base_url, headers=headers)


@pytest.fixture
async def admin(running: Running) -> httpx.AsyncClient:
    """An admin at the desk."""
    return await _enter(running, "ada", Role.ADMIN)


async def test_empty(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """Before anything has happened the page says so."""
    publish_toy(exports)
    async with serve(guard_settings) as running:
        page = await running.client.get(LOOP, headers=BROWSER)
        twin = (await running.client.get(LOOP, headers=PROGRAM)).json()
    assert page.status_code == 200
    for words in ("No cycle has opened yet", "The pool is empty", "No challenger was judged yet", "has no map"):
        assert words in page.text
    assert (twin["cycles"], twin["map"], twin["contest"], twin["curve"]) == ([], None, None, [])
    assert twin["expectation"]["gain"] is None


async def test_same_as_metrics(running: Running, admin: httpx.AsyncClient) -> None:
    """What /metrics has too is the same number there, in the twin and on the page."""
    twin = (await admin.get(LOOP, headers=PROGRAM)).json()
    page = (await admin.get(LOOP, headers=BROWSER)).text
    await running.client.get("/metrics")
    pool = twin["pool"]
    assert pool["size"] == running.metric("guard_messages", state="pooled") == 2
    assert pool["age_s"] == pytest.approx(running.metric("guard_pool_age_seconds"), abs=5)
    for state, number in pool["states"].items():
        assert number == running.metric("guard_messages", state=state)
    assert sum(pool["states"].values()) == 6
    for category, number in pool["labels"].items():
        assert number == running.metric("guard_labels", category=category)
    assert (pool["labels"]["self-harm"], pool["labels"]["unclear"]) == (1, 1)
    assert pool["labels_spent"] == running.metric("guard_labels_spent") == 2
    contest = twin["contest"]
    for measure, value in contest["measures"].items():
        assert value == running.metric("guard_gate", measure=measure, model_version=contest["challenger"])
        assert re.search(rf'<th scope="row">{re.escape(measure)}</th><td class="number">{value:.6g}</td>', page)
    assert len(contest["measures"]) == 35
    for state in ("labelled", "unclear", "waiting", "held"):
        assert twin["batch"][state] == running.metric("guard_batch", state=state)
    assert sum(cycle["state"] == "held" for cycle in twin["cycles"]) == running.metric("guard_cycles", state="held")


async def test_same_as_store(running: Running, admin: httpx.AsyncClient) -> None:
    """Sources, cycles, stages, reasons and the map are as the store has them."""
    twin = (await admin.get(LOOP, headers=PROGRAM)).json()
    page = (await admin.get(LOOP, headers=BROWSER)).text
    assert sorted((s["source"], s["reason"], s["messages"]) for s in twin["pool"]["sources"]) == [
        ("classify", "audit", 1),
        ("moderations", "uncertain", 1),
    ]
    assert '<th scope="row"><bdi>moderations</bdi></th><td>uncertain</td><td class="number">1</td>' in page
    stored = await running.store.cycles.recent()
    for cycle, row in zip(twin["cycles"], stored, strict=True):
        assert (cycle["id"], cycle["state"], cycle["challenger"]) == (row.id, row.state, row.challenger)
        assert [(s["stage"], s["ended_at"] is None) for s in cycle["stages"]] == [
            (entry["stage"], entry["ended_at"] is None) for entry in row.timeline
        ]
        assert cycle["reasons"] == row.reasons
    assert [len(cycle["stages"]) for cycle in twin["cycles"]] == [2, 5]
    assert {name: twin["map"][name] for name in MAP} == MAP
    assert twin["map"]["cycle_id"] == 2
    assert page.count('class="cluster"') == 2
    assert page.count('class="pick"') == page.count('<rect class="audit"') == 1
    assert page.count(REASON) == 2


async def test_contest(admin: httpx.AsyncClient) -> None:
    """Confusions are those stored, rates and counts follow from them, and what changes verdict is what is off the diagonal."""
    twin = (await admin.get(LOOP, headers=PROGRAM)).json()["contest"]
    page = (await admin.get(LOOP, headers=BROWSER)).text
    assert twin["tables"] == {"champion": CHAMPION, "challenger": CHALLENGER, "changes": CHANGES}
    assert (twin["state"], twin["changed"]) == ("held", 3)
    assert "<strong>3</strong> change verdict" in page
    for side, table in (("before", CHAMPION), ("after", CHALLENGER)):
        for place, category in enumerate(CATEGORIES):
            found = twin[side][place]
            assert found["category"] == category
            right, decided = table[place][place], sum(row[place] for row in table)
            for rate, number in ((found["recall"], 9), (found["precision"], decided)):
                assert (rate["share"], rate["messages"]) == (right / number, number)
                assert 0 <= rate["low"] <= rate["share"] <= rate["high"] <= 1
            share, low, high = (f"{100 * found['recall'][name]:.1f}" for name in ("share", "low", "high"))
            assert f'{share} % <span class="quiet">({low} to {high}, 9)</span>' in page
    cells = [int(n) for n in re.findall(r'<td class="number shade\d">(\d+)</td>', page)]
    assert cells == [n for table in (CHAMPION, CHALLENGER, CHANGES) for row in table for n in row]


async def test_same_as_manifests(running: Running, admin: httpx.AsyncClient, exports: Exports) -> None:
    """Versions and moves are those of the exports; an unreadable manifest does not hide the rest."""
    (exports.path("0001") / "manifest.json").write_text("{")
    twin = (await admin.get(LOOP, headers=PROGRAM)).json()
    versions = [(v["version"], v["role"], v["macro_f1"]) for v in twin["versions"]]
    assert versions == [("0003", "", 0.5), ("0002", "champion", 0.5), ("0001", "", None)]
    assert twin["champion"] == exports.champion() == "0002"
    assert [(m["previous"], m["version"]) for m in twin["moves"]] == [("0001", "0002"), (None, "0001")]
    assert twin["curve"] == [
        {"labels": 0, "macro_f1": 0.954},
        {"labels": 2, "macro_f1": 0.963},
    ]
    assert "cannot be read" in (await admin.get(LOOP, headers=BROWSER)).text


async def test_no_text(running: Running, admin: httpx.AsyncClient) -> None:
    """No message's text is on the page or in its twin."""
    for headers in (BROWSER, PROGRAM, {"hx-request": "true"}):
        answer = await admin.get(LOOP, headers=headers)
        assert answer.status_code == 200
        assert "canary" not in answer.text
    assert any(SECRET in text.text for text in [t async for b in running.store.pool.texts() for t in b])


async def test_promote_and_roll_back(running: Running, admin: httpx.AsyncClient, exports: Exports) -> None:
    """An admin moves the champion and back; each move is in the ledger and in the history with name and reason."""
    form = {"version": "0003", "champion": "0002", "reason": " fewer  missed "}
    answer = await admin.post(f"{LOOP}/promote", data=form, headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, LOOP)
    assert exports.champion() == "0003"
    back = {"champion": "0003", "reason": "it flags errands"}
    answer = await admin.post(f"{LOOP}/rollback", data=back, headers=PROGRAM)
    assert (answer.status_code, answer.json()["champion"]) == (200, "0002")
    assert exports.champion() == "0002"
    moves = [(m.version, m.by, m.reason, m.rollback) for m in exports.promotions()[-2:]]
    assert moves == [("0003", "ada", "fewer missed", False), ("0002", "ada", "it flags errands", True)]
    lines = [(e.deed, e.actor, e.subject, e.detail) for e in reversed(await running.store.ledger.recent(2))]
    assert lines == [
        (Deed.PROMOTED, "ada", "version 0003", {"reason": "fewer missed"}),
        (Deed.ROLLED_BACK, "ada", "version 0003", {"reason": "it flags errands"}),
    ]


async def test_hold(running: Running, admin: httpx.AsyncClient, exports: Exports) -> None:
    """A hold stands with name and reason until it is ended; both are in the ledger."""
    await admin.post(f"{LOOP}/hold", data={"reason": "<b>audit</b> week"}, headers=BROWSER)
    hold = exports.hold()
    assert hold is not None
    assert (hold.by, hold.reason) == ("ada", "<b>audit</b> week")
    page = (await admin.get(LOOP, headers=BROWSER)).text
    assert "Promotions are on hold" in page
    assert "&lt;b&gt;audit&lt;/b&gt; week" in page
    assert f'action="{LOOP}/release"' in page
    await admin.post(f"{LOOP}/release", data={"reason": "over"}, headers=BROWSER)
    assert exports.hold() is None
    assert [e.deed for e in await running.store.ledger.recent(2)] == [Deed.HOLD_ENDED, Deed.HOLD_SET]
    answer = await admin.post(f"{LOOP}/release", data={"reason": "over"}, headers=PROGRAM)
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("deed", "form", "status"),
    [
        ("promote", {"version": "0003", "champion": "0001", "reason": "why"}, 409),
        ("promote", {"version": "0009", "champion": "0002", "reason": "why"}, 404),
        ("promote", {"version": "../0001", "champion": "0002", "reason": "why"}, 400),
        ("promote", {"version": "0003", "reason": "why"}, 400),
        ("promote", {"version": "0003", "champion": "0002", "reason": "  "}, 400),
        ("promote", {"version": "0003", "champion": "0002", "reason": "x" * 501}, 400),
        ("rollback", {"champion": "0001", "reason": "why"}, 409),
        ("rollback", {"champion": "0002"}, 400),
        ("hold", {}, 400),
        ("release", {"reason": "why"}, 404),
    ],
)
async def test_refused(
    running: Running, admin: httpx.AsyncClient, exports: Exports, deed: str, form: dict[str, str], status: int
) -> None:
    """A deed without a reason, for another champion or about what is not there changes nothing, nor does the ledger."""
    before = await running.store.ledger.recent(1)
    for headers in (BROWSER, PROGRAM):
        assert (await admin.post(f"{LOOP}/{deed}", data=form, headers=headers)).status_code == status
    assert (exports.champion(), exports.hold(), len(exports.promotions())) == ("0002", None, 2)
    assert [e.id for e in await running.store.ledger.recent(1)] == [e.id for e in before]


async def test_broken_version_stays_out(running: Running, admin: httpx.AsyncClient, exports: Exports) -> None:
    """A version whose files were altered is not promoted, and no line says that it was."""
    (exports.path("0003") / "model.onnx").write_bytes(b"altered")
    form = {"version": "0003", "champion": "0002", "reason": "why"}
    assert (await admin.post(f"{LOOP}/promote", data=form, headers=PROGRAM)).status_code == 500
    assert exports.champion() == "0002"
    assert Deed.PROMOTED not in {e.deed for e in await running.store.ledger.recent(5)}


async def test_exports_that_cannot_be_written(running: Running, admin: httpx.AsyncClient, exports: Exports) -> None:
    """Where the guard may not write the exports it says so and where to go, and no line says that anything moved."""
    (exports.folder / ".lock").unlink()
    (exports.folder / ".lock").mkdir()
    form = {"version": "0003", "champion": "0002", "reason": "why"}
    answer = await admin.post(f"{LOOP}/promote", data=form, headers=PROGRAM)
    assert answer.status_code == 409
    assert "use `guard models` where the learner runs (IsADirectoryError)" in answer.json()["said"]
    assert exports.champion() == "0002"
    assert Deed.PROMOTED not in {e.deed for e in await running.store.ledger.recent(5)}


async def test_reviewer_looks_only(running: Running) -> None:
    """A reviewer sees the page without its deeds, and a deed needs an admin and the session's own token."""
    ann = await _enter(running, "ann", Role.REVIEWER)
    page = await ann.get(LOOP, headers=BROWSER)
    assert page.status_code == 200
    assert "/review/loop/" not in page.text
    ada = await _enter(running, "ada", Role.ADMIN)
    assert (await ada.get(LOOP, headers=BROWSER)).text.count('action="/review/loop/') == 3
    for client, token in ((ann, {}), (ada, {"x-csrf-token": "x"})):
        answer = await client.post(f"{LOOP}/hold", data={"reason": "why"}, headers=PROGRAM | token)
        assert answer.status_code == 403


async def test_cycle_of_an_older_learner(running: Running, admin: httpx.AsyncClient) -> None:
    """A cycle judged before tables and maps were recorded is shown with what there is of it."""
    fence, (cycle, _) = 1, await running.store.cycles.recent()
    figures = {"gate": {"macro_f1": 0.9}}
    await running.store.cycles.advance(
        cycle.id, fence=fence, source=CycleState.LABELLING, target=CycleState.HELD, figures=figures, challenger="0003"
    )
    page = await admin.get(LOOP, headers=BROWSER)
    assert page.status_code == 200
    assert "This cycle recorded no confusion" in page.text
    twin = (await admin.get(LOOP, headers=PROGRAM)).json()["contest"]
    assert (twin["before"], twin["changed"], twin["after"][0]["recall"]) == ([], None, None)
