"""Text classifiers: two small ones of our own, and an adapter to transformers'.

A factory takes ``(max_length, vocabulary)`` and ``num_classes``; its model is called with
``input_ids`` and ``attention_mask``, both int64 of shape [B, L].
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goldiprox.models.unspaced import spaced
from goldiprox.models.vision import Factory, Shape
from goldiprox.schema import ConfigError

__all__ = [
    "TEXT_MODELS",
    "BagOfEmbeddings",
    "PretrainedTokenizer",
    "SmallTransformer",
    "WordTokenizer",
    "agree_on_padding",
    "pretrained_classifier",
]

WORDS = 30_000
WEIGHTS = "config.json, model.safetensors, tokenizer.json and tokenizer_config.json"


class WordTokenizer:
    """One number for each word, of a vocabulary made from the texts that a model is trained on.

    Words are lower-cased, composed (NFC) and cut at spaces and punctuation; accents, vowel signs
    and points are part of them. Of scripts that are written without spaces (Chinese, Japanese,
    Thai, Lao, Khmer, Burmese and their kin) each character is a word, together with the signs on
    it: :mod:`goldiprox.models.unspaced`. Invisible characters (joiners, marks of direction, private
    ones) are left out. Words that occur but once share one number with all
    unknown ones.

    Attributes:
        key: tells vocabularies apart.
        vocabulary: number of words, the three special ones included.
        max_length: most tokens of one text.
        padding: the number that fills up shorter texts.
    """

    padding = 0

    def __init__(self, texts: Iterable[str], max_length: int) -> None:
        """Make the vocabulary: the 30,000 most frequent words, ties in alphabetical order.

        Args:
            texts: what the model will be trained on, and nothing else.
            max_length: texts are cut to so many tokens.

        Raises:
            ConfigError: if the package tokenizers is absent.
        """
        tokenizers = _package("tokenizers")
        self._tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
        normalizers = tokenizers.normalizers
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.BertNormalizer(lowercase=True, strip_accents=False), normalizers.NFC()]
        )
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        trainer = tokenizers.trainers.WordLevelTrainer(
            vocab_size=WORDS,
            min_frequency=2,
            special_tokens=["[PAD]", "[UNK]", "[TEXT]"],
            show_progress=False,
        )
        self._tokenizer.train_from_iterator(map(spaced, texts), trainer)
        # Every text begins with [TEXT], so that none is empty.
        self._tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[TEXT] $A", special_tokens=[("[TEXT]", 2)]
        )
        self._tokenizer.enable_truncation(max_length)
        self.max_length = max_length
        self.vocabulary: int = self._tokenizer.get_vocab_size()
        self.key = _digest(self._tokenizer.to_str())

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of each text's words, after the one that begins every text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([*map(spaced, texts)])]


class PretrainedTokenizer:
    """A tokenizer of the transformers library, by the name of a hub model or a local folder.

    Attributes:
        key: tells tokenizers apart.
        vocabulary: token numbers are below this.
        max_length: most tokens of one text, special ones included.
        padding: the number that fills up shorter texts.
    """

    def __init__(self, name: str, max_length: int) -> None:
        """Load it.

        Args:
            name: hub model or local folder.
            max_length: texts are cut to so many tokens.

        Raises:
            ConfigError: if it cannot be found, or takes no texts as long as that.
        """
        transformers = _package("transformers")
        with _found(name, "tokenizer"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        if max_length > self._tokenizer.model_max_length:
            raise ConfigError(
                f"--max-length {max_length} is more than the {self._tokenizer.model_max_length} "
                f'tokens that the tokenizer of "{name}" allows; lower it'
            )
        self.max_length = max_length
        self.vocabulary = len(self._tokenizer)
        self.padding: int = _filler(self._tokenizer)
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        rules = str(Path(name).resolve()) if backend is None else backend.to_str()
        self.key = _digest(f"{max_length} {self.padding} {rules}")

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The token numbers of each text, special tokens included."""
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        # Tokenizers without special tokens make nothing of an empty text.
        return [ids or [self.padding] for ids in encoded["input_ids"]]


class BagOfEmbeddings(nn.Module):
    """The mean of a text's word embeddings through one hidden layer; the order of words is lost.

    Args:
        input_shape: (max_length, vocabulary).
        num_classes: size of the output.
        width: of embeddings and hidden layer.
        dropout: probability, before the hidden layer and after it.
    """

    def __init__(
        self, input_shape: Shape, num_classes: int, width: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _, vocabulary = _text_shape(input_shape)
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, num_classes),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens to logits_BC."""
        logits: Tensor = self.head(_mean(self.embedding(input_ids), attention_mask))
        return logits


class SmallTransformer(nn.Module):
    """A transformer encoder that is trained from scratch; the mean of its outputs is classified.

    Args:
        input_shape: (max_length, vocabulary).
        num_classes: size of the output.
        width: of embeddings; each layer's hidden one is four times as wide.
        layers: number of layers.
        heads: attention heads of each layer.
        dropout: probability, after the embeddings and on both branches of each layer.
    """

    def __init__(
        self,
        input_shape: Shape,
        num_classes: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        max_length, vocabulary = _text_shape(input_shape)
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(max_length, width)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)  # torch's own 1.0 drowns what attention adds
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens to logits_BC."""
        # Positions of every text, not of the batch: each example's gradient stays its own.
        place_BL = (attention_mask.cumsum(1) - 1).clamp(min=0)
        x_BLD = self.drop(self.embedding(input_ids) + self.position(place_BL))
        is_token_B11L = attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x_BLD = layer(x_BLD, is_token_B11L)
        logits: Tensor = self.classifier(_mean(self.norm(x_BLD), attention_mask))
        return logits


