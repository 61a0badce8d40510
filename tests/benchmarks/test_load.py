"""The load generator: its schedule, its reading of answers, and what it counts against a real server."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import numpy as np
import pytest

from benchmarks.peers.load import LOST, OK, Load, arrivals, closed_loop, open_loop, parse, post

BUSY: Final = b"busy"


class _Echo(BaseHTTPRequestHandler):
    """Answers 200 with the request's body, or 503 to `BUSY`, and hangs up on the body `gone`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b'"gone"':
            self.close_connection = True
            return
        self.send_response(503 if BUSY in body else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_arrivals_are_a_poisson_process() -> None:
    """Arrivals come in order, as often as asked, with gaps that vary as much as they last, the same for one seed."""
    due = arrivals(rate=200, seconds=50, seed=7)
    gaps = np.diff(due)
    assert (gaps >= 0).all()
    assert due[-1] < 50
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (due == arrivals(rate=200, seconds=50, seed=7)).all()


def test_an_answer_is_read_when_it_is_whole() -> None:
    """Status and body come out only when all of it has arrived, by length or in chunks."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
    assert [parse(whole[:end]) for end in range(len(whole))] == [None] * len(whole)
    assert parse(whole) == (200, b"body", True)
    chunked = (
        b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    )
    assert parse(chunked) == (503, b"abcd", False)
    assert parse(chunked[:-7]) is None
    with pytest.raises(ValueError, match="no HTTP"):
        parse(b"SSH-2.0-x\r\n\r\n")


def test_a_closed_loop_sends_in_order_and_counts(port: int) -> None:
    """Requests go out in order, again and again, refusals are told from answers, and every one is counted once."""
    said: dict[int, tuple[int, bytes]] = {}
    requests = [post("/", "one"), post("/", "busy")]
    load = closed_loop(
        port, requests, at_once=3, seconds=0.3, seen=lambda n, status, body: said.update({n: (status, body)})
    )
    assert sorted(said) == list(range(len(load.status)))
    assert {said[n] for n in said if n % 2 == 0} == {(OK, b'"one"')}
    assert {said[n] for n in said if n % 2 == 1} == {(503, b'"busy"')}
    assert load.answered + load.failed == len(said)
    assert load.failed == sum(n % 2 for n in said)
    assert load.latency_s.min() > 0


def test_an_open_loop_counts_the_wait_for_a_connection(port: int) -> None:
    """What falls due at once on one connection is answered one behind the other, and each wait counts from when it was due."""
    load = open_loop(port, [post("/", "one")], due=np.zeros(50), limit=1)
    assert load.answered == 50
    assert (np.diff(load.latency_s) > 0).all()


def test_a_connection_that_is_cut_is_a_lost_request(port: int) -> None:
    """A server that hangs up on the first request of a connection has lost it; the run goes on."""
    load = closed_loop(port, [post("/", "gone"), post("/", "one")], at_once=1, seconds=0.2)
    assert set(load.status) == {LOST, OK}


def test_nobody_listening_is_a_lost_request() -> None:
    """Where nothing listens each request is lost, and the run ends."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        load = open_loop(taken.getsockname()[1], [post("/", "one")], due=np.array([0.0, 0.01]))
    assert load.status.tolist() == [LOST, LOST]


def test_a_rate_counts_until_the_last_answer() -> None:
    """Requests a second are those answered with 200 over the time until the last answer, however late it is."""
    load = Load(np.array([0.0, 0.5, 0.9]), np.array([0.1, 1.5, 0.05]), np.array([OK, OK, 503]), seconds=1.0, cpu_s=0.0)
    assert load.per_s == pytest.approx(1.0)
    assert load.latency_ms(0.5) == pytest.approx(800)
