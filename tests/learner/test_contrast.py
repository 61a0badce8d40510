"""Contrast pairs: from the champion's confusions to proposals that wait for a person."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.rows import Contrast
from guard.store.states import ContrastState, PairKind, PairVerdict
from guard.store.variations import Seed
from guard.taxonomy import CATEGORIES, Category
from learner.contrast import Confusion, confusions, plan
from learner.dataset import Corpus, Example
from learner.variations import vary
from learner.work import Work
from tests.fakes.llm import (
    Behaviour,
    FakeLLM,
    Rehearsed,
    Reply,
    asks_for_edits,
    completion,
    edits,
    error,
    letters,
    quoted,
    raw,
    variations,
)
from tests.guard.store.scenes import proposed
from tests.learner.labelled import LABELS, RASH, RENT, SHARES, labelled_cycle, learner, no_pause, stored
from tests.toys import publish_toy

MEDICAL, LEGAL, MONEY = Category.MEDICAL_ADVICE, Category.LEGAL_ADVICE, Category.FINANCIAL_ADVICE
EDIT = "can my landlord's deposit account earn the whole interest"
FAR = "which fund would you buy with ten thousand"
DEV = [Example(f"dev {n}", LEGAL, f"g{n}") for n in range(10)]  # the opinion below takes half of them for financial


def _row(**shares: float) -> list[float]:
    return [shares.get(category.name.lower(), 0.0) for category in CATEGORIES]


def _opinion(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Take every second dev row, and the edit, for financial advice."""
    rows = {
        RENT: _row(legal_advice=0.5, financial_advice=0.4),
        EDIT: _row(financial_advice=0.9),
        **{row.text: _row(financial_advice=0.9) for row in DEV[::2]},
    }
    return np.array([rows.get(text, _row(legal_advice=0.9)) for text in texts], dtype=np.float32)


def _llm(edit: Behaviour, judge: dict[str, Category] | None = None) -> Any:
    """Return an LLM that varies nothing, edits like this and judges the edits financial unless told otherwise."""
    verdicts = Rehearsed({}, judge or {}, default=MONEY)

    def behave(request: dict[str, Any]) -> Reply:
        if not isinstance(quoted(request), str):
            return verdicts(request)
        if not asks_for_edits(request):
            return variations()
        return edit if isinstance(edit, Reply) else edit(request)

    return behave


async def _run(
    store: Store, behaviour: Any, labels: dict[str, Category] | None = None, **changes: Any
) -> tuple[dict[str, Any], FakeLLM]:
    cycle, fence = await labelled_cycle(store, labels or LABELS)
    with FakeLLM(behaviour) as llm:
        figures = await vary(
            store,
            cycle,
            fence=fence,
            settings=learner(llm, **changes),
            opinion=_opinion,
            dev=DEV,
            pause=no_pause,
        )
    return figures, llm


# what is confused


def test_confusions_are_measured_and_sure() -> None:
    """Ordered pairs come with their rows and lower bounds, the worst first; what may be chance is left out."""
    labels = [LEGAL] * 60 + [MEDICAL] * 60
    probabilities = np.zeros((120, 6), dtype=np.float32)
    answers = [MONEY] * 6 + [MEDICAL] * 3 + [Category.NOT_HARMFUL] * 2 + [LEGAL] * 49 + [MEDICAL] * 59 + [MONEY]
    for row, answer in zip(probabilities, answers, strict=True):
        row[CATEGORIES.index(answer)] = 1.0
    assert confusions(labels, probabilities) == [
        Confusion(LEGAL, MONEY, 6, 60, pytest.approx(0.0427, abs=1e-4)),  # type: ignore[arg-type]
        Confusion(LEGAL, MEDICAL, 3, 60, pytest.approx(0.0143, abs=1e-4)),  # type: ignore[arg-type]
    ]


def test_at_most_three_confusions() -> None:
    """However confused a model is, the pairs go to the three worst confusions."""
    wrong = [CATEGORIES[(i + 1) % 6] for i in range(6)]
    probabilities = np.eye(6, dtype=np.float32)[[CATEGORIES.index(c) for c in wrong for _ in range(9)]]
    labels = [category for category in CATEGORIES for _ in range(9)]
    assert len(confusions(labels, probabilities)) == 3
    assert confusions([], np.zeros((0, 6), dtype=np.float32)) == []


