"""The whole loop, as it runs in service: guard, learner, reviewers, LLM and clients, each in a process or thread of its own."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from guard.bundle import Bundle
from guard.settings import GuardSettings
from guard.taxonomy import CATEGORIES
from tests.e2e.corpora import reworded
from tests.e2e.driver import Reviewer, Traffic, await_cycle, await_version, create_keys, post_traffic, read_cycles
from tests.e2e.models import FirstModel
from tests.fakes.llm import FakeLLM, Rehearsed
from tests.served import ServedGuard

BATCH = 6
MESSAGES = 60
SEED = 5
LONGER_THAN_A_WORD = 20  # "stop" stands in logs for other reasons

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The URL of an empty PostgreSQL database, or None for the embedded SQLite."""
    if request.param == "sqlite":
        yield None
        return
    server = request.getfixturevalue("postgres")
    name = asyncio.run(server.create())
    yield server.url(name)
    asyncio.run(server.drop(name))


def test_cycles_end_judged_while_no_request_fails(
    tmp_path: Path, first_model: FirstModel, database_url: str | None
) -> None:
    """A guard takes doubts, labels and variations through its cycles, and no request notices."""
    number_of_cycles = 2 if database_url is None else 1  # half a minute each
    answers = dict(first_model.answers)
    texts = random.Random(SEED).sample(sorted(answers), MESSAGES)
    variations = {text: [reworded(text, n) for n in range(2)] for text in texts}
    categories = answers | {v: answers[text] for text, written in variations.items() for v in written}
    settings = GuardSettings(data_dir=tmp_path / "var", exports_dir=tmp_path / "exports", database_url=database_url)
    first_model.install(settings.exports_dir)
    keys = asyncio.run(create_keys(settings))
    with ExitStack() as stack:
        llm = stack.enter_context(FakeLLM(Rehearsed(variations, categories)))
        environment = {
            "LEARNER_CORPUS_DIR": str(first_model.corpus),
            "LEARNER_BATCH_SIZE": str(BATCH),
            "LEARNER_BUDGET": str(number_of_cycles * BATCH),
            "LEARNER_POOL_MIN": str(BATCH * 4),
            "LEARNER_VARIATIONS": "2",
            "LEARNER_TICK_S": "0.2",
            "LEARNER_FINE_TUNE_EPOCHS": "0",
            "OPENAI_BASE_URL": llm.base_url,
            "OPENAI_API_KEY": "local",
        }
        if database_url is not None:
            environment["GUARD_DATABASE_URL"] = database_url
        guard = ServedGuard(tmp_path, environment=environment, learner=True, uncertain_above=0, overlap=1)
        stack.callback(guard.stop)
        guard.start(timeout_s=300)
        client = stack.enter_context(httpx.Client(base_url=guard.base_url, headers=keys["client"], timeout=60))
        review = stack.enter_context(httpx.Client(base_url=guard.base_url, headers=keys["anna"], timeout=60))
        post_traffic(client, texts)
        traffic = stack.enter_context(Traffic(guard.base_url, texts[:20], headers=keys["client"]))
        reviewers = [
            stack.enter_context(Reviewer(guard.base_url, answers, headers=keys[name])) for name in ("anna", "ben")
        ]
        for number in range(1, number_of_cycles + 1):
            await_cycle(review, number, timeout_s=240)
        champion = guard.exports.champion()
        assert champion is not None
        await_version(client, champion)
        metrics = client.get("/metrics").text
    cycles = asyncio.run(read_cycles(settings))
    assert [cycle.state in {"promoted", "held"} for cycle in cycles] == [True] * number_of_cycles, [
        c.reasons for c in cycles
    ]
    assert all(cycle.reasons for cycle in cycles), "each end gives its reasons"
    assert [cycle.labels_spent for cycle in cycles] == [BATCH] * number_of_cycles, "the budget is spent and no more"
    assert sum(reviewer.labelled for reviewer in reviewers) == number_of_cycles * BATCH
    assert all(cycle.figures["variations"]["accepted"] > 0 for cycle in cycles), "the LLM's variations were stored"
    assert f"guard_labels_spent {number_of_cycles * BATCH}.0" in metrics
    report = traffic.report
    assert not report.failures
    assert report.steps_back == 0
    assert report.answers > 0
    for version in {version for _, version in report.scores}:
        bundle = Bundle.load(guard.exports, version)
        seen = [text for text, by in report.scores if by == version]
        expected, _ = bundle.score(seen)
        served = np.array([[report.scores[text, version][c] for c in CATEGORIES] for text in seen])
        assert np.abs(served - expected).max() < 1e-3, "every answer is the work of the one version it names"
    telling = [text for text in texts if len(text) > LONGER_THAN_A_WORD]
    assert not any(text in guard.log for text in telling), "no text is logged"
