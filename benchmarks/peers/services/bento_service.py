"""A transformers pipeline as a BentoML service with adaptive batching.

MODEL=DIR WORKERS=1 bentoml serve bento_service:Classifier
"""

import os
from typing import Any

import bentoml


@bentoml.service(workers=int(os.environ.get("WORKERS", "1")), traffic={"timeout": 60})
class Classifier:
    """Judges texts, those of several requests at once."""

    def __init__(self) -> None:
        from transformers import pipeline

        self._pipeline = pipeline(
            "text-classification", model=os.environ["MODEL"], trust_remote_code=True, device="cpu"
        )

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def classify(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Return all labels of each text with their scores."""
        import torch

        with torch.inference_mode():
            found: Any = self._pipeline(texts, truncation=True, top_k=None, batch_size=32)
        return list(found)
