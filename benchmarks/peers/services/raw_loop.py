"""An engine and nothing else: token ids come in, runs a second and CPU time a text go out as JSON.

python raw_loop.py ENGINE MODEL IDS.json SECONDS THREADS BATCH [PRECISION]

ENGINE is `onnxruntime` (as many threads as cores, each calling one session whose runs use one thread) or `openvino`
(its THROUGHPUT hint; PRECISION is f32 or bf16). No tokenizer and no HTTP: the limit for whatever serves the model.
"""

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np

Feed = dict[str, Any]


def feeds(rows: list[list[int]], batch: int) -> list[Feed]:
    """Return the inputs of the runs, in order, padded on the right to the longest of each run."""
    made = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        ids = np.zeros((len(part), max(map(len, part))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(part):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


def onnxruntime_engine(model: str) -> tuple[Callable[[Feed], Any], str]:
    """Return a call that runs one feed."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return (lambda feed: session.run(outputs, feed)), ort.__version__


def timed(call: Callable[[Feed], Any], made: list[Feed], seconds: float, threads: int) -> dict[str, float]:
    """Run the feeds again and again from some threads for a while."""
    done = [0] * threads
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        place = number
        while time.perf_counter() < until:
            feed = made[place % len(made)]
            call(feed)
            done[number] += len(feed["input_ids"])
            place += threads

    return _measured(lambda: _together(work, threads), lambda: sum(done))


def openvino_timed(model: str, made: list[Feed], seconds: float, precision: str) -> dict[str, Any]:
    """Run the feeds through OpenVINO's own queue of requests."""
    import openvino as ov
    from openvino import properties

    core = ov.Core()
    compiled = core.compile_model(
        ov.convert_model(model),
        "CPU",
        {
            properties.hint.performance_mode(): properties.hint.PerformanceMode.THROUGHPUT,
            properties.hint.inference_precision(): getattr(ov.Type, precision),
        },
    )
    queue = ov.AsyncInferQueue(compiled)

    def work(until: float) -> int:
        sent = 0
        while time.perf_counter() < until:
            feed = made[sent % len(made)]
            queue.start_async(feed)
            sent += 1
        queue.wait_all()
        return sent * len(made[0]["input_ids"])

    work(time.perf_counter() + min(1.0, seconds))
    counted = [0]

    def run() -> None:
        counted[0] = work(time.perf_counter() + seconds)

    return {
        **_measured(run, lambda: counted[0]),
        "requests_in_flight": len(queue),
        "precision": str(compiled.get_property(properties.hint.inference_precision())),
        "version": ov.__version__,
    }


def _together(work: Callable[[int], None], threads: int) -> None:
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _measured(run: Callable[[], None], counted: Callable[[], int]) -> dict[str, float]:
    began, cpu_s = time.perf_counter(), time.process_time()
    run()
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    return {"texts_per_s": counted() / took_s, "cpu_ms_per_text": 1000 * cpu_s / counted()}


def main() -> None:
    """Print what one engine does."""
    engine, model, ids, seconds, threads, batch, *precision = sys.argv[1:]
    made = feeds(json.loads(Path(ids).read_text()), int(batch))
    found: dict[str, Any]
    if engine == "onnxruntime":
        call, installed = onnxruntime_engine(model)
        timed(call, made, min(1.0, float(seconds)), int(threads))
        found = {**timed(call, made, float(seconds), int(threads)), "version": installed}
    else:
        found = openvino_timed(model, made, float(seconds), precision[0])
    print(json.dumps({**found, "batch": int(batch), "python": platform.python_version()}))


if __name__ == "__main__":
    main()
