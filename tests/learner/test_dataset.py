"""What may stand in a corpus, and what of corpus and snapshot a model is trained on."""

import json
from pathlib import Path

import pytest

from guard.errors import BadConfiguration
from guard.store.variations import LabelledText
from guard.taxonomy import CATEGORIES, Category
from learner.dataset import Corpus, Example, assemble
from tests.learner.conftest import easy_rows, write_corpus

SECRET = "my neighbour's cat speaks at night"


def labelled(text: str, category: Category, *, message: int = 1, variation: bool = False) -> LabelledText:
    """Return a snapshot row."""
    return LabelledText(message_id=message, text=text, category=category, variation=variation)


def find(examples: tuple[Example, ...], text: str) -> list[Example]:
    """Return the examples with a text."""
    return [example for example in examples if example.text == text]


def test_a_corpus_is_read_in_order_and_normalised(tmp_path: Path) -> None:
    """Rows keep their order, and texts are normalised as in serving."""
    rows = easy_rows()
    rows["train"].insert(0, {"text": "  ﬁre\u200b  here ", "category": "emergency-situation", "group": "x-1"})
    corpus = Corpus.load(write_corpus(tmp_path, rows))
    assert corpus.train[0] == Example("fire here", Category.EMERGENCY_SITUATION, "x-1")
    assert [len(split) for split in (corpus.train, corpus.dev, corpus.gate, corpus.must_pass)] == [121, 48, 72, 24]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (f"{SECRET} {{", "not a JSON object"),
        (json.dumps([SECRET]), "not a JSON object"),
        (json.dumps({"text": "\u200b ", "category": "self-harm", "group": SECRET}), '"text"'),
        (json.dumps({"text": 7, "category": "self-harm", "group": "g"}), '"text"'),
        (json.dumps({"text": SECRET, "category": SECRET, "group": "g"}), '"category" must be one of self-harm'),
        (json.dumps({"text": SECRET, "category": ["self-harm"], "group": "g"}), '"category"'),
        (json.dumps({"text": SECRET, "category": "self-harm", "group": ""}), '"group"'),
        (json.dumps({"text": SECRET, "category": "self-harm"}), '"group"'),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_and_never_shown(tmp_path: Path, line: str, complaint: str) -> None:
    """The message says where and what, and carries no text."""
    folder = write_corpus(tmp_path, easy_rows())
    with (folder / "dev.jsonl").open("a") as stream:
        stream.write("\n" + line + "\n")
    with pytest.raises(BadConfiguration) as caught:
        Corpus.load(folder)
    assert caught.value.detail.startswith("dev.jsonl, line 50: ")
    assert complaint in caught.value.detail
    assert "neighbour" not in caught.value.detail
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_missing_file_says_which_four_are_needed(tmp_path: Path) -> None:
    """Without one of the splits there is no corpus."""
    folder = write_corpus(tmp_path, easy_rows())
    (folder / "gate.jsonl").unlink()
    with pytest.raises(BadConfiguration, match=r"gate\.jsonl cannot be read.*must_pass\.jsonl"):
        Corpus.load(folder)


@pytest.mark.parametrize("split", ["train", "dev", "gate"])
def test_an_empty_split_is_refused(tmp_path: Path, split: str) -> None:
    """There is nothing to learn from, calibrate on or judge by in an empty file; only must-pass may be empty."""
    rows = easy_rows()
    rows["must_pass"] = []
    Corpus.load(write_corpus(tmp_path, rows))
    rows[split] = []
    with pytest.raises(BadConfiguration, match=f"{split}.jsonl has no rows"):
        Corpus.load(write_corpus(tmp_path, rows))


def test_a_group_belongs_to_one_split(tmp_path: Path) -> None:
    """A scenario in train and in gate would make the gate easier than life."""
    rows = easy_rows()
    rows["gate"][3]["group"] = rows["train"][0]["group"]
    with pytest.raises(BadConfiguration, match=r"gate\.jsonl, line 4: its group stands in train\.jsonl too"):
        Corpus.load(write_corpus(tmp_path, rows))


def test_a_text_belongs_to_one_split(tmp_path: Path) -> None:
    """The same text, however it is spaced, may not stand in two splits."""
    rows = easy_rows()
    rows["must_pass"][0]["text"] = f"  {rows['dev'][0]['text']}\u200b"
    with pytest.raises(BadConfiguration, match=r"must_pass\.jsonl, line 1: the same text stands in dev\.jsonl"):
        Corpus.load(write_corpus(tmp_path, rows))


