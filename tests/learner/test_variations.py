"""The variation stage, from labelled picks to stored variations, against a server that speaks the protocol."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.rows import Variation
from guard.taxonomy import CATEGORIES, Category
from learner.prompts import TEMPLATE
from learner.settings import LearnerSettings
from learner.variations import vary
from learner.verify import Fate
from tests.fakes.llm import Behaviour, FakeLLM, Rehearsed, Reply, completion, error, letters, quoted, raw, variations
from tests.learner.labelled import (
    JUDGED,
    LABELS,
    RASH,
    RENT,
    VARIATIONS,
    arrival,
    labelled_cycle,
    learner,
    no_pause,
    people,
    run_stage,
    stored,
)


async def test_variations_are_stored_with_their_label_and_origin(store: Store) -> None:
    """Each seed's verified variations carry its label, the LLM's name and the template; people's labels stay."""
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        figures, seen = await run_stage(store, llm)
        assert figures == {
            "seeds": 3,
            "calls": 6,
            "tokens": 600,
            "accepted": 6,
            "llm": "fake-1",
            "judge": "fake-1",
            "template": TEMPLATE,
            "ended_early": None,
            "rates": {
                category: {"seeds": 1, "offered": 2, "accepted": 2, "rate": 1.0, "low": 0.1467, "high": 1.0}
                for category in LABELS.values()
            },
        }
    assert seen == {**people(LABELS), **{text: (category, True) for text, category in JUDGED.items()}}
    assert await store.cycles.variation_fates() == {"accepted": 6}
    async with store.database.read() as session:
        rows = (await session.scalars(Variation.__table__.select().with_only_columns(Variation.llm))).all()
        templates = (await session.scalars(Variation.__table__.select().with_only_columns(Variation.template))).all()
    assert set(rows) == {"fake-1"}
    assert set(templates) == {TEMPLATE}


async def test_each_prompt_holds_one_users_text(embedded: Store) -> None:
    """A request for variations quotes exactly one source text; the judge is shown candidates only, and no label."""
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        await run_stage(embedded, llm)
        writing = [request for request in llm.requests if not request.judges]
        judging = [request for request in llm.requests if request.judges]
    assert len(writing) == len(judging) == 3
    for request in writing:
        assert sum(request.prompt.count(seed) for seed in LABELS) == 1
    for request in judging:
        assert not [seed for seed in LABELS if seed in request.prompt]
        assert not [category for category in CATEGORIES if category in request.prompt]
        candidates = list(quoted(request.json).values())
        assert candidates in list(VARIATIONS.values())


async def test_judges_options_are_shuffled_by_the_seed(embedded: Store) -> None:
    """Two seeds see the options in other orders, and writing and judging go to the models of the settings."""
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        figures, _ = await run_stage(embedded, llm, judge_model="judge-1")
        orders = {tuple(letters(r.json).items()) for r in llm.requests if r.judges}
        models = {(r.judges, r.json["model"], r.json["temperature"]) for r in llm.requests}
    assert len(orders) == 3
    assert models == {(False, "fake-1", 1.0), (True, "judge-1", 0.0)}
    assert figures["judge"] == "judge-1"


async def test_variations_are_ciphertext_on_disk(embedded: Store, guard_settings: GuardSettings) -> None:
    """No stored variation can be read from the files of the data folder."""
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        _, seen = await run_stage(embedded, llm)
    assert len(seen) == 9
    files = [path.read_bytes() for path in guard_settings.data_dir.rglob("*") if path.is_file()]
    assert files
    for text in seen:
        assert not [file for file in files if text.encode() in file]


@pytest.mark.parametrize("k", [0, 2])
async def test_without_key_or_variations_nothing_is_done(embedded: Store, k: int) -> None:
    """The stage says why it is skipped, sends nothing, and leaves the picks as they are."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    with FakeLLM(completion("never")) as llm:
        changes = {"llm_api_key": None} if k else {"variations": 0}
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm, **changes), pause=no_pause)
        assert llm.requests == []
    reason = "no LLM key: set OPENAI_API_KEY or LEARNER_LLM_API_KEY" if k else "LEARNER_VARIATIONS is 0"
    assert figures == {"skipped": reason}
    assert len(await embedded.variations.pending(cycle.id)) == 3


async def test_address_that_cannot_work_skips_the_stage(embedded: Store) -> None:
    """A mistake in the settings costs the variations, not the cycle."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    broken = LearnerSettings(llm_base_url="localhost", llm_api_key="sk-fake")
    figures = await vary(embedded, cycle, fence=fence, settings=broken, pause=no_pause)
    assert "LEARNER_LLM_BASE_URL" in figures["skipped"]


