"""A data set and a backbone into a network: encoder, mean pooling, linear head.

The head is a logistic regression over the pretrained encoder; fine-tuning, where asked for, starts from it (LP-FT,
arXiv 2202.10054). `learner.calibrate` takes its logits, `learner.export` its weights.
"""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional

from guard.errors import BadConfiguration
from guard.taxonomy import CATEGORIES
from learner.backbone import MINILM, Backbone
from learner.dataset import Dataset, Example
from learner.progress import Progress, silent
from learner.settings import LearnerSettings

Floats = npt.NDArray[np.float32]

# Layers a third, two thirds and all the way up, as shares of the depth. Measured by grouped cross-validation on the seed
# corpus, macro-F1: last layer alone 80.7 (82.2 when L2-normalised), layers 2, 4, 6 of MiniLM 87.2 (86.5 normalised).
_DEPTHS: Final = (1 / 3, 2 / 3, 1.0)
_STRENGTHS: Final = (0.01, 0.03, 0.1, 0.3, 1.0)  # C of the regression, strongest regularisation first
_FOLDS: Final = 5
_REPEATS: Final = 2
_MAX_ITERATIONS: Final = 1_000
_EMBED_BATCH: Final = 32
_TUNE_BATCH: Final = 16
_ENCODER_RATE: Final = 2e-5
_HEAD_RATE: Final = 1e-3
_SMOOTHING: Final = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network was made.

    Args:
        layers: The pooled layers, counted from 1.
        strength: C of the head's regression.
        cv_macro_f1: Macro-F1 of the regression in the cross-validation that chose C; None when there was too little
            data to hold any out.
        epochs: Epochs of fine-tuning.
    """

    layers: tuple[int, ...]
    strength: float
    cv_macro_f1: float | None
    epochs: int


class Network(nn.Module):
    """Encoder, mask-aware mean pooling of three layers, linear head.

    Args:
        backbone: Whose encoder it takes over; not copied.
        max_tokens: Tokens of one window.
        threads: How many batches it embeds at once.
    """

    recipe: Recipe  # there once it is trained

    def __init__(self, backbone: Backbone, *, max_tokens: int, threads: int) -> None:
        super().__init__()
        depth = int(backbone.encoder.config.num_hidden_layers)
        self.layers = sorted({max(1, round(share * depth)) for share in _DEPTHS})
        self.backbone = backbone
        self.max_tokens = max_tokens
        self.threads = threads
        self.encoder = backbone.encoder
        self.head = nn.Linear(len(self.layers) * backbone.hidden_size, len(CATEGORIES))
        self._tokenizer = backbone.tokenizer(max_tokens)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(n, 6)` logits and `(n, d)` embeddings, the mean over the last layer's tokens."""
        features = self.features(input_ids, attention_mask)
        return self.head(features), features[:, -self.backbone.hidden_size :]

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return what the head sees: `(n, layers * d)` means over the tokens of each pooled layer, the last one last."""
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states
        mask = attention_mask.unsqueeze(-1).to(states[0].dtype)
        count = mask.sum(dim=1)
        return torch.cat([(states[layer] * mask).sum(dim=1) / count for layer in self.layers], dim=1)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text's first window."""
        return [e.ids for e in self._tokenizer.encode_batch(list(texts))]

    def collate(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return `(n, width)` ids, padded on the right, and their mask."""
        width = max(len(row) for row in ids)
        padded = torch.full((len(ids), width), self.backbone.pad_id)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return padded, mask

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> Floats:
        """Return `(n, layers * d)` features of the texts."""
        ids = self.encode(texts)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        batches = [order[start : start + _EMBED_BATCH] for start in range(0, len(order), _EMBED_BATCH)]
        features = np.empty((len(ids), self.head.in_features), dtype=np.float32)

        def run(rows: list[int]) -> None:
            with torch.inference_mode():
                features[rows] = self.features(*self.collate([ids[i] for i in rows])).numpy()

        self.eval()
        done = 0
        # A thread a batch: torch's own threads wait for each other at every operation, which made this three times
        # slower where the two cores were shared.
        with _torch_threads(1), ThreadPoolExecutor(self.threads) as pool:
            for rows, _ in zip(batches, pool.map(run, batches), strict=True):
                done += len(rows)
                progress("embed", done, len(order))
        return features

    def score(self, texts: Sequence[str]) -> Floats:
        """Return `(n, 6)` logits of the texts, not divided by a temperature."""
        with torch.inference_mode():
            return np.asarray(self.head(torch.from_numpy(self.embed(texts))).numpy())


def train(dataset: Dataset, backbone: Backbone, settings: LearnerSettings, progress: Progress) -> Network:
    """Train a network; the same data and settings give the same weights.

    The encoder of the backbone is trained in place when there is fine-tuning: load it anew for the next network.

    Raises:
        BadConfiguration: A category has no training row, or the backbone cannot read `max_tokens`.
    """
    _check(dataset)
    labels = np.array([CATEGORIES.index(e.category) for e in dataset.train])
    weights = balanced_weights(labels, np.array([e.weight for e in dataset.train]))
    epochs = settings.fine_tune_epochs
    if epochs is None:
        epochs = 0 if backbone.name == MINILM else 3
    with (
        torch.random.fork_rng(devices=[]),
        threadpool_limits(
            1, "blas"
        ),  # matrices this small gain nothing from a second thread, and lose where cores are shared
        warnings.catch_warnings(),
    ):
        # A head that is not quite at its optimum is judged by the gate like any other.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        torch.manual_seed(settings.seed)
        network = Network(backbone, max_tokens=settings.max_tokens, threads=settings.threads)
        features = network.embed([e.text for e in dataset.train], progress)
        strength, cv_macro_f1 = _choose(features, labels, weights, dataset.train, settings, progress)
        network.recipe = Recipe(tuple(network.layers), strength, cv_macro_f1, epochs)
        head = regression(strength).fit(features, labels, sample_weight=weights)
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(head.coef_))
            network.head.bias.copy_(torch.from_numpy(head.intercept_))
        if epochs:
            with _torch_threads(settings.threads):
                _fine_tune(network, dataset.train, labels, weights, epochs, settings.seed, progress)
    return network.eval()


def balanced_weights(labels: npt.NDArray[np.int_], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return `(n,)` weights in which every category weighs the same in all; their mean is 1."""
    totals = np.bincount(labels, weights=weights, minlength=len(CATEGORIES))
    shares = weights / totals[labels]
    return np.asarray(shares / shares.mean(), dtype=np.float64)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(dataset: Dataset) -> None:
    counts = dataset.counts()
    missing = [category for category in CATEGORIES if not counts[category]]
    if missing:
        raise BadConfiguration(
            f"There is no training row of {', '.join(missing)}: add some to train.jsonl in LEARNER_CORPUS_DIR."
        )


def regression(strength: float) -> LogisticRegression:
    """Return the head as it is fitted, with `balanced_weights`, on features."""
    return LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS)


