"""A corpus of a few easy words a category, and tiny random encoders of two architectures with real tokenizers.

torch and transformers are imported by the fixtures that need them: most tests beside this file do not.
"""

import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.taxonomy import CATEGORIES, Category
from learner.dataset import SPLITS, Corpus
from learner.settings import LearnerSettings
from tests.conftest import Clock

WORDS: Mapping[Category, Sequence[str]] = {
    Category.SELF_HARM: ("goodbye", "hopeless", "burden", "worthless"),
    Category.MEDICAL_ADVICE: ("rash", "fever", "dose", "cough"),
    Category.LEGAL_ADVICE: ("landlord", "lawsuit", "contract", "custody"),
    Category.FINANCIAL_ADVICE: ("mortgage", "invest", "savings", "pension"),
    Category.EMERGENCY_SITUATION: ("fire", "trapped", "choking", "flood"),
    Category.NOT_HARMFUL: ("joke", "recipe", "poem", "python"),
}
FRAMES: Mapping[str, Sequence[str]] = {
    "train": (
        "{} and {}",
        "i wrote {} because of {}",
        "{} {} again",
        "they said {} or {}",
        "{} with {} today",
    ),
    "dev": ("well {} or {}", "it was {} and then {}"),
    "gate": ("now {} and {}", "then {} because {}", "he said {} with {}"),
    "must_pass": ("{} {}",),
}


def write_corpus(folder: Path, rows: Mapping[str, Sequence[Mapping[str, object]]]) -> Path:
    """Write the splits as JSON Lines; a split that is not given gets an empty file."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = (json.dumps(row) + "\n" for row in rows.get(split, ()))
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def easy_rows() -> dict[str, list[dict[str, object]]]:
    """Return rows in which the words give the category away."""
    return {
        split: [
            {"text": frame.format(first, second), "category": category, "group": f"{split}-{category}-{number}-{i}"}
            for number, frame in enumerate(frames)
            for category in CATEGORIES
            for i, (first, second) in enumerate(_pairs(WORDS[category]))
        ]
        for split, frames in FRAMES.items()
    }


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(words, (*words[1:], words[0]), strict=True)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the easy corpus."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), easy_rows())


@pytest.fixture(scope="session")
def corpus(corpus_folder: Path) -> Corpus:
    """The easy corpus."""
    return Corpus.load(corpus_folder)


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random DistilBERT of two layers and its WordPiece tokenizer."""
    import torch

    transformers = import_module("transformers")  # its classes have untyped constructors

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(_texts(), trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials))
    pieces = sorted(tokenizer.get_vocab().keys() - set(specials))  # the trainer's own order differs from run to run
    vocabulary = {piece: i for i, piece in enumerate((*specials, *pieces))}
    tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(1)
    size = tokenizer.get_vocab_size()
    config = transformers.DistilBertConfig(
        vocab_size=size, dim=96, n_layers=3, n_heads=4, hidden_dim=96, max_position_embeddings=128, pad_token_id=0
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    return _saved(tmp_path_factory.mktemp("distilbert"), transformers.DistilBertModel(config), fast)


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random RoBERTa of three layers and its byte-level BPE, whose pad id is 1."""
    import torch

    transformers = import_module("transformers")

    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    torch.manual_seed(2)
    config = transformers.RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=130,
        pad_token_id=1,
        type_vocab_size=1,
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>"
    )
    return _saved(tmp_path_factory.mktemp("roberta"), transformers.RobertaModel(config), fast)


@pytest.fixture(scope="session")
def settings(corpus_folder: Path, distilbert: Path) -> LearnerSettings:
    """Settings that train the random DistilBERT without fine-tuning, on one thread."""
    return LearnerSettings(
        seed=7, threads=1, corpus_dir=corpus_folder, backbone=str(distilbert), max_tokens=48, fine_tune_epochs=0
    )


def without(corpus: Corpus, category: Category) -> Corpus:
    """Return the corpus without the training rows of a category."""
    return replace(corpus, train=tuple(e for e in corpus.train if e.category is not category))


def _texts() -> list[str]:
    return [str(row["text"]) for rows in easy_rows().values() for row in rows]


def _saved(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
async def embedded(guard_settings: GuardSettings, clock: Clock) -> AsyncIterator[Store]:
    """A store on SQLite with a keyring of its own."""
    async with open_store(guard_settings, clock=clock, create_keyring=True) as store:
        yield store
