"""A recipe and a pretrained network into a trained one: the head first, then all of it (LP-FT, arXiv 2202.10054)."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from learner.head import Doubles, Floats, Labels, Recipe, Rows, fit_head, one_blas_thread
from learner.network import Network, torch_threads
from learner.progress import Progress

# Chosen on one grouped split of the seed corpus (765 rows held out; macro-F1 / log-loss; the head alone 86.0 / .357):
# 5e-5 in batches of 16 88.3 / .329, 1.5e-4 88.8 / .316, 2e-4 in batches of 32 88.8 / .306 in half the time.
_BATCH: Final = 32
_ENCODER_RATE: Final = 2e-4  # of the top layer of an encoder 384 wide,
_WIDTH: Final = 384  # falling with the square of the width: 5e-5 for those of 768
_RATE_DECAY: Final = 0.9  # from each layer to the one below (arXiv 1801.06146, section 3.2)
_HEAD_RATE: Final = 1e-3
_WARM_UP: Final = 0.06  # share of the steps
_WEIGHT_DECAY: Final = 0.01
_SMOOTHING: Final = 0.05
_MAX_TOKENS: Final = 128  # 99 of 100 chat messages have fewer; four times as many cost as much as all of these
_BUCKET: Final = 20  # batches sorted by length among themselves: less padding, still in random order
# Weights end three quarters of the way (WiSE-FT, arXiv 2109.01903): log-loss .316 became .308, .322 became .308.
_WAY: Final = 0.75
_BFLOAT16: Final = torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - no public question; a third faster where true
_SPEED: Final = 2.5e10  # tokens times parameters a second, with 3,060 rows on two busy cores


def fit(
    network: Network,
    texts: Sequence[str],
    features: Floats,
    rows: Rows,
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress,
) -> None:
    """Train a network in place as a recipe says. The same seed gives the same weights.

    Args:
        network: With its pretrained encoder.
        texts: `n` training texts.
        features: `(n, layers * d)` of the texts.
        rows: Their labels, weights and groups.
        recipe: What to do.
        seed: Of order and dropout in fine-tuning.
        progress: Told of every step.
    """
    with one_blas_thread():
        head = fit_head(features, rows, recipe)
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.coef_))
        network.head.bias.copy_(torch.from_numpy(head.intercept_))
    if recipe.epochs:
        weights = rows.balanced(recipe)
        kept = np.flatnonzero(weights)
        _tune(
            network,
            [texts[int(i)] for i in kept],
            rows.labels[kept],
            weights[kept],
            epochs=recipe.epochs,
            seed=seed,
            progress=progress,
        )


def _tune(
    network: Network,
    texts: Sequence[str],
    labels: Labels,
    weights: Doubles,
    *,
    epochs: int,
    seed: int,
    progress: Progress,
) -> None:
    """Train all weights in place; the lower a layer, the more slowly. `weights` have mean 1."""
    ids = [row[:_MAX_TOKENS] for row in network.encode(texts)]
    targets, factors = torch.from_numpy(labels), torch.from_numpy(weights.astype(np.float32))
    steps = epochs * -(-len(ids) // _BATCH)
    optimizer = torch.optim.AdamW(_parameters(network), weight_decay=_WEIGHT_DECAY)
    warm_up = max(1.0, _WARM_UP * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * (1 - step / steps)
    )
    start = {name: value.clone() for name, value in network.state_dict().items()}
    generator = np.random.default_rng(seed)
    done = 0
    with torch.random.fork_rng(devices=[]), torch_threads(network.threads):
        torch.manual_seed(seed)
        network.train()
        for _ in range(epochs):
            for rows in _batches(ids, generator):
                with torch.autocast("cpu", torch.bfloat16, enabled=_BFLOAT16):
                    logits, _embedding = network(*network.collate([ids[i] for i in rows]))
                losses = functional.cross_entropy(
                    logits.float(), targets[rows], reduction="none", label_smoothing=_SMOOTHING
                )
                optimizer.zero_grad()
                (losses * factors[rows]).mean().backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                done += 1
                progress("fine-tune", done, steps)
    network.eval()
    end = network.state_dict()
    network.load_state_dict(
        {
            name: torch.lerp(start[name], value, _WAY) if value.is_floating_point() else value
            for name, value in end.items()
        }
    )


def cost(network: Network, texts: Sequence[str], *, epochs: int) -> float:
    """Return about how many seconds `tune` takes on two cores of 2023, whatever the machine it is asked on.

    The tournament plans by it: by a clock, the same data would give one model today and another one tomorrow.
    """
    tokens = sum(min(len(row), _MAX_TOKENS) for row in network.encode(texts))
    size = sum(p.numel() for name, p in network.encoder.named_parameters() if "embeddings" not in name)
    return epochs * tokens * size / _SPEED


def _batches(ids: Sequence[Sequence[int]], generator: np.random.Generator) -> list[list[int]]:
    order = [int(i) for i in generator.permutation(len(ids))]
    batches = []
    for first in range(0, len(order), _BUCKET * _BATCH):
        bucket = sorted(order[first : first + _BUCKET * _BATCH], key=lambda i: len(ids[i]))
        batches += [bucket[start : start + _BATCH] for start in range(0, len(bucket), _BATCH)]
    return [batches[int(i)] for i in generator.permutation(len(batches))]


def _parameters(network: Network) -> list[dict[str, object]]:
    """Return the parameter groups with their rates: head, layers from the top, embeddings."""
    top = _ENCODER_RATE * min(1.0, (_WIDTH / network.backbone.hidden_size) ** 2)
    layers = next(m for m in network.encoder.modules() if isinstance(m, nn.ModuleList))
    below = [p for p in network.encoder.parameters() if not any(p is q for q in layers.parameters())]
    groups: list[dict[str, object]] = [{"params": list(network.head.parameters()), "lr": _HEAD_RATE}]
    groups += [
        {"params": list(layer.parameters()), "lr": top * _RATE_DECAY**depth}
        for depth, layer in enumerate(reversed(layers))
    ]
    return [*groups, {"params": below, "lr": top * _RATE_DECAY ** len(layers)}]
