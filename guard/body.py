"""A request's JSON body, straight into the struct its route takes: in time, strictly, and without ever repeating it.

Litestar alone would wait for it for ever, decode it twice, and convert leniently ("store": "false" would be true).
"""

import asyncio
import re
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, InternalServerException

from guard.errors import InputError

BODY_S: Final = 10.0  # a body of 4 MiB comes in time at 4 Mbit/s; who sends a byte now and then holds nothing for long

# what follows these words in msgspec's messages is what the caller sent
_REPEATED = {
    "Invalid enum value": "a value that is not one of those allowed",
    "Object contains unknown field": "a field that this route does not take",
}
_PLACE = re.compile(r" - at (?:`key` in )?`(\$[\w.\[\]]*)`$")


class StrictRequest(Request[None, None, State]):
    """A request whose `json()` is the struct of its handler's `data`."""

    _whole: bytes | None = None

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            InputError: The connection ended before it was whole.
            HTTPException: It did not come in time (408), or is too large (413).
        """
        if self._whole is not None:  # Litestar asks twice
            return self._whole
        try:
            async with asyncio.timeout(BODY_S):
                self._whole = await super().body()
                return self._whole
        except TimeoutError:
            raise HTTPException(status_code=408) from None
        except InternalServerException:  # Litestar's word for it
            raise InputError("The connection ended before the body was whole.") from None

    async def json(self) -> Any:
        """Return the body as the type its handler declares.

        Raises:
            InputError: It is no JSON in UTF-8, or not of that type.
        """
        field = self.route_handler.parsed_data_field
        try:
            return _decoder(field.annotation if field else Any).decode(await self.body())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(_explanation(error)) from None


@cache
def _decoder(target: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(target)


def _explanation(error: Exception) -> str:
    match error:
        case msgspec.ValidationError():
            message = str(error)
            place = _PLACE.search(message)
            reason = next((r for words, r in _REPEATED.items() if message.startswith(words)), None)
            reason = reason or message.partition(" - at ")[0]
            return (
                f"The body does not fit at {place[1] if place else '$'}: {reason}. /docs shows what this route takes."
            )
        case RecursionError():
            return "The body is nested too deeply: /docs shows what this route takes."
        case UnicodeDecodeError():
            return "The body is not UTF-8: encode it so."
        case _:
            return "The body is not JSON, or it was cut short, or it holds half a surrogate pair: send it whole."
