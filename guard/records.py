"""Messages with their labels as four kinds of file: CSV, JSON Lines, Label Studio's JSON and Argilla's records.

`guard.exchange` moves them between a file and the store. Writers and readers hold one message at a time.
"""

import csv
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TextIO

from guard.errors import BadRecord
from guard.store.transfer import GivenLabel, Record, Verdict, check_verdict
from guard.taxonomy import CATEGORIES, Category

UNCLEAR: Final = "unclear"  # the label of "can't tell", in every file
MAX_ITEM_CHARS: Final = 4_000_000  # of one message in a file: 128 times what the guard takes, escaped
_CHUNK_CHARS: Final = 65_536
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")  # what spreadsheets run; quotes before it are ours or count as such
_COLUMNS: Final = (
    "id", "text", "label", "reviewer", "decided_at", "adjudicates", "state", "reason", "model_version", "verdict", "uncertainty",
    "scores", "first_seen_at", "last_seen_at", "anonymous", "user_hashes",
)  # fmt: skip
_NAME: Final = "category"  # of the question in Label Studio and Argilla
Numbered = tuple[int, Record | BadRecord]


class Format(StrEnum):
    """A kind of file."""

    CSV = "csv"
    JSONL = "jsonl"
    LABEL_STUDIO = "label-studio"
    ARGILLA = "argilla"


def read(kind: Format, stream: TextIO) -> Iterator[Numbered]:
    """Yield the records of a stream with their numbers, and in place of what is none why it is none, without its text.

    A number is that of the line; in CSV, where a text may have several lines, and in Label Studio's array that of the
    message, from 1, a header not counted.
    """
    return _READERS[kind](stream)


class _CsvWriter:
    def __init__(self, stream: TextIO) -> None:
        self._rows = csv.writer(stream)
        self._rows.writerow(_COLUMNS)

    def add(self, record: Record) -> None:
        """Write a line for each label, or one without."""
        fields = _fields(record)
        del fields["labels"]
        fields["scores"] = json.dumps(list((fields["scores"] or {}).values()))
        fields["user_hashes"] = " ".join(record.user_hashes)
        for label in _labels(record) or [{}]:
            row = {**fields, "text": record.text, "label": label.get("category"), **label}
            self._rows.writerow(["" if row.get(c) is None else _disarmed(str(row[c])) for c in _COLUMNS])

    def end(self) -> None:
        """Nothing follows."""


class _LinesWriter:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, record: Record) -> None:
        """Write a line."""
        self._stream.write(json.dumps(self.shape(record), ensure_ascii=False) + "\n")

    def shape(self, record: Record) -> dict[str, Any]:
        """Return the object of a record."""
        return {"text": record.text, **_fields(record)}

    def end(self) -> None:
        """Nothing follows."""


class _ArgillaWriter(_LinesWriter):
    def shape(self, record: Record) -> dict[str, Any]:
        """Return the record as Argilla's `Record.to_dict` does."""
        verdict = record.verdict
        suggested = verdict and {
            "value": verdict.category,
            "score": max(verdict.scores),
            "agent": verdict.model_version,
        }
        return {
            "id": str(record.id),
            "fields": {"text": record.text},
            "metadata": {"lifeguard": json.dumps(_fields(record))},
            "suggestions": {_NAME: suggested} if suggested else {},
            "responses": {
                _NAME: [
                    {
                        "value": label["category"],
                        "user_id": str(uuid.uuid5(uuid.NAMESPACE_OID, label["reviewer"] or "")),
                    }
                    for label in _labels(record)
                ]
            },
            "vectors": {},
            "status": "completed" if record.labels else "pending",
        }


class _LabelStudioWriter:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before = "[\n"

    def add(self, record: Record) -> None:
        """Write a task."""
        verdict = record.verdict
        task = {
            "id": record.id,
            "data": {"text": record.text},
            "meta": {"lifeguard": _fields(record)},
            "predictions": [
                {
                    "model_version": verdict.model_version,
                    "score": max(verdict.scores),
                    "result": _choice(verdict.category),
                }
            ]
            if verdict
            else [],
            "annotations": [
                {"result": _choice(label["category"]), "created_at": label["decided_at"]} for label in _labels(record)
            ],
        }
        self._stream.write(self._before + json.dumps(task, ensure_ascii=False))
        self._before = ",\n"

    def end(self) -> None:
        """Close the array."""
        self._stream.write("[]\n" if self._before.startswith("[") else "\n]\n")


