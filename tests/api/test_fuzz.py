"""Whatever is sent, the guard answers that it is wrong, or that it cannot now: nothing goes wrong here.

A small share of `benchmarks/fuzz.py`.
"""

import asyncio
from collections import Counter

import pytest

from guard.app import Recorder
from tests.api.conftest import Running
from tests.fuzzing import Fuzzer, ask, throw
from tests.served import ServedGuard

REQUESTS = 2_000
MUTATIONS = 400
AT_ONCE = 32


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_fuzzed_requests(resident: Running) -> None:
    """Requests made from the OpenAPI schema, some bent, are answered once each, without a 5xx but a declared 503."""
    schema = (await resident.client.get("/docs/openapi.json")).json()
    fuzzer, statuses = Fuzzer(schema, seed=1), Counter[int]()
    app = Recorder(resident.app)
    for _ in range(REQUESTS):
        request = fuzzer.request()
        status = await ask(app, request)
        assert status < 500 or status == 503, request
        statuses[status] += 1
    assert statuses[200] > REQUESTS / 20
    assert statuses[400] > REQUESTS / 20


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_bent_bytes(resident: Running, served: ServedGuard) -> None:
    """Bytes that are almost a request get no 5xx but a 503, and the server lives."""
    schema = (await resident.client.get("/docs/openapi.json")).json()
    fuzzer, pids = Fuzzer(schema, seed=2), served.pids
    raws = [fuzzer.bent(fuzzer.request().raw()) for _ in range(MUTATIONS)]
    statuses = Counter[int]()
    for first in range(0, MUTATIONS, AT_ONCE):
        for answered in await asyncio.gather(*(throw(served.port, raw) for raw in raws[first : first + AT_ONCE])):
            statuses.update(answered)
    assert not [status for status in statuses if status >= 500 and status != 503]
    assert sum(statuses.values()) > MUTATIONS / 2
    assert served.pids == pids
    assert "unexpected" not in {event["event"] for event in served.events}
