"""Reviewers at the desk over HTTP: what the page's htmx sends goes out, HTML comes in.

`crashes` kills the guard beneath them, `benchmarks.desk` measures how long they wait.
"""

import re
from typing import Final, Self

import httpx

PASSWORD: Final = "correct horse battery"
_FIELDS: Final = re.compile(r'<input type="hidden" name="(csrf|pick_id|key)" value="([^"]*)">')
_TIMEOUT_S: Final = 30.0


class DeskReviewer:
    """A reviewer with a session of their own and the message before them.

    Args:
        base_url: The guard.
        name: Of an account.
        password: Its password.
    """

    def __init__(self, base_url: str, name: str, password: str = PASSWORD) -> None:
        self.name = name
        self._password = password
        self._page: dict[str, str] = {}
        self._client = httpx.AsyncClient(base_url=base_url, timeout=_TIMEOUT_S, headers={"origin": base_url})

    async def __aenter__(self) -> Self:
        """Log in and look at the first message."""
        answer = await self._client.post(
            "/review/login", data={"name": self.name, "password": self._password}, headers={"accept": "text/html"}
        )
        assert answer.status_code == httpx.codes.SEE_OTHER, answer.text
        self._client.headers.update(
            {
                "accept": "*/*",
                "accept-language": "en-US,en;q=0.9",
                "hx-current-url": f"{self._client.base_url}/review/label",
                "hx-request": "true",
                "hx-target": "desk",
                "referer": f"{self._client.base_url}/review/label",
                "sec-fetch-dest": "empty",
                "sec-fetch-mode": "cors",
                "sec-fetch-site": "same-origin",
            }
        )
        await self.look()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @property
    def form(self) -> dict[str, str]:
        """The fields of the form before them; without a message it has no `pick_id`."""
        return dict(self._page)

    async def look(self) -> None:
        """Load the page anew, as a browser does."""
        answer = await self._client.get(
            "/review/label", headers={"accept": "text/html,application/xhtml+xml", "hx-request": "false"}
        )
        answer.raise_for_status()
        self._read(answer)

    async def label(self, category: str) -> httpx.Response:
        """Press a category's key, and have the next message before them unless the guard refuses."""
        return await self.send({**self._page, "category": category})

    async def send(self, form: dict[str, str]) -> httpx.Response:
        """Send a form, perhaps one that was sent before."""
        answer = await self._client.post("/review/label", data=form)
        if answer.headers.get("content-type", "").startswith("text/html"):
            self._read(answer)
        return answer

    def _read(self, answer: httpx.Response) -> None:
        found = dict(_FIELDS.findall(answer.text))
        if found:  # a problem page has none: the one before stays on the screen
            self._page = found
