"""The usual home-made guard: a transformers pipeline behind FastAPI, a lock around it (transformers #47085).

MODEL=DIR DTYPE=float32 uvicorn --app-dir FOLDER pipeline_server:app
"""

import os
from threading import Lock
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

app = FastAPI()
_lock = Lock()
_pipeline = pipeline(
    "text-classification",
    model=os.environ["MODEL"],
    trust_remote_code=True,
    device="cpu",
    dtype=getattr(torch, os.environ.get("DTYPE", "float32")),
)


class Texts(BaseModel):
    """What is to be judged."""

    texts: list[str]


@app.post("/classify")
def classify(body: Texts) -> list[list[dict[str, Any]]]:
    """Return all labels of each text with their scores."""
    with _lock, torch.inference_mode():
        found: Any = _pipeline(body.texts, truncation=True, top_k=None, batch_size=32)
    return list(found)
