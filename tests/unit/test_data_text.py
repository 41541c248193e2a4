"""Texts: tokenised once, ids and order intact, padded to each batch's longest."""

import gc
import weakref

import numpy as np
import pytest
import torch

from goldiprox.data.examples import Examples
from goldiprox.data.preprocess import ImagePreprocessor, Preprocess
from goldiprox.data.text import CHUNK, Ragged, TextPreprocessor, tokenise
from goldiprox.schema import DataError
from goldiprox.training.feed import Feeder

TEXTS = ["ab", "a", "hello there", "zz top", "b"]


class Texts:
    """A store of texts that counts how often it is read."""

    example_shape = ()

    def __init__(self, texts):
        self.texts = texts
        self.read = 0

    def __len__(self):
        return len(self.texts)

    def fetch(self, rows_B):
        self.read += len(rows_B)
        return [self.texts[row] for row in rows_B.tolist()]

    def thumbnail(self, row):
        return b""


class Letters:
    """One token a letter, after a token that begins every text."""

    key, vocabulary, max_length, padding = "letters", 128, 8, 127

    def __call__(self, texts):
        return [[1, *(ord(letter) for letter in text)][: self.max_length] for text in texts]


def by_hand(text):
    return [1, *map(ord, text)][:8]


def examples_of(store):
    ids_N = torch.tensor([4, 2, 0, 3])
    targets_N = torch.tensor([0, 1, 0, 1])
    return Examples(
        store=store, ids_N=ids_N, rows_N=ids_N, targets_N=targets_N, true_targets_N=targets_N
    )


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [2, 2, 0], [1], []])
def test_tokens_come_in_the_order_asked_for(rows):
    raw = tokenise(Texts(TEXTS), Letters()).fetch(torch.tensor(rows, dtype=torch.int64))
    assert raw.flat.dtype == torch.int32
    parts = np.split(raw.flat.numpy(), np.cumsum(raw.lengths_B.numpy()))[:-1]
    assert [part.tolist() for part in parts] == [by_hand(TEXTS[row]) for row in rows]


def test_more_texts_than_one_call_takes():
    store = Texts([chr(97 + i % 26) * (i % 5) for i in range(CHUNK + 3)])
    raw = tokenise(store, Letters()).fetch(torch.tensor([CHUNK + 2, CHUNK - 1, 0]))
    expected = [by_hand(store.texts[row]) for row in (CHUNK + 2, CHUNK - 1, 0)]
    assert raw.flat.tolist() == [token for text in expected for token in text]


def test_a_batch_is_as_wide_as_its_longest_text():
    preprocess = TextPreprocessor().with_tokenizer(Letters())
    assert isinstance(preprocess, Preprocess)
    feeder = Feeder.of(torch.nn.Linear(1, 1), preprocess, torch.device("cpu"))
    ids_B, inputs, targets_B = feeder(examples_of(Texts(TEXTS)), torch.tensor([0, 3, 2]))
    assert (ids_B.tolist(), targets_B.tolist()) == ([4, 3, 0], [0, 1, 0])
    a, z, t, o, p, b = (ord(letter) for letter in "aztopb")
    assert inputs["input_ids"].tolist() == [
        [1, b, 127, 127, 127, 127, 127],
        [1, z, z, 32, t, o, p],
        [1, a, b, 127, 127, 127, 127],
    ]
    assert inputs["attention_mask"].tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 0],
    ]
    assert inputs["input_ids"].dtype == torch.int64


def test_an_empty_batch_is_a_batch():
    preprocess = TextPreprocessor(tokenizer=Letters())
    raw = preprocess.prepare(Texts(TEXTS)).fetch(torch.empty(0, dtype=torch.int64))
    assert {v.shape for v in preprocess(raw).values()} == {(0, 0)}


def test_texts_are_tokenised_once_for_each_tokenizer_and_let_go_with_their_store():
    store = Texts(TEXTS)
    first = TextPreprocessor(tokenizer=Letters()).prepare(store)
    assert TextPreprocessor(tokenizer=Letters()).prepare(store) is first
    assert store.read == len(TEXTS)
    shorter = Letters()
    shorter.key, shorter.max_length = "letters cut to 2", 2
    assert TextPreprocessor(tokenizer=shorter).prepare(store).lengths_N.tolist() == [2] * 5
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None


def test_nothing_is_drawn_and_labels_and_ids_do_not_depend_on_tokens():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    preprocess = TextPreprocessor(tokenizer=Letters())
    assert not preprocess.augments
    assert preprocess.draw(7, generator) is None
    assert torch.equal(generator.get_state(), before)
    assert preprocess.without_augmentation() is preprocess
    assert preprocess.describe() == TextPreprocessor().describe()


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="before a tokenizer"):
        TextPreprocessor().prepare(Texts(TEXTS))
    with pytest.raises(DataError, match="expected the tokens of texts, got list"):
        TextPreprocessor(tokenizer=Letters())(TEXTS)
    images = Texts(TEXTS)
    images.fetch = lambda rows_B: torch.zeros(len(rows_B), 1, 2, 2)
    with pytest.raises(DataError, match="expected texts, got Tensor"):
        tokenise(images, Letters())
    with pytest.raises(DataError, match="expected images, got Ragged"):
        ImagePreprocessor(mean_C=(0.0,), std_C=(1.0,))(
            Ragged(flat=torch.zeros(1, dtype=torch.int32), lengths_B=torch.ones(1).long())
        )
