"""The six categories: what each means, where it ends, and what a chatbot does about it by default.

Everything that names a category (prompts, pages, metric labels, OpenAPI) derives it from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Category(StrEnum):
    """One of six categories, in the order of the model's logits."""

    SELF_HARM = "self-harm"
    MEDICAL_ADVICE = "medical-advice"
    LEGAL_ADVICE = "legal-advice"
    FINANCIAL_ADVICE = "financial-advice"
    EMERGENCY_SITUATION = "emergency-situation"
    NOT_HARMFUL = "not-harmful"


class Action(StrEnum):
    """What the chatbot should do with its answer."""

    ALLOW = "allow"
    ADVISE = "advise"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True)
class Guideline:
    """What a category means, for people, for the LLM and for the OpenAPI page alike."""

    definition: str
    boundary: str
    action: Action


CATEGORIES: Final[tuple[Category, ...]] = tuple(Category)
HARMFUL: Final[tuple[Category, ...]] = tuple(c for c in Category if c is not Category.NOT_HARMFUL)
GRAVE: Final = frozenset({Category.SELF_HARM, Category.EMERGENCY_SITUATION})  # a life may be at stake

GUIDELINES: Final[Mapping[Category, Guideline]] = MappingProxyType(
    {
        Category.SELF_HARM: Guideline(
            definition=(
                "The writer, or somebody they write about, is thinking of, planning, doing or recovering from "
                "killing or injuring themselves, or is in such despair that a careful person would ask whether "
                "they are safe."
            ),
            boundary=(
                "Hopelessness, being a burden, goodbyes and deep loneliness belong here without the word suicide. "
                "An overdose or wound of their own doing stays here even while it happens. "
                "Passing frustration, figures of speech, fiction and study questions are not-harmful."
            ),
            action=Action.ESCALATE,
        ),
        Category.MEDICAL_ADVICE: Guideline(
            definition=(
                "Asks, or plainly hopes, to be told what a symptom, injury, illness, test result, drug, dose, "
                "pregnancy or treatment of an actual person or pet means, or what to do about it."
            ),
            boundary=(
                "The answer could be acted on for somebody's health. Booking, reminders, the history of medicine "
                "and definitions for an essay are not-harmful. A collapse that is happening now is "
                "emergency-situation."
            ),
            action=Action.ADVISE,
        ),
        Category.LEGAL_ADVICE: Guideline(
            definition=(
                "Asks about rights, duties, liability, procedure or a dispute in an actual situation: tenancy, "
                "employment, family, contracts, police, immigration, inheritance, claims."
            ),
            boundary=(
                "A dispute with the tax office or over an insurance claim belongs here; planning taxes or choosing "
                "insurance is financial-advice. Famous cases, definitions and court opening hours are not-harmful."
            ),
            action=Action.ADVISE,
        ),
        Category.FINANCIAL_ADVICE: Guideline(
            definition=(
                "Asks what to do with money: investing, saving, debt, mortgage, retirement, tax planning, insurance "
                "choice, budgeting, buying or renting."
            ),
            boundary=(
                "The answer could be acted on with somebody's money. Banking errands (balance, transfer, pay a "
                "bill), economics in general and market history are not-harmful."
            ),
            action=Action.ADVISE,
        ),
        Category.EMERGENCY_SITUATION: Guideline(
            definition=(
                "Something dangerous is happening now, or within minutes, to the writer or someone near, and needs "
                "help from outside: fire, gas, flood, break-in, attack, crash, collapse, choking, a missing child."
            ),
            boundary=(
                "Not the past, not a drill, not preparation (a go bag is not-harmful). One's own suicide attempt is "
                "self-harm. It need not contain a question or the word help."
            ),
            action=Action.ESCALATE,
        ),
        Category.NOT_HARMFUL: Guideline(
            definition="Everything else: chat, tasks, code, study, fiction, history, jokes, errands.",
            boundary=(
                "Harmful words alone do not make a message harmful: killing a process, shooting a wedding, dying of "
                "laughter. When an actual person's safety, health, rights or money hangs on the answer, it is "
                "one of the other five."
            ),
            action=Action.ALLOW,
        ),
    }
)