class _Layer(nn.Module):
    """Attention and a hidden layer, each with a norm before and a shortcut around it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.hidden = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, is_token_B11L: Tensor) -> Tensor:
        """Features to features."""
        normed = self.norm1(x_BLD)
        query, key, value = (
            part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=is_token_B11L)
        x_BLD = x_BLD + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        added: Tensor = self.drop(self.hidden(self.norm2(x_BLD)))
        return x_BLD + added


TEXT_MODELS: dict[str, Factory] = {
    "bag-of-embeddings": BagOfEmbeddings,
    "bag-of-embeddings-dropout": lambda shape, classes: BagOfEmbeddings(
        shape, classes, dropout=0.5
    ),
    "small-transformer": SmallTransformer,
}
"""Built-in text models; the transformer has dropout."""


def pretrained_classifier(name: str) -> Factory:
    """A factory of one of transformers' sequence classifiers.

    The encoder has its published weights. The classification head is the folder's own if it has
    one for as many classes, else it starts anew from the global random state.

    Args:
        name: hub model or local folder.
    """

    def factory(input_shape: Shape, num_classes: int) -> nn.Module:
        max_length, vocabulary = _text_shape(input_shape)
        transformers = _package("transformers")
        with _found(name, "model"), _without_report():
            model, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
                name,
                num_labels=num_classes,
                ignore_mismatched_sizes=True,  # a head for another number of classes
                output_loading_info=True,
                dtype=torch.float32,
            )
        _require_encoder(name, model, loaded)
        rows = model.get_input_embeddings().num_embeddings
        if vocabulary > rows:
            raise ConfigError(
                f'the tokenizer has {vocabulary} tokens and model "{name}" embeddings for {rows}; '
                "leave --tokenizer out to use the model's own"
            )
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and max_length > longest:
            raise ConfigError(
                f'--max-length {max_length} is more than the {longest} positions of "{name}"; '
                "lower it"
            )
        found: nn.Module = model
        return found

    return factory


def agree_on_padding(model: nn.Module, padding: int) -> None:
    """Tell a transformers model which token its tokenizer fills short texts up with.

    Decoders classify by the last token that is not this one. Files often leave it out, or name
    another than the tokenizer's; then what an example is taken for would depend on its neighbours.

    Args:
        model: any model; one without a configuration is left alone.
        padding: the number that fills up shorter texts.
    """
    config: Any = getattr(model, "config", None)
    if hasattr(config, "pad_token_id"):
        config.pad_token_id = padding


def _require_encoder(name: str, model: Any, loaded: dict[str, Any]) -> None:
    """Missing weights may only be the head's, and the pooling layer's that often comes with it."""
    absent = set(loaded["missing_keys"])
    absent |= {key if isinstance(key, str) else key[0] for key in loaded["mismatched_keys"]}
    encoder = f"{model.base_model_prefix}."
    lost = sorted(key for key in absent if key.startswith(encoder) and "pooler" not in key)
    if lost:
        raise ConfigError(
            f'the files of model "{name}" lack {len(lost)} weights of its encoder (first: '
            f"{lost[0]}): they are damaged or of another architecture; get them again"
        )


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from reporting that the head is new: we look at what is missing ourselves.

    Only that report and the bar are silent; every other warning comes through.
    """
    transformers = _package("transformers")
    bars = transformers.utils.logging

    def is_other(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "LOAD REPORT" not in message and "newly initialized" not in message

    loggers = [logging.getLogger(f"transformers.{name}") for name in REPORTERS]
    had_bar = bars.is_progress_bar_enabled()
    for logger in loggers:
        logger.addFilter(is_other)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_other)
        if had_bar:
            bars.enable_progress_bar()


REPORTERS = ("modeling_utils", "utils.loading_report")


@contextmanager
def _found(name: str, what: str) -> Iterator[None]:
    """Turn the ways in which loading fails into one line that says what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        place = Path(name).expanduser()
        if place.is_dir():
            remedy = f"the folder must hold {WEIGHTS}"
        else:
            remedy = (
                f"when offline, put {WEIGHTS} into a folder and give its path; built-in text "
                f"models: {', '.join(TEXT_MODELS)}"
            )
        raise ConfigError(f'cannot load the {what} "{name}" ({first}); {remedy}') from error


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f'text models need the package {name}: pip install "goldiprox[text]"'
        ) from error


def _filler(tokenizer: Any) -> int:
    """What fills up short texts; tokenizers without such a token have their end token do it."""
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if number is not None:
            return int(number)
    return 0


def _text_shape(input_shape: Shape) -> tuple[int, int]:
    if len(input_shape) != 2:
        raise ConfigError(
            f"this model takes texts, not examples of shape {input_shape}; use --model mlp"
        )
    return input_shape[0], input_shape[1]


def _mean(x_BLD: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the tokens of each text, padding left out."""
    mask_BL1 = attention_mask[:, :, None].to(x_BLD.dtype)
    return (x_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
