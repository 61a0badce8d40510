"""Pass chats through LiteLLM's guardrails, as its proxy does: a question on each line in, its outcome on a line out.

Runs in LiteLLM's environment and imports nothing of ours. A question has the `params` of a guardrail (its
`litellm_params` in a configuration), the `messages` of a request or the `answer` of an LLM, and the `call`'s id.
"""

import asyncio
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

from fastapi import HTTPException
from litellm.exceptions import GuardrailRaisedException
from litellm.llms.openai.chat.guardrail_translation.handler import OpenAIChatCompletionsHandler
from litellm.proxy.guardrails.guardrail_hooks import generic_guardrail_api, openai
from litellm.types.guardrails import LitellmParams
from litellm.types.utils import Choices, Message, ModelResponse

OUTCOMES = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what the packages print is no outcome

MAKERS = generic_guardrail_api.guardrail_initializer_registry | openai.guardrail_initializer_registry


async def put(question: dict[str, Any]) -> dict[str, Any]:
    """Put one question and return `passed`, `blocked` or `failed` with what the client says."""
    params = question["params"]
    guardrail = MAKERS[params["guardrail"]](LitellmParams(**params), {"guardrail_name": "lifeguard"})
    call = SimpleNamespace(litellm_call_id=question.get("call"), litellm_trace_id=None, model_call_details={})
    chat = OpenAIChatCompletionsHandler()
    try:
        if "answer" in question:
            message = Message(role="assistant", content=question["answer"])
            await chat.process_output_response(ModelResponse(choices=[Choices(message=message)]), guardrail, call)
        else:
            metadata = {"user_api_key_alias": "team-a", "user_api_key_end_user_id": question.get("user")}
            request = {"model": "gpt-4", "messages": question["messages"], "metadata": metadata}
            await chat.process_input_messages(request, guardrail, call)
    except GuardrailRaisedException as error:
        return {"outcome": "blocked", "said": str(error)}
    except HTTPException as error:
        broken = isinstance(error.detail, dict) and "moderation_result" in error.detail
        return {"outcome": "blocked" if broken else "failed", "said": error.detail}
    except Exception as error:  # noqa: BLE001 - whatever it raises, the proxy does not let the call pass
        return {"outcome": "failed", "said": str(error)}
    return {"outcome": "passed", "said": None}


async def main() -> None:
    """Put one question after the other, in one event loop, until the input ends; in between, it sees connections close."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        OUTCOMES.write(json.dumps(await put(json.loads(line))) + "\n")


asyncio.run(main())