def test_plan_takes_the_nearest_in_turn() -> None:
    """The confusions take turns, each with the seeds nearest to its boundary; no seed is asked about twice."""
    seeds = [Seed(n, n, f"s{n}", category) for n, category in enumerate([LEGAL, LEGAL, LEGAL, MEDICAL, MONEY])]
    probabilities = np.array(
        [
            _row(legal_advice=0.9, financial_advice=0.1),
            _row(legal_advice=0.5, financial_advice=0.4),
            _row(legal_advice=0.2, financial_advice=0.5),
            _row(medical_advice=0.9),
            _row(financial_advice=0.9),
        ],
        dtype=np.float32,
    )
    confused = [
        Confusion(LEGAL, MONEY, 9, 9, 0.7),
        Confusion(LEGAL, MEDICAL, 8, 9, 0.6),
        Confusion(MEDICAL, LEGAL, 5, 9, 0.3),
    ]
    order = [(seed.pick_id, other) for seed, other in plan(seeds, probabilities, confused)]
    assert order == [(1, MONEY), (3, LEGAL), (2, MONEY), (0, MONEY)]


# what is proposed


async def test_pair_is_proposed_and_waits(store: Store) -> None:
    """An edit that the blind judge puts into the other category is proposed with its origin, and not trained on."""
    cycle, fence = await labelled_cycle(store, LABELS)
    with FakeLLM(_llm(edits(FAR, EDIT))) as llm:
        figures = await vary(
            store, cycle, fence=fence, settings=learner(llm), opinion=_opinion, dev=DEV, pause=no_pause
        )
        asked = [request for request in llm.requests if request.edits]
    assert figures["contrasts"] == {
        "seeds": 1,
        "proposed": 1,
        "distant": 1,
        "confusions": [{"category": LEGAL, "taken_for": MONEY, "rows": 5, "of": 10, "low": 0.2235}],
    }
    assert [quoted(request.json) for request in asked] == [RENT]
    (pair,) = await proposed(store)
    assert (pair.seed, pair.seed_category, pair.text, pair.category) == (RENT, LEGAL, EDIT, MONEY)
    async with store.database.read() as session:
        row = await session.get_one(Contrast, pair.id)
    assert (row.opinion, row.llm, row.template, row.state) == (MONEY, "fake-1", "contrast-1", ContrastState.PROPOSED)
    assert await stored(store, cycle.id, fence) == {text: (category, False) for text, category in LABELS.items()}


async def test_confirmed_pair_is_a_persons_row(embedded: Store) -> None:
    """Once a person says that it flips, the edit is a row of its own category in its seed's group."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    with FakeLLM(_llm(edits(EDIT))) as llm:
        await vary(embedded, cycle, fence=fence, settings=learner(llm), opinion=_opinion, dev=DEV, pause=no_pause)
    (pair,) = await proposed(embedded)
    await embedded.pairs.decide(PairKind.CONTRAST, pair.id, verdict=PairVerdict.FLIPS, reviewer="ann")
    assert (await stored(embedded, cycle.id, fence))[EDIT] == (MONEY, False)
    groups = {row.text: row.message_id for row in await embedded.variations.snapshot(cycle.id)}
    assert groups[EDIT] == groups[RENT]


async def test_smallest_standing_edit_is_kept(embedded: Store) -> None:
    """Of two edits that stand the one nearest to its seed is proposed, whatever the order."""
    larger = "can the whole deposit be put in a savings plan with a good rate"
    figures, _ = await _run(embedded, _llm(edits(larger, "can my landlord invest the whole deposit")))
    assert [pair.text for pair in await proposed(embedded)] == ["can my landlord invest the whole deposit"]
    assert (figures["contrasts"]["proposed"], figures["contrasts"]["surplus"]) == (1, 1)


async def test_judge_sees_the_edit_alone(embedded: Store) -> None:
    """The judge's question holds neither the seed nor a category's name; the editor's holds one text, as data."""
    _, llm = await _run(embedded, _llm(edits(EDIT)))
    (judging,) = [request for request in llm.requests if request.judges]
    assert quoted(judging.json) == {"1": EDIT}
    assert len(letters(judging.json)) == 6
    assert RENT not in judging.prompt
    assert not [category for category in CATEGORIES if category in judging.prompt]
    (editing,) = [request for request in llm.requests if request.edits]
    assert editing.prompt.count(RENT) == 1
    assert not [text for text in (RASH, SHARES) if text in editing.prompt]