def test_people_and_variations_join_the_corpus_with_group_and_weight(corpus: Corpus) -> None:
    """A message and its variations share a group, and only the variation weighs less."""
    snapshot = [
        labelled("is it cold in the old house", Category.NOT_HARMFUL, message=41),
        labelled("does the old house get chilly", Category.NOT_HARMFUL, message=41, variation=True),
    ]
    dataset = assemble(corpus, snapshot, variation_weight=0.3)
    assert dataset.train[: len(corpus.train)] != dataset.train
    assert find(dataset.train, snapshot[0].text) == [
        Example(snapshot[0].text, Category.NOT_HARMFUL, "message-41", weight=1.0, message_id=41)
    ]
    assert find(dataset.train, snapshot[1].text) == [
        Example(snapshot[1].text, Category.NOT_HARMFUL, "message-41", weight=0.3, variation=True)
    ]
    assert (dataset.held_out, dataset.duplicates, len(dataset.train)) == (0, 0, len(corpus.train) + 2)
    assert dataset.dev == corpus.dev


def test_at_weight_zero_variations_are_left_out(corpus: Corpus) -> None:
    """A variation without weight is no training row."""
    row = labelled("does the old house get chilly", Category.NOT_HARMFUL, variation=True)
    assert assemble(corpus, [row], variation_weight=0.0).train == corpus.train


@pytest.mark.parametrize("split", ["dev", "gate", "must_pass"])
def test_what_equals_a_held_out_text_is_not_trained_on(corpus: Corpus, split: str) -> None:
    """A message that somebody also typed into the gate set stays out, whatever its case and spacing."""
    text = getattr(corpus, split)[5].text
    snapshot = [labelled(f"  {text.upper()}\u200b", Category.SELF_HARM), labelled("quite another thing", CATEGORIES[1])]
    dataset = assemble(corpus, snapshot, variation_weight=0.3)
    assert dataset.held_out == 1
    assert {e.text for e in dataset.train} - {e.text for e in corpus.train} == {"quite another thing"}


def test_what_nearly_equals_a_held_out_text_is_not_trained_on(tmp_path: Path) -> None:
    """One changed word in a long message does not make it new, a story of the same subject is."""
    rows = easy_rows()
    rows["gate"].append(
        {
            "text": "my landlord kept the whole deposit because of a stain on the carpet that was there on day one",
            "category": "legal-advice",
            "group": "deposit",
        }
    )
    corpus = Corpus.load(write_corpus(tmp_path, rows))
    near = "my landlord kept the whole deposit because of a mark on the carpet that was there on day one!"
    fresh = "after two years the letting agency wants half of our deposit for a carpet stain we never made"
    snapshot = [labelled(near, Category.LEGAL_ADVICE), labelled(fresh, Category.LEGAL_ADVICE, message=2)]
    dataset = assemble(corpus, snapshot, variation_weight=0.3)
    assert dataset.held_out == 1
    assert not find(dataset.train, near)
    assert find(dataset.train, fresh)


def test_a_persons_label_beats_the_corpus_and_the_corpus_a_variation(corpus: Corpus) -> None:
    """Each text is trained on once, under the label of whoever knows best."""
    first, second = corpus.train[24], corpus.train[25]
    snapshot = [
        labelled(first.text.upper(), Category.NOT_HARMFUL, message=5),
        labelled(second.text, Category.NOT_HARMFUL, message=5, variation=True),
    ]
    dataset = assemble(corpus, snapshot, variation_weight=0.3)
    assert dataset.duplicates == 2
    assert len(dataset.train) == len(corpus.train)
    assert not find(dataset.train, first.text)
    assert find(dataset.train, first.text.upper())[0].category is Category.NOT_HARMFUL
    assert find(dataset.train, second.text) == [second]


def test_of_two_peoples_labels_the_later_stands(corpus: Corpus) -> None:
    """A second look at the same text replaces the first."""
    snapshot = [labelled("hm", Category.SELF_HARM), labelled("hm", Category.NOT_HARMFUL, message=2)]
    dataset = assemble(corpus, snapshot, variation_weight=0.3)
    assert [e.category for e in find(dataset.train, "hm")] == [Category.NOT_HARMFUL]


def test_the_digest_is_of_the_rows(corpus: Corpus) -> None:
    """The same rows give the same digest; another label, weight or text gives another."""
    digests = {
        assemble(corpus, [labelled(text, category, variation=variation)], variation_weight=weight).digest
        for text in ("one thing", "other thing")
        for category in (Category.SELF_HARM, Category.NOT_HARMFUL)
        for variation, weight in ((False, 0.3), (True, 0.3), (True, 0.5))
    }
    assert len(digests) == 12
    again = assemble(corpus, [labelled("one thing", Category.SELF_HARM)], variation_weight=0.3)
    assert again.digest in digests
    assert len(again.digest) == 64