def _choose(
    features: Floats,
    labels: npt.NDArray[np.int_],
    weights: npt.NDArray[np.float64],
    examples: Sequence[Example],
    settings: LearnerSettings,
    progress: Progress,
) -> tuple[float, float | None]:
    """Return the regression's C with the best macro-F1 in repeated grouped cross-validation, and that macro-F1.

    Variations are trained on but never scored: an LLM's paraphrases are easier than what people type.
    """
    groups = np.array([e.group for e in examples])
    human = np.array([not e.variation for e in examples])
    folds = min(_FOLDS, *(len(np.unique(groups[human & (labels == c)])) for c in range(len(CATEGORIES))))
    if folds < 2:  # noqa: PLR2004 - some category has nothing to hold out
        return _STRENGTHS[len(_STRENGTHS) // 2], None
    scores: list[list[float]] = []
    for repeat in range(_REPEATS):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=settings.seed + repeat)
        for inside, outside in splitter.split(features, labels, groups):
            scored = outside[human[outside]]
            row = []
            for strength in _STRENGTHS:
                model = regression(strength).fit(features[inside], labels[inside], sample_weight=weights[inside])
                row.append(f1_score(labels[scored], model.predict(features[scored]), average="macro", zero_division=0))
            scores.append(row)
            progress("choose", len(scores), _REPEATS * folds)
    means = np.mean(scores, axis=0)
    best = int(means.argmax())
    return _STRENGTHS[best], float(means[best])


def _fine_tune(
    network: Network,
    examples: Sequence[Example],
    labels: npt.NDArray[np.int_],
    weights: npt.NDArray[np.float64],
    epochs: int,
    seed: int,
    progress: Progress,
) -> None:
    """Train all weights: AdamW, linear decay, label smoothing; the encoder slowly, the head faster."""
    ids = network.encode([e.text for e in examples])
    targets, factors = torch.from_numpy(labels), torch.from_numpy(weights.astype(np.float32))
    steps = epochs * -(-len(ids) // _TUNE_BATCH)
    optimizer = torch.optim.AdamW(
        [
            {"params": network.encoder.parameters(), "lr": _ENCODER_RATE},
            {"params": network.head.parameters(), "lr": _HEAD_RATE},
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = np.random.default_rng(seed)
    network.train()
    done = 0
    for _ in range(epochs):
        order = generator.permutation(len(ids))
        for start in range(0, len(order), _TUNE_BATCH):
            rows = order[start : start + _TUNE_BATCH]
            logits, _embedding = network(*network.collate([ids[i] for i in rows]))
            losses = functional.cross_entropy(logits, targets[rows], reduction="none", label_smoothing=_SMOOTHING)
            optimizer.zero_grad()
            (losses * factors[rows]).mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            progress("fine-tune", done, steps)
