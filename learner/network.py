"""The network that is trained and exported: encoder, mask-aware mean pooling of three layers, linear head.

A backbone comes in; features, logits and embeddings of texts go out. `learner.train` sets its weights.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from guard.taxonomy import CATEGORIES
from learner.backbone import Backbone
from learner.progress import Progress, silent

Floats = npt.NDArray[np.float32]

# Layers a third, two thirds and all the way up, as shares of the depth. Measured by grouped cross-validation on the seed
# corpus, macro-F1: last layer alone 80.7, layers 2, 4, 6 of MiniLM 87.2. Each is scaled to length 1, so that none drowns
# the others: no change there, but +0.5 to +1 point with the few hundred rows of the paper's data (test half not used).
_DEPTHS: Final = (1 / 3, 2 / 3, 1.0)
_EMBED_BATCH: Final = 32


class Network(nn.Module):
    """Encoder, mask-aware mean pooling of three layers, linear head.

    Args:
        backbone: Whose encoder it takes over; not copied.
        max_tokens: Tokens of one window.
        threads: How many batches it embeds at once.
    """

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
        pooled = self._pooled(input_ids, attention_mask)
        return self.head(_unit(pooled)), pooled[-1]

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return what the head sees: `(n, layers * d)`, the pooled layers, each of length 1, the last one last."""
        return _unit(self._pooled(input_ids, attention_mask))

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
        with torch_threads(1), ThreadPoolExecutor(self.threads) as pool:
            for rows, _ in zip(batches, pool.map(run, batches), strict=True):
                done += len(rows)
                progress("embed", done, len(order))
        return features

    def score(self, texts: Sequence[str]) -> Floats:
        """Return `(n, 6)` logits of the texts, not divided by a temperature."""
        with torch.inference_mode():
            return np.asarray(self.head(torch.from_numpy(self.embed(texts))).numpy())

    def _pooled(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states
        mask = attention_mask.unsqueeze(-1).to(states[0].dtype)
        count = mask.sum(dim=1)
        return [(states[layer] * mask).sum(dim=1) / count for layer in self.layers]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch's operations so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _unit(pooled: Sequence[Tensor]) -> Tensor:
    return torch.cat([functional.normalize(layer, dim=1) for layer in pooled], dim=1)