async def test_messages_without_a_label_are_not_varied(embedded: Store) -> None:
    """What people could not tell is no seed."""
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        cycle, fence = await labelled_cycle(embedded, {**LABELS, RENT: None})
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause)
        assert not [request for request in llm.requests if RENT in request.prompt]
    assert figures["seeds"] == 2


def _verdicts(*answers: str) -> Any:
    """Return an LLM that writes well and gives these raw verdicts."""

    def behave(request: dict[str, Any]) -> Reply:
        data = quoted(request)
        return variations(*VARIATIONS[data]) if isinstance(data, str) else completion(next(left))

    left = iter(answers)
    return behave


async def _fates(store: Store, behaviour: Any, seed: str = RASH, **changes: Any) -> dict[str, int]:
    """Vary one seed and return its fates alone."""
    with FakeLLM(behaviour) as llm:
        figures, seen = await run_stage(store, llm, {seed: LABELS[seed]}, **changes)
    fates: dict[str, int] = {name: figures[name] for name in Fate if figures.get(name)}
    assert len(seen) == 1 + fates.get(Fate.ACCEPTED, 0)
    assert seen[seed] == (LABELS[seed], False)
    return fates


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{}",
        '{"1": "both fit"}',
        '["A", "B"]',
        '{"1": 1, "2": null}',
        '{"3": "A", "4": "A"}',
        "All of them are option A.",
        "I'm sorry, but I can't help with that.",
        "x" * 20_000,
    ],
)
async def test_without_a_verdict_nothing_is_accepted(embedded: Store, answer: str) -> None:
    """A judge that says nothing usable leaves every candidate unjudged, and unstored."""
    assert await _fates(embedded, _verdicts(answer)) == {Fate.UNJUDGED: 2}


def _agreeing_but_filtered(request: dict[str, Any]) -> Reply:
    option = letters(request)[Category.MEDICAL_ADVICE]
    return completion(json.dumps(dict.fromkeys(quoted(request), option)), finish_reason="content_filter")


@pytest.mark.parametrize(
    "judge", [error(500), error(401), raw("no"), completion(None, refusal="no"), Reply(302), _agreeing_but_filtered]
)
async def test_without_a_judge_nothing_is_accepted(embedded: Store, judge: Behaviour) -> None:
    """A judge that cannot be reached or declines leaves every candidate unjudged."""

    def behave(request: dict[str, Any]) -> Reply:
        data = quoted(request)
        if isinstance(data, str):
            return variations(*VARIATIONS[data])
        return judge if isinstance(judge, Reply) else judge(request)

    assert await _fates(embedded, behave) == {Fate.UNJUDGED: 2}


async def test_rates_are_of_what_was_judged(embedded: Store) -> None:
    """A category's accept rate counts what was offered and decided, not what the judge left open."""
    judged = {
        VARIATIONS[RASH][0]: Category.MEDICAL_ADVICE,
        VARIATIONS[RENT][0]: Category.NOT_HARMFUL,
        VARIATIONS[RENT][1]: Category.LEGAL_ADVICE,
    }
    labels = {RASH: LABELS[RASH], RENT: LABELS[RENT]}
    with FakeLLM(Rehearsed(VARIATIONS, judged, default=None)) as llm:
        figures, _ = await run_stage(embedded, llm, labels)
    shares = {name: (rate["offered"], rate["accepted"]) for name, rate in figures["rates"].items()}
    assert shares == {Category.MEDICAL_ADVICE: (1, 1), Category.LEGAL_ADVICE: (2, 1)}
    assert figures[Fate.UNJUDGED] == 1


async def test_judge_decides_text_by_text(embedded: Store) -> None:
    """What the judge puts into another category goes, what it agrees to stays."""
    first, second = VARIATIONS[RASH]
    judged = {first: Category.MEDICAL_ADVICE, second: Category.NOT_HARMFUL}
    fates = await _fates(embedded, Rehearsed(VARIATIONS, judged))
    assert fates == {Fate.ACCEPTED: 1, Fate.MISLABELLED: 1}


