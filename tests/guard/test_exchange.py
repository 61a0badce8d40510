"""Messages and labels in files: what goes out of one store comes into another as it was, once, and nothing runs."""

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import func, select

from guard.errors import NoModel
from guard.exchange import bring, export
from guard.exports import Exports
from guard.records import Format
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.keyring import Keyring
from guard.store.rows import Cycle, Label, Message, Sighting
from guard.store.states import CycleState
from guard.store.transfer import Tally
from guard.taxonomy import Category
from tests.conftest import Clock
from tests.guard.store.scenes import add, advance, arrival, label_all, learner, open_batch, pooled
from tests.toys import publish_toy

HOSTILE: Final = (
    "=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "'=1+1", "''+x", "'quoted", 'a "b", c', "<b>x</b>", "[1, 2]", "null", "é 🙂",
)  # fmt: skip


async def _filled(store: Store) -> None:
    """Put hostile texts into a store, four of them labelled, one undone and labelled again, one as can't tell."""
    fence = await learner(store)
    cycle = await open_batch(store, fence, *HOSTILE, user="ada")
    await label_all(store, Category.SELF_HARM, None, Category.LEGAL_ADVICE)
    await store.review.undo("ann")
    await label_all(store, Category.MEDICAL_ADVICE)
    await label_all(store, Category.NOT_HARMFUL, reviewer="ben")
    await advance(store, cycle, fence, CycleState.GENERATING)


async def _labels(store: Store) -> list[tuple[Any, ...]]:
    found = [record async for batch in store.transfer.records(labelled=True) for record in batch]
    return sorted((r.text, label.category or "", label.reviewer, label.decided_at) for r in found for label in r.labels)


async def _out(store: Store, kind: Format, *, labelled: bool = False) -> str:
    stream = io.StringIO(newline="")
    await export(store, kind, stream, labelled=labelled)
    return stream.getvalue()


async def _in(
    store: Store, settings: GuardSettings, kind: Format, content: str, *, keep: bool = True
) -> tuple[Tally, list[tuple[int, str]]]:
    complaints: list[tuple[int, str]] = []
    stream = io.StringIO(content, newline="")
    tally = await bring(store, settings, kind, stream, complain=lambda n, why: complaints.append((n, why)), keep=keep)
    return tally, complaints


@pytest.fixture
async def other(tmp_path: Path, clock: Clock, keyring: Keyring) -> Any:
    """A second, empty store with the same keyring."""
    settings = GuardSettings(data_dir=tmp_path / "other")
    keyring.save(settings.keyring_path, replace=False)
    async with open_store(settings, clock=clock) as opened:
        yield opened


@pytest.mark.parametrize("kind", Format)
async def test_round_trip(store: Store, other: Store, guard_settings: GuardSettings, kind: Format) -> None:
    """An empty store gets the same labels and messages exactly once, however often the file is imported."""
    await _filled(store)
    content = await _out(store, kind)
    for turn in range(3):
        tally, complaints = await _in(other, guard_settings, kind, content)
        assert complaints == []
        rows = 12
        assert (tally.messages, tally.labels) == ((rows, 4) if turn == 0 else (0, 0))
    assert await _labels(other) == await _labels(store)
    assert sorted(p.text for p in await pooled(other)) == sorted(p.text for p in await pooled(store))
    assert {p.user_hashes for p in await pooled(other)} == {p.user_hashes for p in await pooled(store)}
    async with other.database.read() as session:
        messages = (await session.scalars(select(Message))).all()
        assert {(m.reason, m.inclusion_probability, m.source) for m in messages} == {("import", 0.0, "import")}
        assert await session.scalar(select(func.count()).select_from(Cycle)) == 1
    tally, complaints = await _in(store, guard_settings, kind, content)  # and nothing in the store it came from
    assert (tally.messages, tally.labels, complaints) == (0, 0, [])
    assert await other.cycles.recent() == []
    assert await other.review.batch() is None
    assert await other.cycles.labels_spent() == 0


async def test_no_formula(store: Store) -> None:
    """No cell of the CSV begins as a formula does, whatever the text."""
    await _filled(store)
    for row in csv.reader(io.StringIO(await _out(store, Format.CSV), newline="")):
        assert not [cell for cell in row if cell[:1] in {"=", "+", "-", "@", "\t", "\r"}]