def _fields(record: Record) -> dict[str, Any]:
    verdict = record.verdict
    return {
        "id": record.id,
        "state": record.state,
        "reason": record.reason,
        "model_version": verdict and verdict.model_version,
        "verdict": verdict and verdict.category.value,
        "scores": verdict and dict(zip(map(str, CATEGORIES), verdict.scores, strict=True)),
        "uncertainty": verdict and verdict.uncertainty,
        "first_seen_at": record.first_seen_at and record.first_seen_at.isoformat(),
        "last_seen_at": record.last_seen_at and record.last_seen_at.isoformat(),
        "anonymous": record.anonymous,
        "user_hashes": list(record.user_hashes),
        "labels": _labels(record),
    }


def _labels(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "category": (label.category or UNCLEAR) + "",
            "reviewer": label.reviewer,
            "decided_at": label.decided_at and label.decided_at.isoformat(),
            "adjudicates": label.adjudicates,
        }
        for label in record.labels
    ]


def _choice(category: str) -> list[dict[str, Any]]:
    return [{"from_name": _NAME, "to_name": "text", "type": "choices", "value": {"choices": [category]}}]


def _disarmed(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _armed(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _read_csv(stream: TextIO) -> Iterator[Numbered]:
    csv.field_size_limit(MAX_ITEM_CHARS)
    rows = csv.DictReader(stream, strict=True)
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield number, BadRecord("the row is no CSV: its quotes do not match, or a cell is too long")
            return
        if None in row or None in row.values():
            yield number, BadRecord("the row has not as many cells as the header")
            continue
        cells: dict[str, Any] = {name: _armed(cell) for name, cell in row.items() if cell}
        yield number, _tried(_of_cells, cells)


def _of_cells(cells: dict[str, Any]) -> Record:
    try:
        scores = json.loads(cells["scores"]) if "scores" in cells else []
    except (ValueError, RecursionError):
        raise BadRecord("the scores are no JSON") from None
    if scores:
        cells["scores"] = scores
    else:
        cells.pop("scores", None)
    cells["user_hashes"] = cells.get("user_hashes", "").split()
    cells["anonymous"] = cells.get("anonymous", "True") != "False"
    cells["adjudicates"] = cells.get("adjudicates") == "True"
    if "label" in cells:
        cells["labels"] = [{**cells, "category": cells["label"]}]
    return _record(cells, cells.get("text"))


def _read_lines(shape: Callable[[dict[str, Any]], Record]) -> Callable[[TextIO], Iterator[Numbered]]:
    def lines(stream: TextIO) -> Iterator[Numbered]:
        number = 0
        while line := stream.readline(MAX_ITEM_CHARS):
            number += 1
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except (ValueError, RecursionError):
                yield number, BadRecord("the line is no JSON")
                continue
            yield number, _tried(shape, item)

    return lines


def _read_tasks(stream: TextIO) -> Iterator[Numbered]:
    """Read an array one element at a time."""
    decoder, buffer, number, begun = json.JSONDecoder(), "", 0, False
    wanted = _CHUNK_CHARS
    while True:
        more = stream.read(wanted)
        buffer += more
        while True:
            buffer = buffer.lstrip(" \t\r\n" if not begun else " \t\r\n,")
            if not begun:
                if buffer and buffer[0] != "[":
                    yield 1, BadRecord("the file is no JSON array of tasks")
                    return
                begun, buffer = bool(buffer), buffer[1:]
                if not begun:
                    break
                continue
            if buffer.startswith("]"):
                return
            try:
                item, end = decoder.raw_decode(buffer)
            except (ValueError, RecursionError):
                break
            number += 1
            wanted, buffer = _CHUNK_CHARS, buffer[end:]
            yield number, _tried(_of_task, item)
        if not more or len(buffer) > MAX_ITEM_CHARS:
            yield (
                number + 1,
                BadRecord("the file is no JSON array of tasks, was cut short, or has a task that is too long"),
            )
            return
        wanted = max(_CHUNK_CHARS, len(buffer))  # a long task is tried again only when there is twice as much of it


def _of_object(item: dict[str, Any]) -> Record:
    return _record(item, item.get("text"))


def _of_argilla(item: dict[str, Any]) -> Record:
    told = (item.get("metadata") or {}).get("lifeguard")
    fields = json.loads(told) if told else {}
    answers = (item.get("responses") or {}).get(_NAME) or []
    given = [(answer["value"], str(answer.get("user_id") or "") or None, None) for answer in answers]
    return _record({**fields, "labels": _matched(given, fields)}, (item.get("fields") or {}).get("text"))


def _of_task(item: dict[str, Any]) -> Record:
    fields = (item.get("meta") or {}).get("lifeguard") or {}
    given = []
    for annotation in item.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        choices = [c for part in annotation["result"] if part["type"] == "choices" for c in part["value"]["choices"]]
        if len(choices) != 1:
            raise BadRecord("an annotation has not exactly one choice")
        by = annotation.get("completed_by")
        by = by.get("email") or by.get("id") if isinstance(by, dict) else by
        given.append((choices[0], None if by is None else str(by), annotation.get("created_at")))
    return _record({**fields, "labels": _matched(given, fields)}, (item.get("data") or {}).get("text"))


def _matched(given: Sequence[tuple[Any, str | None, str | None]], fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return labels as a tool gives them, each with who gave it and when where it is the one that was exported."""
    known = fields.get("labels") or []
    return [
        known[place]
        if place < len(known) and known[place].get("category") == category
        else {"category": category, "reviewer": reviewer, "decided_at": decided_at}
        for place, (category, reviewer, decided_at) in enumerate(given)
    ]


_READERS: Final[dict[Format, Callable[[TextIO], Iterator[Numbered]]]] = {
    Format.CSV: _read_csv,
    Format.JSONL: _read_lines(_of_object),
    Format.ARGILLA: _read_lines(_of_argilla),
    Format.LABEL_STUDIO: _read_tasks,
}
WRITERS: Final[dict[Format, Callable[[TextIO], _CsvWriter | _LinesWriter | _LabelStudioWriter]]] = {
    Format.CSV: _CsvWriter,
    Format.JSONL: _LinesWriter,
    Format.ARGILLA: _ArgillaWriter,
    Format.LABEL_STUDIO: _LabelStudioWriter,
}


def _tried(shape: Callable[[dict[str, Any]], Record], item: Any) -> Record | BadRecord:
    try:
        return shape(item)
    except BadRecord as error:
        return error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return BadRecord("a field is missing or of another type than it should be")


def _record(fields: dict[str, Any], text: Any) -> Record:
    if text is not None and not isinstance(text, str):
        raise BadRecord("the text is no string")
    known: Any = fields.get("id")
    if text is None and known is None:
        raise BadRecord("there is neither a text nor an id")
    return Record(
        id=int(known) if str(known).isdecimal() and len(str(known)) < 19 else None,  # noqa: PLR2004 - digits of 2^63
        text=text,
        verdict=_verdict(fields),
        first_seen_at=_time(fields.get("first_seen_at")),
        last_seen_at=_time(fields.get("last_seen_at")),
        user_hashes=tuple(_user_hash(user) for user in fields.get("user_hashes") or ()),
        anonymous=bool(fields.get("anonymous", True)),
        labels=tuple(
            GivenLabel(
                _label(label["category"]),
                label.get("reviewer"),
                _time(label.get("decided_at")),
                bool(label.get("adjudicates", False)),
            )
            for label in fields.get("labels") or ()
        ),
    )


def _verdict(fields: dict[str, Any]) -> Verdict | None:
    scores = fields.get("scores")
    if not scores:
        return None
    values = [float(scores[c]) for c in CATEGORIES] if isinstance(scores, dict) else [float(s) for s in scores]
    check_verdict(values)
    category = _label(fields["verdict"])
    uncertainty = float(fields["uncertainty"])
    version = fields["model_version"]
    if category is None or not 0 <= uncertainty <= 1 or not re.fullmatch(r"\w{1,16}", version):
        raise BadRecord("the verdict has no category, version or uncertainty that could be")
    return Verdict(version, category, tuple(values), uncertainty)


def _label(value: Any) -> Category | None:
    if value == UNCLEAR:
        return None
    try:
        return Category(value)
    except ValueError:
        raise BadRecord(f"a label is none of {', '.join(CATEGORIES)}, {UNCLEAR}") from None


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise BadRecord("a time is not in ISO 8601") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _user_hash(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise BadRecord("a user's hash is not 64 hexadecimal digits")
    return value
