"""Verdicts in, ids of answers out; an id and a text in, the verdict that this id was given for out. Nothing is kept.

Whoever reports a wrong answer sends its id, the text and the user again. The id carries the verdict and a keyed tag over
it, the text and the user, so that a report tells of an answer this guard did give, after a restart, from another replica
and after the champion has moved on. The other way is to keep every recent text until somebody might complain. It would
spare callers the text; but it would put on disk, or into one process's memory, precisely what the guard promises not to
keep: nearly all messages, for the few that are ever reported. It would cost each verdict a write, and lose what it held
at every restart. A chatbot still has its conversation. What the tag does not prove is that the report is right, or that
a person wrote the text: a key may classify what it likes. So a report asks for a reviewer, and never is a label.

An answer to a request with `store: false` gets a random id that proves nothing: its text cannot be brought in by a report.
"""

import base64
import binascii
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from guard.decision import uncertainty
from guard.engine import Judged
from guard.errors import NotFound
from guard.store.keyring import Keyring
from guard.taxonomy import CATEGORIES, Category

NONCE_BYTES: Final = 8  # with the second of its making: no two ids are alike
TAG_BYTES: Final = 8  # one guess in 2^64, and each costs a request
_STEPS: Final = 65_535  # a score is told in two bytes: within 0.0001
_HEAD: Final = struct.Struct(f">I{NONCE_BYTES}sB")  # second of the answer, nonce, characters of the version that follow
_VERDICT: Final = struct.Struct(f">B{len(CATEGORIES)}H")  # category, scores
_ITEM_BYTES: Final = _VERDICT.size + TAG_BYTES
_UNKNOWN: Final = (
    "No answer with this id was given for this text and user: send the text and the user as they were sent then, and the "
    "text's index where there were several. Answers to requests with store=false cannot be reported."
)


@dataclass(frozen=True, slots=True)
class Answered:
    """A verdict that this guard gave.

    Args:
        key: 32 bytes that stand for this verdict of this answer, however its id is written.
        scores: Six probabilities in the order of `CATEGORIES`, each within 0.0001.
        at: The second it was given in, rounded down.
    """

    key: bytes
    model_version: str
    category: Category
    scores: tuple[float, ...]
    uncertainty: float
    at: datetime


class Receipts:
    """Makes the ids of answers and reads them.

    Args:
        keyring: Its index key makes the tags, and never changes: a rotation leaves ids as they are.
        clock: Tells when an answer was given.
    """

    def __init__(self, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._keyring = keyring
        self._clock = clock

    def issue(self, prefix: str, judged: Judged, *, user: str | None, store: bool) -> str:
        """Return the id of an answer: 55 characters for one text, 28 more for each further one.

        Args:
            prefix: What the dialect's ids begin with.
            judged: The verdicts that are answered.
            user: The caller's opaque user id.
            store: Whether the texts may be kept.
        """
        if not store:
            return f"{prefix}-{secrets.token_hex(12)}"
        version = judged.model_version.encode()
        head = _HEAD.pack(int(self._clock().timestamp()), secrets.token_bytes(NONCE_BYTES), len(version)) + version
        parts = [head]
        for index, (text, verdict) in enumerate(zip(judged.texts, judged.verdicts, strict=True)):
            scores = (round(score * _STEPS) for score in verdict.scores)
            told = _VERDICT.pack(CATEGORIES.index(verdict.category), *scores)
            parts += [told, self._tag(head, index, told, user, text)]
        return f"{prefix}-{base64.urlsafe_b64encode(b''.join(parts)).decode().rstrip('=')}"

    def read(self, receipt: str, *, text: str, user: str | None, index: int) -> Answered:
        """Return the verdict that an id was given for.

        Args:
            receipt: The id.
            text: The normalised text.
            user: As it was sent with the text.
            index: The text's place among those of the request.

        Raises:
            NotFound: The guard gave no such answer about this text of this user.
        """
        try:
            raw = base64.b64decode(_padded(receipt.partition("-")[2]), altchars=b"-_", validate=True)
            second, _, length = _HEAD.unpack_from(raw)
            start = _HEAD.size + length
            head, version = raw[:start], raw[_HEAD.size : start].decode()
            item = raw[start + index * _ITEM_BYTES : start + (index + 1) * _ITEM_BYTES]
            told, tag = item[: _VERDICT.size], item[_VERDICT.size :]
            category, *steps = _VERDICT.unpack(told)
        except (binascii.Error, struct.error, ValueError):  # a UnicodeError is a ValueError
            raise NotFound(_UNKNOWN) from None
        if not secrets.compare_digest(tag, self._tag(head, index, told, user, text)):
            raise NotFound(_UNKNOWN)
        scores = np.array(steps, dtype=np.float32) / max(1, sum(steps))
        return Answered(
            key=self._keyring.tag("report", head, index),
            model_version=version,
            category=CATEGORIES[category],
            scores=tuple(scores.tolist()),
            uncertainty=float(uncertainty(scores)),
            at=datetime.fromtimestamp(second, UTC),
        )

    def _tag(self, head: bytes, index: int, told: bytes, user: str | None, text: str) -> bytes:
        return self._keyring.tag("answer", head, index, told, user, text)[:TAG_BYTES]


def _padded(value: str) -> bytes:
    return value.encode(errors="replace") + b"=" * (-len(value) % 4)