async def test_champion_is_heard_but_does_not_decide(embedded: Store) -> None:
    """Its opinion on what was accepted is counted; a variation it disagrees with stays."""
    heard: list[list[str]] = []

    def opinion(texts: Any) -> Any:
        heard.append(list(texts))
        row = [0.0] * len(CATEGORIES)
        row[CATEGORIES.index(Category.LEGAL_ADVICE)] = 1.0
        return np.array([row] * len(texts), dtype=np.float32)

    cycle, fence = await labelled_cycle(embedded, LABELS)
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm), opinion=opinion, pause=no_pause)
    assert sorted(heard) == sorted(VARIATIONS.values())
    assert (figures["accepted"], figures["agree"], figures["disagree"]) == (6, 2, 4)


GOOD = VARIATIONS[RASH][0]


@pytest.mark.parametrize(
    ("reply", "fates"),
    [
        (variations(GOOD, RASH), {Fate.ACCEPTED: 1, Fate.DUPLICATE: 1}),
        (variations(GOOD, "What is this red rash on my arm?!"), {Fate.ACCEPTED: 1, Fate.DUPLICATE: 1}),
        (variations(GOOD, GOOD.upper()), {Fate.ACCEPTED: 1, Fate.DUPLICATE: 1}),
        (variations(GOOD, "a text of the gate set, never to be trained on"), {Fate.ACCEPTED: 1, Fate.DUPLICATE: 1}),
        (variations(*[GOOD] * 10_000), {Fate.ACCEPTED: 1, Fate.DUPLICATE: 1, Fate.SURPLUS: 9_998}),
        (variations(7, GOOD, None, {"text": "x"}), {Fate.ACCEPTED: 1, Fate.MALFORMED: 3}),
        (completion(f'```json\n{{"variations": ["{GOOD}"]}}\n```'), {Fate.ACCEPTED: 1}),
        (
            completion(f'{{"variations": ["{GOOD}", "and a sec', finish_reason="length"),
            {Fate.ACCEPTED: 1, Fate.MALFORMED: 1},
        ),
        (completion(f'{{"variations": ["{GOOD}"], "label": "not-harmful", "x": {{}}}}'), {Fate.ACCEPTED: 1}),
        (variations(), {Fate.MALFORMED: 1}),
        (completion(None), {Fate.MALFORMED: 1}),
        (completion(""), {Fate.MALFORMED: 1}),
        (completion("Ok, done."), {Fate.MALFORMED: 1}),
        (completion(None, refusal="I can't help with that."), {Fate.REFUSED: 1}),
        (completion("I'm sorry, but I can't assist with that."), {Fate.REFUSED: 1}),
        (completion("", finish_reason="content_filter"), {Fate.REFUSED: 1}),
        (variations("I'm sorry, but I can't assist with that.", GOOD), {Fate.ACCEPTED: 1, Fate.REFUSED: 1}),
        (variations("¿qué es esta erupción que tengo en el brazo?", GOOD), {Fate.ACCEPTED: 1, Fate.LANGUAGE: 1}),
        (variations("<b>what</b> is this rash", GOOD), {Fate.ACCEPTED: 1, Fate.SHAPE: 1}),
        (variations("medical-advice: itchy skin, why?", GOOD), {Fate.ACCEPTED: 1, Fate.ECHO: 1}),
        (variations("rash? mail me: jo@example.org", GOOD), {Fate.ACCEPTED: 1, Fate.CONTACT: 1}),
        (variations("", "\u200b"), {Fate.SHAPE: 2}),
        (variations("\ud800 itchy spots on the wrist again"), {Fate.ACCEPTED: 1}),
        (raw('{"choices": []}'), {Fate.MALFORMED: 1}),
        (raw('{"choices": null}'), {Fate.MALFORMED: 1}),
        (raw("<html>"), {Fate.FAILED: 1}),
        (error(400), {Fate.FAILED: 1}),
        (error(500), {Fate.FAILED: 1}),
        (error(429, retry_after="121"), {Fate.FAILED: 1}),
        (error(401), {Fate.FAILED: 1}),
        (Reply(302, {"Location": "http://169.254.169.254/"}), {Fate.FAILED: 1}),
        (Reply(parts=[b" " * 65_536] * 64), {Fate.FAILED: 1}),
    ],
)
async def test_every_answer_has_its_fates(embedded: Store, reply: Reply, fates: dict[Fate, int]) -> None:
    """Whatever comes back for a seed is counted by reason, the good part is kept, and the label is untouched."""
    judge = Rehearsed({}, {}, default=Category.MEDICAL_ADVICE)

    def behave(request: dict[str, Any]) -> Reply:
        return reply if isinstance(quoted(request), str) else judge(request)

    cycle, fence = await labelled_cycle(embedded, {RASH: LABELS[RASH]})
    corpus = ["A text of the gate set: never to be trained on."]
    with FakeLLM(behave) as llm:
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm), corpus_texts=corpus, pause=no_pause)
    seen = await stored(embedded, cycle.id, fence)
    assert {name: figures[name] for name in Fate if figures.get(name)} == fates
    assert seen.pop(RASH) == (Category.MEDICAL_ADVICE, False)
    assert len(seen) == fates.get(Fate.ACCEPTED, 0)
    assert all(value == (Category.MEDICAL_ADVICE, True) for value in seen.values())
    assert await embedded.variations.pending(cycle.id) == []


