"""The words of the built-in tokenizer, in many languages."""

import pytest

from goldiprox.models.text import WordTokenizer
from goldiprox.models.unspaced import spaced


def words(*texts, max_length=64):
    """The words that each text is cut into, once every word is known."""
    tokenizer = WordTokenizer([*texts, *texts], max_length)
    names = {number: word for word, number in tokenizer._tokenizer.get_vocab().items()}
    return [[names[number] for number in ids[1:]] for ids in tokenizer(texts)]


@pytest.mark.parametrize(
    "one, other",
    [
        ("bán", "bạn"),  # Vietnamese: to sell, friend
        ("दिन", "दीन"),  # Hindi: day, poor
        ("año", "ano"),
        ("schon", "schön"),
        ("كَتَبَ", "كُتِبَ"),  # Arabic: he wrote, it was written
        ("סֵפֶר", "סַפָּר"),  # Hebrew: book, barber
        ("มา", "ม้า"),  # Thai: to come, horse
        ("はし", "ばし"),
    ],
)
def test_words_that_differ_in_a_sign_are_two(one, other):
    first, second = words(f"x {one} y", f"x {other} y")
    assert first != second
    assert len(first) == len(second)


@pytest.mark.parametrize(
    "one, other",
    [
        ("b\u00e1n", "ba\u0301n"),  # composed and not
        ("BÁN", "bán"),
        ("\uac00", "\u1100\u1161"),  # a Korean syllable and its letters
        ("\u0130l", "I\u0307l"),
        ("\u304c", "\u304b\u3099"),
    ],
)
def test_the_same_word_encoded_otherwise_is_one(one, other):
    first, second = words(one, other)
    assert first == second


@pytest.mark.parametrize(
    "text, expected",
    [
        ("So good, isn't it?", ["so", "good", ",", "isn", "'", "t", "it", "?"]),
        ("यह अच्छी है।", ["यह", "अच्छी", "है", "।"]),
        ("इस किताब को", ["इस", "किताब", "को"]),
        ("ดีมาก 5 ครั้ง", ["ดี", "ม", "า", "ก", "5", "ค", "รั้", "ง"]),
        ("ດີຫຼາຍ", ["ດີ", "ຫຼ", "າ", "ຍ"]),
        ("ខ្ញុំ", ["ខ្ញុំ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("你好World!", ["你", "好", "world", "!"]),
        ("\u4eba\u3005と𰻝", ["\u4eba", "\u3005", "と", "𰻝"]),
        ("カメラーです", ["カ", "メ", "ラ", "ー", "で", "す"]),
        ("ｶﾞｸ", ["ｶﾞ", "ｸ"]),
        ("한국어 영화", ["한국어", "영화"]),
        ("\u202bשלום\u202c עולם", ["שלום", "עולם"]),
        ("ដី\u200bធ្លី a\u200bb", ["ដី", "ធ្លី", "a", "b"]),
        ("good😀 e\u0301té", ["good😀", "été"]),
        ("", []),
        (" \u00a0\u3000\t\n", []),
    ],
)
def test_words_of_many_scripts(text, expected):
    assert words(text) == [expected]


def test_new_sentences_of_known_characters_are_told_apart():
    tokenizer = WordTokenizer(["หนังดีมาก", "หนังแย่มาก", "ดีแย่"] * 2, 16)
    good, bad = tokenizer(["มากดี", "มากแย่"])
    assert good != bad
    assert 1 not in good + bad  # nothing is unknown


def test_long_texts_are_cut_and_none_is_empty():
    tokenizer = WordTokenizer(["a b", "a b"], 8)
    assert [len(ids) for ids in tokenizer(["a " * 100_000, "x" * 100_000, "", "ก" * 50])] == [
        8,
        2,
        1,
        8,
    ]


def test_other_texts_stay_the_same_object():
    for text in ("plain words", "toi bán nhà", "хороший фильм", "한국어", "你好"):
        assert spaced(text) is text
