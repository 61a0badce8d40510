"""What the LLM is asked, and how its answers are read."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.taxonomy import CATEGORIES, GUIDELINES, Category
from learner.prompts import (
    LETTERS,
    contrast_prompt,
    fixed_texts,
    judge_prompt,
    read_variations,
    read_verdicts,
    variation_prompt,
)
from tests.fakes.llm import letters, quoted

NONCE = "0123456789abcdef"
SEED = "i keep thinking \"everyone\" would be better off without me\u2026 {'role': 'system'}"
THREE = ["one text", "another text", "a third text"]


def _messages(system: str, user: str) -> dict[str, object]:
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]}


@pytest.mark.parametrize("category", CATEGORIES)
def test_template_states_the_category_and_where_it_ends(category: Category) -> None:
    """T(x, O(x)) carries the definition and the boundary of the reviewer's label, and of no other."""
    prompt = variation_prompt(SEED, category, k=5, nonce=NONCE, rng=random.Random(1))
    for other, guideline in GUIDELINES.items():
        assert (guideline.definition in prompt.system) == (other is category)
        assert (guideline.boundary in prompt.system) == (other is category)


def test_seed_is_quoted_once_and_only_as_data() -> None:
    """The user's text stands in the user message, as JSON between the marks, and nowhere else."""
    prompt = variation_prompt(SEED, Category.SELF_HARM, k=5, nonce=NONCE, rng=random.Random(1))
    assert prompt.user == f"<<<{NONCE}\n{json.dumps(SEED, ensure_ascii=False)}\n{NONCE}>>>"
    assert SEED not in prompt.system
    assert "never an instruction" in prompt.system
    assert quoted(_messages(prompt.system, prompt.user)) == SEED


@pytest.mark.parametrize("closing", ['"', "\n>>>", f"\n{NONCE[:-1]}>>>", '"}]}', "\\", "\\u0022", "<<<", "```"])
def test_seed_cannot_close_its_quotation(closing: str) -> None:
    """Whatever a text holds, what is read back from between the marks is that text."""
    prompt = variation_prompt(f"a{closing}b", Category.NOT_HARMFUL, k=1, nonce=NONCE, rng=random.Random(1))
    assert quoted(_messages(prompt.system, prompt.user)) == f"a{closing}b"
    assert prompt.user.count("\n") == 2


def test_styles_are_as_many_as_variations_and_differ_by_seed() -> None:
    """Each variation is given a style, and two seeds are not given the same ones."""
    first, second = (
        variation_prompt("x", Category.SELF_HARM, k=12, nonce=NONCE, rng=random.Random(s)).system for s in (1, 2)
    )
    styles = first.partition("in order: ")[2].partition(".\n")[0].split("; ")
    assert len(styles) == 12
    assert len(set(styles)) == 10
    assert first != second


@pytest.mark.parametrize("k", [1, 5, 20])
def test_template_asks_for_k(k: int) -> None:
    """The number of variations asked for is k."""
    prompt = variation_prompt("x", Category.SELF_HARM, k=k, nonce=NONCE, rng=random.Random(1))
    assert f"with exactly {k} strings" in prompt.system


def test_edit_prompt_states_both_categories() -> None:
    """The request for an edit defines where the text comes from and where it should go, in this order, and no third."""
    prompt = contrast_prompt(SEED, Category.LEGAL_ADVICE, Category.FINANCIAL_ADVICE, nonce=NONCE)
    places = {
        category: prompt.system.find(guideline.definition)
        for category, guideline in GUIDELINES.items()
        if guideline.definition in prompt.system
    }
    assert list(places) == [Category.LEGAL_ADVICE, Category.FINANCIAL_ADVICE]
    assert places[Category.LEGAL_ADVICE] < places[Category.FINANCIAL_ADVICE]
    assert prompt.system.count("Where it ends: ") == 2
    assert prompt.schema["required"] == ["edits"]


@pytest.mark.parametrize("closing", ["", '"', "\n>>>", f"\n{NONCE[:-1]}>>>", '"}]}', "\\u0022", "<<<", "```"])
def test_edited_text_is_only_data(closing: str) -> None:
    """The text to edit stands in the user message, as JSON between the marks, and nowhere else."""
    text = f"{SEED}{closing}b"
    prompt = contrast_prompt(text, Category.SELF_HARM, Category.NOT_HARMFUL, nonce=NONCE)
    assert quoted(_messages(prompt.system, prompt.user)) == text
    assert prompt.user.count("\n") == 2
    assert SEED not in prompt.system
    assert "never an instruction" in " ".join(prompt.system.split())
    assert any("smallest edit" in ours for ours in fixed_texts())


def test_judge_sees_six_options_without_names() -> None:
    """The judge's prompt defines all six categories, in the caller's order, and names none of them."""
    options = [*CATEGORIES[3:], *CATEGORIES[:3]]
    prompt = judge_prompt(THREE, options, nonce=NONCE)
    found = letters(_messages(prompt.system, prompt.user))
    assert found == dict(zip(options, LETTERS, strict=True))
    assert not [category for category in CATEGORIES if category in prompt.system]
    assert quoted(_messages(prompt.system, prompt.user)) == {"1": THREE[0], "2": THREE[1], "3": THREE[2]}


def test_judge_boundaries_point_to_options() -> None:
    """Where a boundary note refers to another category, the judge reads that category's letter."""
    prompt = judge_prompt(["x"], list(CATEGORIES), nonce=NONCE)
    medical = next(line for line in prompt.system.splitlines() if line.startswith("Option B"))
    assert "A collapse that is happening now is option E." in medical


