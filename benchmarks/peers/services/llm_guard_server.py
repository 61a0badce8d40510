"""llm-guard's `Toxicity` scanner on a model of one's own, behind FastAPI.

MODEL=DIR UNSAFE=label,label UNPADDED=1 ORT_THREADS=1 uvicorn --app-dir FOLDER llm_guard_server:app
"""

import os
from typing import Any

import onnxruntime as ort
from fastapi import FastAPI
from llm_guard.input_scanners import toxicity
from llm_guard.model import Model
from pydantic import BaseModel

app = FastAPI()
toxicity._toxic_labels = os.environ["UNSAFE"].split(",")  # noqa: SLF001 - hard-coded there: those of its own model
_pipeline: dict[str, Any] = {"top_k": None, "function_to_apply": "softmax", "max_length": 512, "truncation": True}
_pipeline["padding"] = "max_length" if os.environ.get("UNPADDED") != "1" else False
_options = ort.SessionOptions()
_options.intra_op_num_threads = int(os.environ.get("ORT_THREADS", "0"))
_scanner = toxicity.Toxicity(
    model=Model(
        path=os.environ["MODEL"],
        onnx_path=os.environ["MODEL"],
        onnx_filename="model.onnx",
        kwargs={"local_files_only": True, "session_options": _options},
        pipeline_kwargs=_pipeline,
    ),
    threshold=0.5,
    use_onnx=True,
)


class Texts(BaseModel):
    """What is to be judged."""

    texts: list[str]


@app.post("/scan")
def scan(body: Texts) -> list[dict[str, Any]]:
    """Return whether each text is valid, and its risk."""
    answers = []
    for text in body.texts:
        _, valid, risk = _scanner.scan(text)
        answers.append({"valid": bool(valid), "risk": float(risk)})
    return answers
