"""`guard check`: messages in, one line out for each, judged by a guard over HTTP or by the champion in this process."""

import asyncio
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress

from guard.client import Answer, Client, Judged, Reason, Unjudged
from guard.errors import InputError, LifeguardError, NoModel, Unavailable
from guard.schemas import results
from guard.settings import GuardSettings

if TYPE_CHECKING:
    from guard.engine import Engine

CHUNK_BYTES: Final = 8_192  # read at once: about 100 messages, less than a second's work, so that the bar moves
BATCH_LINES: Final = 32  # of one request
BATCH_CHARS: Final = 16_000  # of one request, unless one line has more: half of what a guard takes as a single text
DEADLINE_S: Final = 10.0  # of one request; a person waits longer than a chatbot
CLEAN, FLAGGED, FAILED = range(3)  # the exit statuses, as grep has them

Line = tuple[int, str]
Judge = Callable[[Sequence[str]], list[Answer]]


def batches(stream: BinaryIO) -> Iterator[list[Line]]:
    """Yield the lines of a stream with their numbers, several at once only where they have come at once.

    Lines of nothing but blanks are passed over; bytes that are no UTF-8 become replacement characters.
    """
    number, rest = 0, bytearray()
    while chunk := stream.read1(CHUNK_BYTES):  # type: ignore[attr-defined]  # BufferedReader has it, BinaryIO does not say so
        rest += chunk
        if b"\n" not in chunk:
            continue
        *whole, rest = rest.split(b"\n")
        yield from _grouped(whole, number)
        number += len(whole)
    yield from _grouped([rest], number)


@contextmanager
def followed(stream: BinaryIO) -> Iterator[Iterator[list[Line]]]:
    """Yield the batches of a stream, with a bar on standard error while they are judged.

    The bar is left out where it would be torn or of no use: standard error is no terminal, the answers go to the same
    terminal, or the stream is no file and its end is not known.
    """
    groups = batches(stream)
    if not (sys.stderr.isatty() and not sys.stdout.isatty() and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)):
        yield groups
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("Judging", total=os.fstat(stream.fileno()).st_size)

        def counted() -> Iterator[list[Line]]:
            for group in groups:
                yield group
                bar.update(task, completed=stream.tell())

        yield counted()


def check(judge: Judge, groups: Iterable[list[Line]], write: Callable[[int, Answer], None]) -> int:
    """Judge messages, write each answer as it comes, and return the exit status.

    It is `FAILED` where any message was not judged, else `FLAGGED` where any was flagged, else `CLEAN`.
    """
    flagged = failed = False
    for group in groups:
        for (number, _), answer in zip(group, _judge_all(judge, [text for _, text in group]), strict=True):
            write(number, answer)
            failed |= not answer.judged
            flagged |= answer.judged and answer.flagged
    return FAILED if failed else FLAGGED if flagged else CLEAN


def in_words(answer: Answer) -> str:
    """Return an answer as people read it."""
    if not answer.judged:
        return answer.detail
    score = 100 * answer.scores[answer.category]
    doubt = "  uncertain" if answer.uncertain else ""
    return f"{answer.category:<19}  {score:5.1f} %  {answer.action}{doubt}{'  disguised' if answer.disguised else ''}"


def in_json(number: int, answer: Answer) -> str:
    """Return an answer as one line of JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(answer)
    fields.pop("allowed", None)  # there is no chatbot here whose policy it would be
    return msgspec.json.encode({"line": number, "judged": answer.judged} | fields).decode()


@contextmanager
def served(url: str, api_key: SecretStr | None) -> Iterator[Judge]:
    """Yield a judge that asks a guard, which keeps nothing of what it is asked.

    Raises:
        BadConfiguration: The address or the key cannot be.
    """
    logging.getLogger("guard.client").addHandler(logging.NullHandler())  # what it would say, the answers say
    key = api_key.get_secret_value() if api_key else None
    with Client(url, on_failure="block", api_key=key, deadline_s=DEADLINE_S) as client:
        yield lambda texts: client.classify_many(texts, store=False)


@contextmanager
def champion(settings: GuardSettings) -> Iterator["Engine"]:
    """Yield an engine of this process with the champion in it.

    Raises:
        NoModel: There is no champion.
        BrokenExport: It does not load.
    """
    from guard import logs
    from guard.bundle import Bundle
    from guard.engine import Engine
    from guard.exports import Exports
    from guard.metrics import Metrics

    logs.configure(settings.log_level)  # to standard error: what goes to standard output are answers
    exports = Exports(settings.exports_dir)
    version = exports.champion()
    if version is None:
        raise NoModel(
            f"There is no champion in {settings.exports_dir}: run `learner bootstrap`, or name a guard with --url."
        )
    bundle = Bundle.load(exports, version, provider=settings.provider, precision=settings.artefact)
    engine = Engine(settings, Metrics())
    try:
        engine.swap(bundle)
        yield engine
    finally:
        engine.close()


@contextmanager
def local(settings: GuardSettings) -> Iterator[Judge]:
    """Yield a judge that runs the champion in this process; nothing is stored.

    Raises:
        NoModel: There is no champion.
        BrokenExport: It does not load.
    """
    with champion(settings) as engine, asyncio.Runner() as runner:
        yield lambda texts: runner.run(_judge_here(engine, settings, texts))


async def _judge_here(engine: "Engine", settings: GuardSettings, texts: Sequence[str]) -> list[Answer]:
    try:
        judged = await engine.classify(texts)
    except InputError as error:
        return [_unjudged(Reason.BAD_INPUT, error)] * len(texts)
    except Unavailable as error:
        return [_unjudged(Reason.UNAVAILABLE, error)] * len(texts)
    return [
        Judged(**msgspec.structs.asdict(result), id="local", model_version=judged.model_version)
        for result in results(judged, settings)
    ]


def _judge_all(judge: Judge, texts: Sequence[str]) -> list[Answer]:
    """Judge texts together; where one of them is not taken, which leaves all without a verdict, each by itself."""
    answers = judge(texts)
    if len(texts) > 1 and not answers[0].judged and answers[0].reason is Reason.BAD_INPUT:
        return [answer for text in texts for answer in judge([text])]
    return answers


def _grouped(lines: Sequence[bytes | bytearray], before: int) -> Iterator[list[Line]]:
    texts = ((n, line.decode(errors="replace")) for n, line in enumerate(lines, before + 1))
    group: list[Line] = []
    chars = 0
    for number, text in texts:
        if not text.strip():
            continue
        if group and (len(group) == BATCH_LINES or chars + len(text) > BATCH_CHARS):
            yield group
            group, chars = [], 0
        group.append((number, text))
        chars += len(text)
    if group:
        yield group


def _unjudged(reason: Reason, error: LifeguardError) -> Unjudged:
    return Unjudged(reason=reason, allowed=False, status=error.status, title=error.title)