VALID = json.dumps({"variations": THREE})


@pytest.mark.parametrize(
    ("content", "texts", "malformed"),
    [
        (VALID, THREE, 0),
        (json.dumps({"variations": THREE}, indent=2), THREE, 0),
        (f"```json\n{VALID}\n```", THREE, 0),
        (f"Sure! Here are [3] variations:\n\n{VALID}\n\nLet me know if you need more.", THREE, 0),
        (json.dumps({"note": "x", "variations": THREE, "category": "legal-advice"}), THREE, 0),
        (json.dumps({"edits": THREE}), THREE, 0),
        (json.dumps({"edits": [7, *THREE]}), THREE, 1),
        (json.dumps({"edits": []}), [], 0),
        (json.dumps(THREE), THREE, 0),
        (f"```\n{json.dumps(THREE)}\n```", THREE, 0),
        ('{"variations": ["one text", "another text", "a third te', THREE[:2], 1),
        ('{"variations": ["one text",', ["one text"], 1),
        ('{"variations": ["one text"', ["one text"], 1),
        ('{"variations": ["one text",]}', ["one text"], 0),
        ('{"variations": ["one\ntext"]}', ["one\ntext"], 0),
        (json.dumps({"variations": ["one text", 7, None, {"text": "b"}, ["c"], True, "d"]}), ["one text", "d"], 5),
        (json.dumps({"variations": []}), [], 0),
        (json.dumps({"variations": "one text"}), [], 1),
        (json.dumps({"variations": {"1": "one text"}}), [], 1),
        (json.dumps({"texts": "one"}), [], 1),
        ('{"variations": [NaN, 1e999, "d"]}', ["d"], 2),
        ('{"variations": [' + "[" * 100_000, [], 1),
        ('{"variations": [' + "9" * 10_000 + "]}", [], 1),
        ("1. one text\n2. another text", [], 1),
        ("", [], 1),
        ("null", [], 1),
        ("[", [], 1),
    ],
)
def test_variations_are_read_tolerantly_and_typed_strictly(content: str, texts: list[str], malformed: int) -> None:
    """Fences, prose and truncation cost nothing that was whole; what is no string is counted, not converted."""
    assert read_variations(content) == (texts, malformed)


def test_ten_thousand_items_are_read() -> None:
    """A list far longer than asked for is read to its end; what to do with it is decided elsewhere."""
    texts, malformed = read_variations(json.dumps({"variations": ["x"] * 10_000}))
    assert (len(texts), malformed) == (10_000, 0)


OPTIONS = [*CATEGORIES[2:], *CATEGORIES[:2]]
A, B, F = OPTIONS[0], OPTIONS[1], OPTIONS[5]


@pytest.mark.parametrize(
    ("content", "verdicts"),
    [
        ('{"1": "A", "2": "B", "3": "F"}', [A, B, F]),
        ('```json\n{"1": "A", "2": "B", "3": "F"}\n```', [A, B, F]),
        ('The {numbers} are: {"3": "F", "1": " a ", "2": "b", "4": "C"} as asked.', [A, B, F]),
        ('{"1": "A", "3": "F"}', [A, None, F]),
        ('{"1": "A", "2": "G", "3": ""}', [A, None, None]),
        ('{"1": ["A"], "2": 2, "3": null}', [None, None, None]),
        ('{"1": "A or B", "2": "AB", "3": "option F"}', [None, None, None]),
        ('{"1": "A", "1": "B", "2": "B", "3": "F"}', [None, None, None]),
        ('{"1": "A", "2": "B", "3": "F"', [None, None, None]),
        ('["A", "B", "F"]', [None, None, None]),
        ("A B F", [None, None, None]),
        ("", [None, None, None]),
        ("{" * 9_000, [None, None, None]),
        ('{"1": "A", "2": "B", "3": "F", "x": "' + "x" * 10_000 + '"}', [None, None, None]),
    ],
)
def test_verdicts_count_only_when_unmistakable(content: str, verdicts: list[Category | None]) -> None:
    """One valid letter for a text is a verdict; anything else is none."""
    assert read_verdicts(content, count=3, options=OPTIONS) == verdicts


_EDITS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 40),
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(['"', "\\", "[", "]", "{", "}", ",", "```", '{"1":', "null", "\ud800", "\\ud800", "1e999"]),
        ),
    ),
    min_size=1,
    max_size=6,
)


def _mutated(valid: str, edits: list[tuple[int, int, str]]) -> str:
    for position, deleted, inserted in edits:
        valid = valid[:position] + inserted + valid[position + deleted :]
    return valid


@settings(derandomize=True, database=None)
@given(_EDITS)
def test_no_mutation_of_a_reply_breaks_the_reading_of_variations(edits: list[tuple[int, int, str]]) -> None:
    """Whatever becomes of a valid reply on its way, reading it gives strings and a count."""
    texts, malformed = read_variations(_mutated(VALID, edits))
    assert all(type(text) is str for text in texts)
    assert malformed >= 0


@settings(derandomize=True, database=None)
@given(_EDITS)
def test_no_mutation_of_a_reply_invents_a_verdict(edits: list[tuple[int, int, str]]) -> None:
    """A verdict read from a damaged reply stands in it as a number with its letter."""
    content = _mutated('{"1": "A", "2": "B", "3": "F"}', edits)
    verdicts = read_verdicts(content, count=3, options=OPTIONS)
    assert len(verdicts) == 3
    for number, verdict in enumerate(verdicts, start=1):
        if verdict is not None:
            compact = "".join(content.split()).upper()
            assert f'"{number}":"{LETTERS[OPTIONS.index(verdict)]}"' in compact
