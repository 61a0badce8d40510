"""A client of a guard: texts in, answers out, and an answer that says so where there was no verdict.

    with Client("http://127.0.0.1:8000", on_failure="block") as guard:
        answer = guard.classify("my landlord wont give my deposit back")
        if answer.judged:
            print(answer.category, answer.action)

`Client` may be shared by threads, `AsyncClient` by the tasks of one event loop. Texts are in no log, error or repr.
"""

from guard.client.answers import Answer, Judged, Reason, Unjudged
from guard.client.asynchronous import AsyncClient
from guard.client.blocking import Client
from guard.client.retries import Retries
from guard.errors import NotJudged

__all__ = ["Answer", "AsyncClient", "Client", "Judged", "NotJudged", "Reason", "Retries", "Unjudged"]