async def test_shapes(store: Store) -> None:
    """Label Studio and Argilla find text, suggestion and answers where they look for them."""
    await _filled(store)
    task = json.loads(await _out(store, Format.LABEL_STUDIO, labelled=True))[0]
    assert task["data"] == {"text": HOSTILE[0]}
    assert task["predictions"][0]["result"][0]["value"] == {"choices": ["self-harm"]}
    assert task["annotations"][0]["result"][0]["value"] == {"choices": ["self-harm"]}
    record = json.loads((await _out(store, Format.ARGILLA, labelled=True)).splitlines()[1])
    assert record["fields"] == {"text": HOSTILE[1]}
    assert record["suggestions"]["category"]["value"] == "self-harm"
    assert [answer["value"] for answer in record["responses"]["category"]] == ["unclear"]
    assert await _out(store, Format.LABEL_STUDIO) != "[]\n"


async def test_what_people_did_there(store: Store, guard_settings: GuardSettings) -> None:
    """Labels given in Label Studio and Argilla come in with who gave them, beside those that were exported."""
    await add(store, arrival("one"), arrival("two"))
    (task, _) = json.loads(await _out(store, Format.LABEL_STUDIO))
    chosen = {"type": "choices", "value": {"choices": ["legal-advice"]}}
    task["annotations"] = [{"result": [chosen], "completed_by": 7, "created_at": "2026-11-19T10:00:00Z"}]
    assert (await _in(store, guard_settings, Format.LABEL_STUDIO, json.dumps([task])))[1] == []
    record = json.loads((await _out(store, Format.ARGILLA)).splitlines()[1])
    record["responses"] = {"category": [{"value": "unclear", "user_id": "u-1"}]}
    assert (await _in(store, guard_settings, Format.ARGILLA, json.dumps(record)))[1] == []
    assert [row[:3] for row in await _labels(store)] == [("one", "legal-advice", "7"), ("two", "", "u-1")]


@pytest.mark.parametrize("kind", Format)
async def test_adjudicated(store: Store, other: Store, guard_settings: GuardSettings, kind: Format) -> None:
    """What people differ about is contested in the other store too, and an admin's decision settles it there as well."""
    await add(store, arrival("one"), arrival("two"))
    said = [{"category": "self-harm", "reviewer": "ann"}, {"category": "legal-advice", "reviewer": "ben"}]
    rows = "\n".join(json.dumps({"text": text, "labels": said}) for text in ("one", "two"))
    assert (await _in(store, guard_settings, Format.JSONL, rows))[1] == []
    assert (await store.conflicts.count(), await store.review.label_counts()) == (2, {})
    (first, _) = await store.conflicts.contested(9)
    await store.conflicts.adjudicate(
        first.pick_id, adjudicator="ada", category=Category.LEGAL_ADVICE, idempotency_key="k"
    )
    content = await _out(store, kind)
    for _ in range(2):
        assert (await _in(other, guard_settings, kind, content))[1] == []
        assert (await other.conflicts.count(), await other.review.label_counts()) == (1, {Category.LEGAL_ADVICE: 1})
    assert await _labels(other) == await _labels(store)


async def test_changed_mind(store: Store, guard_settings: GuardSettings) -> None:
    """Of one person's labels of a message the last counts, however often the file is imported; nobody is two people."""
    await add(store, arrival("one"))
    row = '{"text": "one", "labels": [{"category": "self-harm"}, {"category": "legal-advice"}]}'
    for turn in range(2):
        tally, complaints = await _in(store, guard_settings, Format.JSONL, row)
        assert (tally.labels, complaints) == (2 * (turn == 0), [])
        assert [label[:3] for label in await _labels(store)] == [("one", "legal-advice", "import")]
        assert await store.review.label_counts() == {Category.LEGAL_ADVICE: 1}


BAD: Final = (
    ('{"text": "canary"', "the line is no JSON"),
    ('{"labels": []}', "there is neither a text nor an id"),
    ('{"id": 4711}', "there is no message 4711, and the row has no text"),
    ('{"text": " "}', "the text holds no visible character"),
    ('{"text": 7}', "the text is no string"),
    ('["canary"]', "a field is missing or of another type than it should be"),
    ('{"text": "one", "labels": [{"category": "canary"}]}', "a label is none of self-harm"),
    ('{"text": "one", "labels": [{"category": "self-harm", "decided_at": "canary"}]}', "a time is not in ISO 8601"),
    ('{"text": "one", "scores": [1], "verdict": "self-harm"}', "the scores are not 6 probabilities"),
    ('{"text": "one", "user_hashes": ["canary"]}', "a user's hash is not 64 hexadecimal digits"),
    ('{"text": "' + "x" * 40_000 + '"}', "the text is longer than 32000 characters"),
)


