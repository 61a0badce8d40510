"""The corpus on disk and a frozen snapshot of people's labels into one training set with groups and weights.

`learner.train` takes it; the gate and must-pass lists go to `learner.gate` and nowhere else.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import HashingVectorizer

from guard.errors import BadConfiguration
from guard.store.variations import LabelledText
from guard.taxonomy import CATEGORIES, Category
from guard.text import normalise

SPLITS: Final = ("train", "dev", "gate", "must_pass")
_USES: Final = {"train": "learn from", "dev": "calibrate on", "gate": "judge by"}
SIMILARITY: Final = 0.7  # Jaccard over character 4-grams; one changed word in 100 characters leaves about 0.8
_CHUNK_ROWS: Final = 1_000  # snapshot rows compared at once: 1,000 x 1,400 held-out texts are 11 MB


@dataclass(frozen=True, slots=True)
class Example:
    """A normalised text with its category. One group is one scenario and never crosses splits.

    `message_id` is the message that people labelled; None of the corpus, and of what an LLM wrote.
    """

    text: str
    category: Category
    group: str
    weight: float = 1.0
    variation: bool = False
    message_id: int | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """The four splits as they lie on disk; none of it is a variation of the loop's own."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    gate: tuple[Example, ...]
    must_pass: tuple[Example, ...]

    @classmethod
    def load(cls, folder: Path) -> "Corpus":
        """Read `train.jsonl`, `dev.jsonl`, `gate.jsonl` and `must_pass.jsonl`.

        Raises:
            BadConfiguration: A file is missing, a row is bad, or a group or a text stands in two splits; the message
                names file and line, never the text.
        """
        groups: dict[str, str] = {}
        texts: dict[str, str] = {}
        splits: dict[str, tuple[Example, ...]] = {}
        for split in SPLITS:
            examples = []
            for place, example in examples_of(folder / f"{split}.jsonl"):
                if groups.setdefault(example.group, split) != split:
                    raise BadConfiguration(
                        f"{place}: its group stands in {groups[example.group]}.jsonl too; a group belongs to one split."
                    )
                if texts.setdefault(example.text, split) != split:
                    raise BadConfiguration(
                        f"{place}: the same text stands in {texts[example.text]}.jsonl; remove it from one."
                    )
                examples.append(example)
            if not examples and split != "must_pass":
                raise BadConfiguration(f"{folder / split}.jsonl has no rows: there is nothing to {_USES[split]}.")
            splits[split] = tuple(examples)
        return cls(**splits)


@dataclass(frozen=True, slots=True)
class Dataset:
    """What one model is trained and calibrated on.

    Args:
        train: Corpus, people's labels and variations, each text once.
        dev: Rows for calibration, none of them a variation.
        held_out: Snapshot rows left out because they equal or nearly equal a dev, gate or must-pass text.
        duplicates: Rows left out because their text stands in train already.
        digest: SHA-256 over all rows, the same for the same rows in the same order.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    held_out: int
    duplicates: int
    digest: str

    def counts(self) -> Counter[Category]:
        """Return the number of training rows of each category."""
        return Counter(example.category for example in self.train)


def assemble(corpus: Corpus, snapshot: Sequence[LabelledText], *, variation_weight: float) -> Dataset:
    """Put a training set together.

    A person's label beats the corpus and the corpus beats a variation where they hold the same text; of two people's
    labels the later one stands.

    Args:
        corpus: The corpus, of which train and dev go into the data set.
        snapshot: Labelled messages with their variations, oldest first.
        variation_weight: Weight of a variation, in [0, 1]; at 0 variations are left out.
    """
    examples = [
        Example(
            text=normalise(row.text),
            category=row.category,
            group=f"message-{row.message_id}",
            weight=variation_weight if row.variation else 1.0,
            variation=row.variation,
            message_id=None if row.variation or row.contrast else row.message_id,
        )
        for row in snapshot
        if not row.variation or variation_weight > 0
    ]
    held_out = [example.text for split in (corpus.dev, corpus.gate, corpus.must_pass) for example in split]
    known = _resemble([example.text for example in examples], held_out)
    new = [example for example, leaks in zip(examples, known, strict=True) if not leaks]
    variations = [example for example in new if example.variation]
    people = [example for example in new if not example.variation]
    unique = {_key(example.text): example for example in (*variations, *corpus.train, *people)}  # the last one stands
    train = tuple(unique.values())
    return Dataset(
        train=train,
        dev=corpus.dev,
        held_out=int(known.sum()),
        duplicates=len(corpus.train) + len(new) - len(train),
        digest=_digest(train, corpus.dev),
    )


def examples_of(path: Path) -> Iterator[tuple[str, Example]]:
    """Yield the examples of a file of JSON Lines, each with its place for messages.

    Raises:
        BadConfiguration: The file cannot be read or a row is bad; the message names the line, never the text.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadConfiguration(
            f"{path} cannot be read ({type(error).__name__}): LEARNER_CORPUS_DIR must hold "
            f"{', '.join(f'{split}.jsonl' for split in SPLITS)}."
        ) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path.name}, line {number}"
            yield place, _example(place, line)


def _example(place: str, line: bytes) -> Example:
    try:
        row = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError:
        raise BadConfiguration(f"{place}: not a JSON object.") from None  # its message could carry the text
    text, category, group = (row.get(key) for key in ("text", "category", "group"))
    if not isinstance(text, str) or not normalise(text):
        raise BadConfiguration(f'{place}: "text" must be a string with something visible in it.')
    if category not in CATEGORIES:
        raise BadConfiguration(f'{place}: "category" must be one of {", ".join(CATEGORIES)}.')
    if not isinstance(group, str) or not group:
        raise BadConfiguration(f'{place}: "group" must name the scenario that the text belongs to.')
    return Example(text=normalise(text), category=Category(str(category)), group=group)


def _key(text: str) -> str:
    return text.casefold()


def _resemble(texts: Sequence[str], others: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return for each text whether it equals or nearly equals one of the others: `(n,)`."""
    if not texts or not others:
        return np.zeros(len(texts), dtype=np.bool_)
    keys = {_key(other) for other in others}
    grams = HashingVectorizer(
        analyzer="char", ngram_range=(4, 4), n_features=2**20, norm=None, binary=True, alternate_sign=False
    )
    theirs = grams.transform(others).T.tocsc()
    sizes = np.asarray(theirs.sum(axis=0)).ravel()
    found = []
    for start in range(0, len(texts), _CHUNK_ROWS):
        chunk = texts[start : start + _CHUNK_ROWS]
        ours = grams.transform(chunk)
        common = (ours @ theirs).toarray()
        union = np.asarray(ours.sum(axis=1)) + sizes - common
        similarity = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        equal = np.array([_key(text) in keys for text in chunk])
        found.append(equal | (similarity >= SIMILARITY).any(axis=1))
    return np.concatenate(found)


def _digest(*splits: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        for e in split:
            digest.update(msgspec.json.encode([e.text, e.category, e.group, e.weight, e.variation]) + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()