@pytest.mark.parametrize(
    ("reply", "fates"),
    [
        (edits(RENT), {"duplicate": 1}),
        (edits("Can my landlord keep the WHOLE deposit?!"), {"duplicate": 1}),
        (edits(SHARES), {"distant": 1}),
        (edits(FAR), {"distant": 1}),
        (edits(EDIT, EDIT, EDIT), {"duplicate": 1, "surplus": 1, "proposed": 1}),
        (edits("<b>can</b> my landlord keep the whole deposit"), {"shape": 1}),
        (edits("can my landlord wire the whole deposit to jo@example.org"), {"contact": 1}),
        (edits("category: can my landlord keep the whole deposit"), {"echo": 1}),
        (edits("¿puede mi casero no devolverme la fianza para invertirla?"), {"language": 1}),
        (edits("I'm sorry, but I can't assist with that."), {"refused": 1}),
        (edits(7, None), {"malformed": 2}),
        (edits(), {"malformed": 1}),
        (completion(f'```json\n{{"edits": ["{EDIT}", "can m', finish_reason="length"), {"malformed": 1, "proposed": 1}),
        (completion("I'm sorry, but I can't assist with that."), {"refused": 1}),
        (completion(None, refusal="no"), {"refused": 1}),
        (completion(None), {"malformed": 1}),
        (raw("<html>"), {"failed": 1}),
        (error(500), {"failed": 1}),
        (Reply(302, {"Location": "http://169.254.169.254/"}), {"failed": 1}),
    ],
)
async def test_every_answer_has_its_fates(embedded: Store, reply: Reply, fates: dict[str, int]) -> None:
    """Whatever comes back for a seed is counted by reason, at most one good edit is proposed, and the seed is done."""
    figures, _ = await _run(embedded, _llm(reply))
    counts = {name: n for name, n in figures["contrasts"].items() if name not in {"seeds", "confusions"} and n}
    assert counts == fates
    assert figures["contrasts"]["seeds"] == 1
    assert len(await proposed(embedded)) == fates.get("proposed", 0)
    assert await embedded.contrasts.pending({LEGAL}) == []