async def test_bad_rows(store: Store, guard_settings: GuardSettings) -> None:
    """Each row that cannot be taken is named by its number with the reason, never its text, and nothing is kept."""
    await add(store, arrival("one"))
    good = '{"text": "one", "labels": [{"category": "self-harm"}]}'
    content = "\n".join([good, *(row for row, _ in BAD), good])
    _, complaints = await _in(store, guard_settings, Format.JSONL, content)
    assert [number for number, _ in complaints] == list(range(2, len(BAD) + 2))
    for (_, why), (_, expected) in zip(complaints, BAD, strict=True):
        assert why.startswith(expected)
        assert "canary" not in why
    assert await _labels(store) == []


async def test_dry_run(store: Store, guard_settings: GuardSettings) -> None:
    """A dry run says what would be done and does nothing of it."""
    await add(store, arrival("one"))
    row = '{"text": "one", "labels": [{"category": "self-harm", "reviewer": "eve"}]}'
    tally, complaints = await _in(store, guard_settings, Format.JSONL, row, keep=False)
    assert (tally.known, tally.labels, complaints) == (1, 1, [])
    assert await _labels(store) == []


async def test_foreign_texts_are_judged(store: Store, guard_settings: GuardSettings) -> None:
    """A text without a verdict gets the champion's; without a champion the import ends, with nothing kept."""
    content = "text,label\r\nsue landlord,\r\n  hello   you ,not-harmful\r\n"
    with pytest.raises(NoModel):
        await _in(store, guard_settings, Format.CSV, content)
    publish_toy(Exports(guard_settings.exports_dir))
    tally, complaints = await _in(store, guard_settings, Format.CSV, content)
    assert (tally.messages, tally.labels, complaints) == (2, 1, [])
    records = [record async for batch in store.transfer.records() for record in batch]
    assert [(r.text, r.verdict and r.verdict.category) for r in records] == [
        ("sue landlord", "legal-advice"),
        ("hello you", "not-harmful"),
    ]


async def test_by_id(store: Store, guard_settings: GuardSettings) -> None:
    """A label finds its message by the id alone."""
    await add(store, arrival("one"))
    (message,) = await pooled(store)
    row = json.dumps({"id": message.id, "labels": [{"category": "self-harm"}]})
    assert (await _in(store, guard_settings, Format.JSONL, row))[1] == []
    assert [label[:3] for label in await _labels(store)] == [("one", "self-harm", "import")]


async def test_in_the_open_batch(store: Store, guard_settings: GuardSettings) -> None:
    """What reviewers have in hand is not labelled by a file."""
    await open_batch(store, await learner(store), "one")
    row = '{"text": "one", "labels": [{"category": "self-harm"}]}'
    _, complaints = await _in(store, guard_settings, Format.JSONL, row)
    assert [why for _, why in complaints] == [
        "message 1 is being labelled in the open batch: import it when that is closed"
    ]


async def test_erased_and_expired_stay_away(
    store: Store, other: Store, guard_settings: GuardSettings, clock: Clock
) -> None:
    """A file does not bring back what an erased user sent, nor what is past its retention."""
    await add(store, arrival("mine", "ada"), arrival("shared", "ada"), arrival("shared", "ben"), arrival("nobody's"))
    await add(store, replace(arrival("old"), seen_at=clock() - timedelta(days=31)))
    content = await _out(store, Format.JSONL)
    clock.advance(minutes=1)
    await other.pool.erase_user("ada")
    tally, _ = await _in(other, guard_settings, Format.JSONL, content)
    assert (tally.messages, tally.expired) == (2, 2)
    assert [p.text for p in await pooled(other)] == ["shared", "nobody's"]
    async with other.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(Sighting)) == 1
        assert await session.scalar(select(func.count()).select_from(Label)) == 0


@pytest.mark.parametrize(
    "content", ["", "{", "[", '[{"data": ', "[1", '"canary"', '[{"meta": {"lifeguard": {"id": 7}}} canary']
)
async def test_no_array(store: Store, guard_settings: GuardSettings, content: str) -> None:
    """What is no whole array of tasks is complained about, not taken in part."""
    _, complaints = await _in(store, guard_settings, Format.LABEL_STUDIO, content)
    assert complaints
    assert "canary" not in str(complaints)
