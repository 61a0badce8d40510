"""Disguises: what a person sees through is read, what is no disguise stays, for any string at all, in linear time."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guard.disguise import undisguise
from guard.lexicon import Lexicon
from guard.text import breaks, normalise, origins

LEXICON = Lexicon(
    [
        "the",
        "and",
        "that",
        "for",
        "with",
        "not",
        "this",
        "want",
        "have",
        "kill",
        "myself",
        "can",
        "help",
        "suicide",
        "from",
        "about",
        "die",
        "will",
        "pills",
        "take",
        "what",
        "should",
        "tonight",
        "hurt",
        "police",
        "house",
        "sheets",
        "sister",
        "yes",
        "sos",
        "het",
        "tam",
        "sam",
        "bam",
        "good",
        "home",
        "sun",
        "six",
        "year",
    ]
)
CHARACTERS = st.one_of(
    st.sampled_from("kilmsewant  ..--__**''0134578@$!|+аеорсіѕкнЬ℮ƅéK\u0336\u0301\u0302\u200d日❤AUS,;=&\U0001f1eb"),
    st.sampled_from("ʞןᴉɯǝsɐʎᴋɪᎠᎥᎬαςμսաꓡᗪ🅺🇰🇮🇱'’  ._+|/"),
    st.characters(exclude_categories=()),
)
PIECES = st.sampled_from(
    [
        *("kill", "k1ll", "ѕuісіdе", "w@nt", "h2o", "4am", "k.i.l.l", "w a n t", "t0", "é", " ", " ", ".", "_"),
        *("pǝʇɥƃᴉu", "ʞᴉןן", "ɟןǝsʎɯ", "it'5", "k_1_l_l", "+_a_k_e", "🇰🇮🇱🇱", "ᏦᎥᏞᏞ", "w@n+", "p1lls"),
    ]
)
TEXTS = st.lists(st.one_of(CHARACTERS, PIECES), max_size=30).map("".join)


class Counted(Lexicon):
    """A lexicon that counts the letters it is asked about."""

    asked = 0

    def read(self, options: Iterable[Sequence[str]]) -> str | None:
        """Count the places of a word, then read it."""
        places = [*options]
        self.asked += len(places)
        return super().read(places)

    def split(self, options: Iterable[Sequence[str]], *, whole: bool = False) -> tuple[list[str], float]:
        """Count the places of a row, then cut it."""
        places = [*options]
        self.asked += len(places)
        return super().split(places, whole=whole)


def read(text: str) -> str | None:
    """Return the second reading of a text as sent; None where there is none."""
    found = undisguise(normalise(text), LEXICON)
    return found.text if found else None


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("I want to kіll mуsеlf", "I want to kill myself"),
        ("І wаnt tο kіll", "I want to kill"),
        ("ᴋɪʟʟ myself", "kill myself"),
        ("ʞıll the police", "kill the police"),
        ("🅺🅸🅻🅻 myself", "KILL myself"),
        ("take the sh℮ets", "take the sheets"),
        ("k i l l m y s e l f", "kill myself"),
        ("d i e", "die"),
        ("i should k.i.l.l. m-e tonight", "i should kill me tonight"),
        ("w_a_n_t t_o d_i_e", "want to die"),
        ("I w . a . n . t the p . i . l . l . s", "I want the pills"),
        ("k-1-l-l", "kill"),
        ("i want to k1ll mys3lf", "i want to kill myself"),
        ("1 w@nt 70 d!e", "i want to die"),
        ("$hould i take the pi11$", "should i take the pills"),
        ("k*ll the police", "kill the police"),
        ("k̶i̶l̶l̶ m̷y̷s̷e̷l̷f̷", "kill myself"),
        ("ᴡᴀɴᴛ ᴛᴏ ᴅɪᴇ", "want to die"),
        ("🇰🇮🇱🇱 🇲🇾🇸🇪🇱🇫", "kill myself"),
        ("ᎳᎥᏞᏞ ᎠᎥᎬ", "WILL DIE"),
        ("ꓪꓮꓠꓔ ꓔꓳ ꓓꓲꓰ", "WANT TO DIE"),
        ("ᗯᗩᑎT TO ᗪIE", "WANT TO DIE"),
        ("աαղէ էօ ժιε", "want to die"),
        ("wąñƭ ťø ƙıḷḻ", "want to kill"),
        ("ɟןǝsʎɯ ןןᴉʞ oʇ ʇuɐʍ I", "I want to kill myself"),
        ("I ʍɐuʇ ʇo ʞᴉןן ɯʎsǝןɟ", "I want to kill myself"),
        ("k_1_l_l m_e and +_a_k_e p_1_l_l_s", "kill me and take pills"),
        ("1 c@n'+ t@ke pi11s", "i can't take pills"),
        ("t.o.n.i.t.e.", "tonite"),
    ],
)
def test_disguises(sent: str, meant: str) -> None:
    """Look-alikes, letters set apart, digits for letters and stacked marks are read as they are meant."""
    assert read(sent) == meant


@pytest.mark.parametrize(
    "sent",
    [
        "I took it at 5 a.m. and 5am and 8 am",
        "C3PO and R2-D2",
        "the U.S.A. and N.A.S.A.",
        "h2o, co2, HbA1c, p53, B12, t1d, covid-19",
        "$50k, €20, US$5, £3.50, 20% off, a 4x4, the 50s, 3rd of May",
        "for (i=0; i<10; i++) { a[i] = b[i] + c; }",
        "def f(x): return x**2 + y_1",
        "https://a.b.co/x?y=1&z=2 on 192.168.0.1 or 1.2.3.4",
        "*all* of _this_ is `code`, @home, A+ in C++!",
        "w/o b/c I/O 24/7 and/or y/n, 3-1-2, e.g. this, i.e. that",
        "yes!!! good!! so! hi! :) <3",
        "\U0001f1eb\U0001f1f7 and \U0001f1e9\U0001f1ea \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
        "Привет, как дела? Я хочу пойти домой, но нет, он сам не может",
        "Καλημέρα, τι κάνεις; Θέλω να πάω σπίτι",
        "Мені потрібна допомога",
        "Не знам шта да радим, сестра ми је болесна",
        "Μου πονάει το κεφάλι και δεν ξέρω τι να κάνω",
        "Կարմիր երանգի քանակությունը շատ մեծ է",
        "ᎣᏏᏲ, ᏙᎯᏧ? ᎠᏂᏴᏫᏯ ᎤᎾᏓᏤᎵ",
        "მე მინდა სახლში წასვლა",
        "Tôi muốn về nhà vì trời đã tối",
        "Chciałbym pójść spać, żeby jutro wstać wcześnie",
        "Öğleden sonra eve gidiyorum, çok yorgunum",
        "日本語のテキスト、ありがとう",
        "سلام، می‌خواهم به خانه بروم",
        "Ich möchte früh schlafen, weil es spät ist; très fatigué",
        "a 5μm filter, 10kΩ, 20°C, “quotes” — dashes…",
    ],
)
def test_harmless(sent: str) -> None:
    """Figures, codes, abbreviations, prices, programs, emoji and other languages are no disguise."""
    assert read(sent) is None


def test_needs_company() -> None:
    """What may be a figure is read only beside words that are disguised beyond doubt."""
    assert read("we met at 4 to take the 70 home") is None
    assert read("1 w4nt t0 d1e 70") == "i want to die to"


@given(TEXTS)
@example("k\u0336_\u0336_k.i.l.l")
def test_idempotent(text: str) -> None:
    """A reading holds no disguise."""
    found = undisguise(normalise(text), LEXICON)
    if found is not None:
        assert undisguise(found.text, LEXICON) is None


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_string(text: str) -> None:
    """Whatever the string, there is a reading or none, and it can be encoded."""
    found = undisguise(normalise(text), LEXICON)
    assert found is None or found.text.encode()


@given(TEXTS)
def test_origins(text: str) -> None:
    """Each place of a reading comes from a place of the text, in order."""
    plain = normalise(text)
    found = undisguise(plain, LEXICON)
    if found is None:
        return
    places = [found.origin(i, i + 1) for i in range(len(found.text))]
    assert all(0 <= start < end <= len(plain) for start, end in places)
    assert places == sorted(places)
    assert found.origin(0, len(found.text))[0] == places[0][0]


def test_origin_of_a_word() -> None:
    """A word that was read leads back to all of what was written for it."""
    plain = "I will k i l l the pоlісе"
    found = undisguise(plain, LEXICON)
    assert found is not None
    start = found.text.index("kill")
    assert plain[slice(*found.origin(start, start + 4))] == "k i l l"
    start = found.text.index("police")
    assert plain[slice(*found.origin(start + 2, start + 3))] == "pоlісе"
    assert found.origin(0, len(found.text)) == (0, len(plain))


@given(TEXTS)
def test_origins_of_a_text(text: str) -> None:
    """Each character of a normalised text comes from a place of what was sent, in order."""
    places = origins(text)
    assert len(places) == len(normalise(text))
    assert places == sorted(places)
    assert not places or 0 <= places[0] <= places[-1] < len(text)


@pytest.mark.parametrize(
    "unit",
    [
        "a.",
        "a b",
        "k i l l ",
        "k1ll ",
        "a!",
        "!",
        "4a",
        "е",
        "℮",
        "a. ",
        "'",
        "a__",
        "a\u0336",
        "1 1 ",
        "*a*",
        "$",
        "é_",
        "i1l",
        "❤a❤b ",
        "❤ a ",
        "іӏ",
        "ɐqɔ ",
        "привет ",
        "+_",
        "it'5 ",
    ],
)
def test_linear(unit: str) -> None:
    """Ten times the text takes about ten times the work, counted in letters looked up, and grows no longer."""
    work = []
    for times in (200, 2000):
        lexicon = Counted(("kill", "the", "aaa"))
        text = normalise(unit * times)
        found = undisguise(text, lexicon)
        assert found is None or len(found.text) <= 2 * len(text)
        work.append(lexicon.asked)
    assert work[1] <= 12 * work[0] + 100
    assert work[1] <= 40 * len(unit) * 2000


def test_wide_blanks() -> None:
    """Where letters stand apart, a wider blank ends a word, known or not."""
    sent = "t a k e  e p i p e n s  h o m e  t o n i g h t"
    found = undisguise(normalise(sent), LEXICON, lambda: breaks(sent))
    assert found is not None
    assert found.text == "take epipens home tonight"


def test_foreign_word_in_a_disguised_text() -> None:
    """A text in another alphabet stays as it is, and so do its words that could be read as Latin ones."""
    assert (
        read("нет, сам не може, ѕісk и kіll сутра увече, сестра") == "нет, сам не може, sick и kill сутра увече, сестра"
    )


@pytest.mark.parametrize(
    ("sent", "legible"),
    [
        ("I want to kill myself. g-o-o-d h-o-m-e", "I want to kill myself."),
        ("k1ll the police and take what you want th3 h0use tonight", "the police and take what you want"),
        ("hurt w1th suns4ine p1lls t0night and h3lp", "hurt and"),
        ("w@nt p1lls", ""),
    ],
)
def test_legible(sent: str, legible: str) -> None:
    """What is written plainly is kept: where words stand in a row only those, else every one."""
    found = undisguise(normalise(sent), LEXICON)
    assert found is not None
    assert found.legible == legible


def test_sure() -> None:
    """A reading is sure where most of its letters stand in known words."""
    assert undisguise("w4nt the p1lls", LEXICON).sure  # type: ignore[union-attr]
    assert not undisguise("w4nt the qwfpgarstzxcvbkmh", LEXICON).sure  # type: ignore[union-attr]
