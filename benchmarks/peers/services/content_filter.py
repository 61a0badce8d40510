"""LiteLLM's content filter with its keyword lists for our categories; it has none for emergencies.

python content_filter.py TEXTS.json: a JSON list of texts comes in, a list of whether each is blocked goes out.
"""

import asyncio
import json
import sys
from pathlib import Path

from litellm.proxy.guardrails.guardrail_hooks.litellm_content_filter.content_filter import ContentFilterGuardrail

LISTS = ("harmful_self_harm", "denied_medical_advice", "denied_legal_advice", "denied_financial_advice")


async def blocked(texts: list[str]) -> list[bool]:
    """Return what the filter blocks, at its default severity."""
    categories = [{"category": name, "enabled": True, "action": "BLOCK"} for name in LISTS]
    guardrail = ContentFilterGuardrail(guardrail_name="lists", categories=categories)
    found = []
    for text in texts:
        try:
            await guardrail.apply_guardrail(inputs={"texts": [text]}, request_data={}, input_type="request")
        except Exception as error:
            if getattr(error, "status_code", None) not in {400, 403}:
                raise
            found.append(True)
        else:
            found.append(False)
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(blocked(json.loads(Path(sys.argv[1]).read_text())))))
