"""Two readings of a text: which verdict stands, and where in the text as it was sent the harm lies."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.bundle import Bundle
from guard.decision import softmax
from guard.engine import Engine
from guard.errors import EmptyText, TooLarge
from guard.exports import Exports
from guard.metrics import Metrics
from guard.reading import Reading, read
from guard.settings import GuardSettings
from guard.taxonomy import CATEGORIES, Category
from tests.toys import publish_toy

FINE = dict.fromkeys(CATEGORIES, 0.3)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A toy that all examples of a property share."""
    exports = Exports(tmp_path_factory.mktemp("exports"))
    return Bundle.load(exports, publish_toy(exports))


def scores(bundle: Bundle, reading: Reading) -> npt.NDArray[np.float32]:
    """Return the probabilities of all windows of a reading."""
    return softmax(bundle.run(reading.windows).logits)


def test_plain_text_is_judged_once(toy: Bundle) -> None:
    """A text without a disguise has one reading, and no window more than its own."""
    (reading,) = read(toy, ["take me home at 5 a.m., die!"], max_chars=100)
    assert reading.undisguised is None
    assert (len(reading.windows), reading.plain, reading.second) == (1, 1, ())
    verdict, disguised = reading.decide(scores(toy, reading), FINE)
    assert (verdict.category, disguised) == (Category.NOT_HARMFUL, False)


@pytest.mark.parametrize("sent", ["dіе", "d i e", "d!e", "d.i.e hurt"])
def test_second_reading_finds_the_harm(toy: Bundle, sent: str) -> None:
    """The verdict is the second reading's, and says so, where the first finds another or no harm."""
    (reading,) = read(toy, [sent], max_chars=100)
    verdict, disguised = reading.decide(scores(toy, reading), FINE)
    assert (verdict.category, verdict.flagged) == (Category.SELF_HARM, True)
    assert disguised
    assert reading.span(verdict.window) == (0, len(sent))


def judge(bundle: Bundle, sent: str, harmful: Callable[[str], bool]) -> tuple[Category, bool]:
    """Return the verdict on a text by a model that finds harm in the windows of which this says so."""
    (reading,) = read(bundle, [sent], max_chars=1000)
    parts = [reading.text, *((reading.undisguised.text, reading.undisguised.legible) if reading.undisguised else ())]
    alarm = {window.ids: harmful(text) for text in parts if text for window in bundle.encode([text])[0]}
    harm, joke = np.eye(6, dtype=np.float32)[[0, 5]]
    verdict, disguised = reading.decide(np.stack([harm if alarm[w.ids] else joke for w in reading.windows]), FINE)
    assert verdict.window < len(reading.windows)
    return verdict.category, disguised


def test_harm_in_plain_sight_stands(toy: Bundle) -> None:
    """Harm in the words that are written plainly stands, however harmless the rest makes the second reading."""
    sent = "die j0ke j0ke j0ke"
    assert judge(toy, sent, lambda text: "die" in text and "joke" not in text) == (Category.SELF_HARM, False)
    assert judge(toy, sent, lambda text: "die" in text) == (Category.SELF_HARM, False)


def test_strange_letters_alone_are_no_harm(toy: Bundle) -> None:
    """An alarm that neither the second reading nor the plain words bear out is dropped, and the answer says why."""
    sent = "hello hello j0ke j0ke"
    assert judge(toy, sent, lambda text: "0" in text) == (Category.NOT_HARMFUL, True)
    assert judge(toy, "j.o.k.e h.e.l.l.o", lambda text: "." in text) == (Category.NOT_HARMFUL, True)


def test_doubtful_reading_clears_nothing(toy: Bundle) -> None:
    """An alarm stands against a second reading that is mostly of unknown words."""
    assert judge(toy, "j0ke j0ke qwrtzpsdfgh bvcxyqwrt", lambda text: "0" in text) == (Category.SELF_HARM, False)


def test_second_reading_is_the_worse(toy: Bundle) -> None:
    """Harm in the second reading stands, and the answer says so."""
    assert judge(toy, "hello d1e j0ke", lambda text: "die" in text) == (Category.SELF_HARM, True)


@pytest.mark.parametrize("place", [0, 37, 150, 299])
@pytest.mark.parametrize("telling", ["die", "diе", "d i e", "d.i.e"])
def test_span(toy: Bundle, place: int, telling: str) -> None:
    """Wherever a telling word stands in a long text, disguised or not, it lies in the span of the answer."""
    words = ["hello"] * 300
    words[place] = f"\u200b{telling}"
    sent = "  ".join(words)  # what is sent is longer than what is judged
    (reading,) = read(toy, [sent], max_chars=10_000)
    verdict, disguised = reading.decide(scores(toy, reading), {**FINE, Category.SELF_HARM: 0.003})
    assert (verdict.category, disguised) == (Category.SELF_HARM, telling != "die")
    start, end = reading.span(verdict.window)
    assert telling in sent[start:end]
    assert end - start < len(sent) / 4


@given(
    st.lists(
        st.sampled_from(["hello", "dіе", "d i e", "h0me", "é\u0301", "\u200b", "ﷺ", "日本"]), min_size=1, max_size=80
    )
)
def test_spans_lie_in_the_text(reader: Bundle, words: list[str]) -> None:
    """Every window of either reading has a span within the text as it was sent, and together they reach its end."""
    sent = " ".join((*words, "end"))
    (reading,) = read(reader, [sent], max_chars=10_000)
    spans = [reading.span(window) for window in range(len(reading.windows))]
    assert all(0 <= start < end <= len(sent) for start, end in spans)
    assert spans[reading.plain - 1][1] == len(sent)


def test_refusals(toy: Bundle) -> None:
    """Texts that are empty or too long once normalised are refused."""
    with pytest.raises(EmptyText, match="Text 1"):
        read(toy, ["hello", "\u200b"], max_chars=100)
    with pytest.raises(TooLarge, match="18"):
        read(toy, ["ﷺ"], max_chars=10)


async def test_engine_counts(guard_settings: GuardSettings, toy: Bundle) -> None:
    """The engine answers for each text with span and disguise, and counts what only the second reading found."""
    metrics = Metrics()
    engine = Engine(guard_settings, metrics)
    engine.swap(toy)
    judged = await engine.classify(["hello", "d i e", "die"])
    engine.close()
    assert judged.disguised == (False, True, False)
    assert judged.spans == ((0, 5), (0, 5), (0, 3))
    assert judged.windows == (1, 2, 1)
    assert metrics.registry.get_sample_value("guard_disguised_total", {"category": "self-harm"}) == 1
    assert metrics.registry.get_sample_value("guard_disguised_total", {"category": "legal-advice"}) == 0