async def test_text_of_the_corpus_is_no_edit(embedded: Store) -> None:
    """An edit that nearly repeats a dev, gate or must-pass text is not proposed."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    corpus = [f"{EDIT}?"]
    with FakeLLM(_llm(edits(EDIT))) as llm:
        figures = await vary(
            embedded,
            cycle,
            fence=fence,
            settings=learner(llm),
            opinion=_opinion,
            corpus_texts=corpus,
            dev=DEV,
            pause=no_pause,
        )
    assert (figures["contrasts"]["proposed"], figures["contrasts"]["duplicate"]) == (0, 1)


@pytest.mark.parametrize(("judged", "fate"), [(LEGAL, "mislabelled"), (MEDICAL, "mislabelled"), (None, "unjudged")])
async def test_judge_must_see_the_other_category(embedded: Store, judged: Category | None, fate: str) -> None:
    """An edit that the judge leaves in its category, puts into a third, or cannot place is not proposed."""

    def behave(request: dict[str, Any]) -> Reply:
        if isinstance(quoted(request), dict):
            return completion(json.dumps({} if judged is None else {"1": letters(request)[judged]}))
        return edits(EDIT) if asks_for_edits(request) else variations()

    figures, _ = await _run(embedded, behave)
    assert (figures["contrasts"]["proposed"], figures["contrasts"][fate]) == (0, 1)
    assert await proposed(embedded) == []


# when it stops


@pytest.mark.parametrize("changes", [{"contrast_pairs": 0}, {"variations": 0}])
async def test_none_when_told_so(embedded: Store, changes: dict[str, Any]) -> None:
    """With LEARNER_CONTRAST_PAIRS=0, or without variations at all, no edit is asked for."""
    figures, llm = await _run(embedded, _llm(edits(EDIT)), **changes)
    assert "contrasts" not in figures
    assert not [request for request in llm.requests if request.edits]


async def test_limit_holds_over_restarts(embedded: Store) -> None:
    """No more seeds are asked about in a cycle than the limit, however often the stage is run, and none twice."""
    labels = {f"may the landlord of house {n} keep my deposit": LEGAL for n in range(6)}
    cycle, fence = await labelled_cycle(embedded, labels)
    with FakeLLM(_llm(edits())) as llm:
        for limit in (2, 2, 4):
            figures = await vary(
                embedded,
                cycle,
                fence=fence,
                settings=learner(llm, contrast_pairs=limit),
                opinion=_opinion,
                dev=DEV,
                pause=no_pause,
            )
            assert figures["contrasts"]["seeds"] == limit
        asked = [quoted(request.json) for request in llm.requests if request.edits]
    assert len(asked) == len(set(asked)) == 4


async def test_spending_cap_holds(embedded: Store) -> None:
    """Edits are paid from what the variations left; when that is gone nothing is asked and nothing is lost."""
    figures, llm = await _run(embedded, _llm(edits(EDIT)), llm_max_calls=3)
    assert len(llm.requests) == 3
    assert figures["contrasts"]["seeds"] == 0
    assert len(await embedded.contrasts.pending({LEGAL})) == 1


async def test_without_confusions_nothing_is_asked(embedded: Store) -> None:
    """A champion that confuses nothing gets no contrasts, and the figures say so."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    with FakeLLM(_llm(edits(EDIT))) as llm:
        figures = await vary(
            embedded, cycle, fence=fence, settings=learner(llm), opinion=_opinion, dev=DEV[1::2], pause=no_pause
        )
    assert figures["contrasts"] == {"seeds": 0, "proposed": 0, "confusions": []}


async def test_erased_seed_is_not_sent(embedded: Store) -> None:
    """A message erased before its turn does not leave the house."""
    labels = {f"may the landlord of house {n} keep my deposit": LEGAL for n in range(2)}
    cycle, fence = await labelled_cycle(embedded, labels)
    seen: list[str] = []

    def opinion(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        seen.extend(texts)
        return _opinion(texts)

    really = embedded.contrasts.pends
    erased: list[str] = []

    async def pends(seed: Seed) -> bool:
        if not erased:
            erased.append("user-0")
            await embedded.pool.erase_user("user-0")
        return await really(seed)

    embedded.contrasts.pends = pends  # type: ignore[method-assign]
    with FakeLLM(_llm(edits())) as llm:
        await vary(embedded, cycle, fence=fence, settings=learner(llm), opinion=opinion, dev=DEV, pause=no_pause)
        asked = [quoted(request.json) for request in llm.requests if request.edits]
    assert asked == ["may the landlord of house 1 keep my deposit"]
    assert "may the landlord of house 0 keep my deposit" in seen


async def test_stage_measures_the_champion(
    embedded: Store, guard_settings: GuardSettings, corpus_folder: Path, corpus: Corpus
) -> None:
    """In service the confusions are the champion's on the dev rows, none of which is sent."""
    exports = Exports(guard_settings.exports_dir)
    publish_toy(exports)  # knows a few words, and takes all other messages for harmless
    cycle, fence = await labelled_cycle(embedded, {"such a long day, and nobody": Category.SELF_HARM})
    with FakeLLM(
        _llm(edits("such a long day, and lovely"), {"such a long day, and lovely": Category.NOT_HARMFUL})
    ) as llm:
        work = Work(embedded, exports, learner(llm, corpus_dir=corpus_folder))
        figures = await work.vary(cycle, fence=fence)
        sent = [quoted(request.json) for request in llm.requests if not request.judges]
    confused = figures["contrasts"]["confusions"]
    assert (confused[0]["category"], confused[0]["taken_for"]) == (Category.SELF_HARM, Category.NOT_HARMFUL)
    assert confused[0]["of"] == sum(row.category is Category.SELF_HARM for row in corpus.dev)
    assert sent == ["such a long day, and nobody"] * 2
    (pair,) = await proposed(embedded)
    assert (pair.text, pair.category) == ("such a long day, and lovely", Category.NOT_HARMFUL)
