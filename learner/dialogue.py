"""The two questions a stage asks of an LLM: texts from a writer, and a blind judge's verdicts on them.

Prompts come from `prompts` and go out through `llm`; strings and categories come back, what is missing is counted.
"""

import random
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Final

from guard.taxonomy import CATEGORIES, Category
from learner.llm import LLM
from learner.prompts import Prompt, judge_prompt, read_variations, read_verdicts
from learner.settings import LearnerSettings
from learner.verify import Fate, refuses

_WRITER_TEMPERATURE: Final = 1.0
_JUDGE_TEMPERATURE: Final = 0.0
_NAME_CHARS: Final = 64  # the width of the column that names the LLM


class Dialogue:
    """One LLM as writer and, by its own or another model, as judge."""

    def __init__(self, llm: LLM, settings: LearnerSettings) -> None:
        self._llm = llm
        self._writer = settings.llm_model
        self._judge = settings.judge_model or settings.llm_model

    @property
    def writer(self) -> str:
        """The writing model, as it is stored with what it wrote."""
        return self._writer[:_NAME_CHARS]

    @property
    def ended(self) -> str | None:
        """Why no further question will be asked, if so."""
        return self._llm.ended

    async def texts(self, prompt: Prompt, *, most: int, fates: Counter[str]) -> list[str]:
        """Return the texts an answer holds, up to `most`; what it does not hold or holds too much is counted."""
        answer = await self._llm.ask(prompt, model=self._writer, temperature=_WRITER_TEMPERATURE)
        if answer is None or answer.refused:
            fates[Fate.FAILED if answer is None else Fate.REFUSED] += 1
            return []
        raws, malformed = read_variations(answer.content)
        if not raws and refuses(answer.content):
            fates[Fate.REFUSED] += 1
            return []
        fates[Fate.MALFORMED] += max(malformed, int(not raws))
        fates[Fate.SURPLUS] += max(0, len(raws) - most)
        return raws[:most]

    async def verdicts(self, texts: Sequence[str], *, rng: random.Random) -> list[Category | None]:
        """Return the judge's category for each text; None where it gave no usable verdict.

        It sees the texts and the definitions, shuffled by `rng` and without their names, never a label.
        """
        if not texts:
            return []
        options = list(CATEGORIES)
        rng.shuffle(options)
        prompt = judge_prompt(texts, options, nonce=secrets.token_hex(8))
        answer = await self._llm.ask(prompt, model=self._judge, temperature=_JUDGE_TEMPERATURE)
        content = "" if answer is None or answer.refused else answer.content
        return read_verdicts(content, count=len(texts), options=options)