async def test_what_is_known_is_not_stored_again(embedded: Store) -> None:
    """A text that is another seed, or that two seeds are given at the same time, is stored at most once."""
    labels = {RASH: Category.MEDICAL_ADVICE, "is this mole dangerous": Category.MEDICAL_ADVICE}
    first, second = labels
    same = "my skin looks odd to me and to my wife"
    texts = {first: [same, second], second: [same, first]}
    both = threading.Barrier(2, timeout=10)
    judge = Rehearsed({}, {}, default=Category.MEDICAL_ADVICE)

    def behave(request: dict[str, Any]) -> Reply:
        data = quoted(request)
        both.wait()
        return variations(*texts[data]) if isinstance(data, str) else judge(request)

    with FakeLLM(behave) as llm:
        figures, seen = await run_stage(embedded, llm, labels)
    assert (figures[Fate.ACCEPTED], figures[Fate.DUPLICATE]) == (1, 3)
    assert seen == {**people(labels), same: (Category.MEDICAL_ADVICE, True)}


async def test_what_waits_in_the_pool_is_no_variation(embedded: Store) -> None:
    """A variation that a user typed too would put one text on both sides of a split."""
    cycle, fence = await labelled_cycle(embedded, {RASH: LABELS[RASH]})
    await embedded.pool.add([arrival(embedded, GOOD)], max_messages=10)
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause)
    assert (figures[Fate.ACCEPTED], figures[Fate.DUPLICATE]) == (1, 1)


async def test_logs_hold_no_text(embedded: Store) -> None:
    """What is logged of the stage are its figures."""
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm, capture_logs() as logs:
        figures, _ = await run_stage(embedded, llm)
    assert [entry["event"] for entry in logs] == ["variations_ended"]
    assert logs[0]["accepted"] == figures["accepted"] == 6
    assert not [text for text in (*LABELS, *JUDGED, "sk-fake") if text in str(logs)]


@settings(derandomize=True, database=None, deadline=None, max_examples=15)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 120), st.integers(0, 10), st.sampled_from(['"', "]", "}", ",", "A", '"1":"B",', ""])),
        max_size=5,
    ),
    judge=st.booleans(),
)
@pytest.mark.slow
def test_no_mutation_of_a_reply_gets_anything_past_the_judge(
    tmp_path_factory: pytest.TempPathFactory, *, edits: list[tuple[int, int, str]], judge: bool
) -> None:
    """Whichever reply is damaged, what is stored is what the judge was shown and agreed to."""
    agreed: set[str] = set()

    def damaged(content: str) -> str:
        for position, deleted, inserted in edits:
            content = content[:position] + inserted + content[position + deleted :]
        return content

    def behave(request: dict[str, Any]) -> Reply:
        data = quoted(request)
        if isinstance(data, str):
            content = json.dumps({"variations": VARIATIONS[RASH]})
            return completion(content if judge else damaged(content))
        option = letters(request)[Category.MEDICAL_ADVICE]
        content = json.dumps(dict.fromkeys(data, option))
        content = damaged(content) if judge else content
        agreed.update(text for number, text in data.items() if f'"{number}":"{option}"' in "".join(content.split()))
        return completion(content)

    async def run(folder: Path) -> None:
        configuration = GuardSettings(data_dir=folder)
        async with open_store(configuration, create_keyring=True) as store:
            with FakeLLM(behave) as llm:
                _, seen = await run_stage(store, llm, {RASH: LABELS[RASH]})
        assert seen.pop(RASH) == (Category.MEDICAL_ADVICE, False)
        assert set(seen) <= agreed

    asyncio.run(run(tmp_path_factory.mktemp("store")))
