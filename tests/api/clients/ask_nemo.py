"""Pass messages through NeMo Guardrails' input rails: a question on each line in, its outcome on a line out.

Runs in NeMo's environment and imports nothing of ours. A question has a `config` (the YAML of a configuration) and the
`text` of a user's message.
"""

import asyncio
import json
import os
import sys
from typing import Any

from nemoguardrails import LLMRails, RailsConfig

OUTCOMES = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what the packages print is no outcome


async def put(question: dict[str, Any]) -> dict[str, Any]:
    """Put one question and return the status that the rails came to, and what they would answer."""
    rails = LLMRails(RailsConfig.from_content(yaml_content=question["config"]))
    result = await rails.check_async([{"role": "user", "content": question["text"]}])
    return {"status": str(result.status.value), "content": result.content}


async def main() -> None:
    """Put one question after the other, in one event loop, until the input ends."""
    for line in sys.stdin:
        OUTCOMES.write(json.dumps(await put(json.loads(line))) + "\n")


asyncio.run(main())
