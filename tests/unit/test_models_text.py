"""Text models: tokenizers, the small ones of our own, transformers' by folder."""

import logging

import pytest
import torch
from torch import nn

from goldiprox.evidence.flops import parameter_count
from goldiprox.models.registry import build_model, model_factory, tokenizer_for
from goldiprox.models.text import TEXT_MODELS, BagOfEmbeddings, SmallTransformer, WordTokenizer
from goldiprox.schema import ConfigError
from goldiprox.training.build import build

TEXTS = ["The film was good.", "the film was bad", "never good, never bad", "once", ""]
CPU = torch.device("cpu")


def inputs_of(*lengths, vocabulary=40, seed=0):
    """Random tokens, filled up on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def test_words_are_numbered_by_how_often_they_occur():
    tokenizer = WordTokenizer(TEXTS, max_length=5)
    # [PAD] [UNK] [TEXT], then film, the, was (and bad, good, never) twice each: alphabetical.
    assert tokenizer.vocabulary == 3 + 6
    known = ["bad", "film", "good", "never", "the", "was"]
    assert tokenizer([" ".join(known[:4])]) == [[2, 3, 4, 5, 6]]
    assert tokenizer(["GOOD good unheard"]) == [[2, 5, 5, 1]]
    assert tokenizer(["", "the film was good, never bad"]) == [[2], [2, 7, 4, 8, 5]]


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts():
    one, other = WordTokenizer(TEXTS, 8), WordTokenizer(TEXTS[::-1], 8)
    assert one.key == other.key
    assert WordTokenizer(TEXTS, 9).key != one.key
    assert WordTokenizer(TEXTS[:2], 8).key != one.key


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_padding_and_neighbours_change_nothing(name):
    model = build_model(model_factory(name, text=True), (12, 40), 5, 0).eval()
    together = inputs_of(3, 12, 1)
    logits_BC = model(**together)
    assert logits_BC.shape == (3, 5)
    for row, length in enumerate((3, 12, 1)):
        alone = {key: value[row : row + 1, :length] for key, value in together.items()}
        torch.testing.assert_close(model(**alone)[0], logits_BC[row])
    logits_BC.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_transformer_sees_order_and_the_bag_does_not():
    there = inputs_of(6)
    back = {**there, "input_ids": there["input_ids"].flip(1)}
    bag = BagOfEmbeddings((12, 40), 3)
    torch.testing.assert_close(bag(**there), bag(**back))
    transformer = SmallTransformer((12, 40), 3).eval()
    assert not torch.allclose(transformer(**there), transformer(**back), rtol=1e-3)


def test_sizes_by_hand():
    assert parameter_count(BagOfEmbeddings((12, 40), 3)) == 40 * 64 + 65 * 64 + 65 * 3
    layer = 2 * 256 + 4 * 129 * 128 + 129 * 512 + 513 * 128
    whole = (40 + 12) * 128 + 2 * layer + 256 + 129 * 3
    assert parameter_count(SmallTransformer((12, 40), 3)) == whole


def test_models_of_images_and_of_texts_are_not_mixed_up():
    with pytest.raises(ConfigError, match=r'"bag-of-embeddings" takes texts and these .* images'):
        model_factory("bag-of-embeddings")
    with pytest.raises(ConfigError, match=r'"mlp" takes images and these .*: bag-of-embeddings, '):
        model_factory("mlp", text=True)
    with pytest.raises(ConfigError, match=r"takes texts, not examples of shape \(3, 32, 32\)"):
        SmallTransformer((3, 32, 32), 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with its tokenizer, as the library itself saves them: an encoder, no head."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "was", "good", "##s"]
    (path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(path / "vocab.txt"), model_max_length=16).save_pretrained(path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.BertModel(config).save_pretrained(path)
    return path


def load(folder, max_length=16, classes=3, seed=0):
    found = tokenizer_for(str(folder), None, list, max_length)
    factory = model_factory(str(folder), text=True)
    return build_model(factory, (max_length, found.vocabulary), classes, seed), found


def test_a_folder_gives_its_encoder_its_tokenizer_and_a_seeded_head(folder):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model, tokenizer = load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert tokenizer(["The films", ""]) == [[2, 5, 6, 9, 3], [2, 3]]
    again, other = load(folder)[0], load(folder, seed=1)[0]
    same = {n: torch.equal(p, again.get_parameter(n)) for n, p in model.named_parameters()}
    assert all(same.values())
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, other.get_parameter(n))}
    assert changed == {"classifier.weight"}
    assert model.classifier.weight.shape == (3, 8)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_new_head_is_no_news_but_other_warnings_come_through(folder, capfd):
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    handler, library = Kept(), logging.getLogger("transformers")
    library.addHandler(handler)
    try:
        load(folder)
        assert kept == []
        assert capfd.readouterr().err == ""
        logging.getLogger("transformers.modeling_utils").warning("something else")
        assert kept == ["something else"]
    finally:
        library.removeHandler(handler)


def test_a_head_of_ones_own_is_kept_where_the_classes_fit(folder, tmp_path):
    model, _ = load(folder, classes=4, seed=7)
    model.save_pretrained(tmp_path)
    for file in folder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert torch.equal(load(tmp_path, classes=4)[0].classifier.weight, model.classifier.weight)
    assert load(tmp_path, classes=2)[0].classifier.weight.shape == (2, 8)


def test_a_damaged_encoder_is_not_taken_for_a_new_head(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = [key for key in weights if "layer.1.attention.self.query" in key]
    assert len(lost) == 2
    save_file(
        {key: value for key, value in weights.items() if key not in lost},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ConfigError, match=r"lack 2 weights of its encoder \(first: bert\.encoder"):
        load(tmp_path)


def test_what_cannot_be_had_says_what_to_do(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r'"nobody/nothing" .* put config\.json, model\.safet'):
        model_factory("nobody/nothing", text=True)((8, 10), 2)
    with pytest.raises(ConfigError, match="bag-of-embeddings, bag-of-embeddings-dropout, small-tr"):
        tokenizer_for("bag-of-embedings", None, list, 8)
    with pytest.raises(ConfigError, match=r"the folder must hold config\.json"):
        model_factory(str(tmp_path), text=True)((8, 10), 2)
    with pytest.raises(ConfigError, match="--max-length 17 is more than the 16"):
        tokenizer_for(str(folder), None, list, 17)
    with pytest.raises(ConfigError, match=r"has 11 tokens and model .* embeddings for 10"):
        model_factory(str(folder), text=True)((8, 11), 2)


def test_each_model_gets_the_tokenizer_that_goes_with_it(folder, make_text_task):
    task = make_text_task()

    def tokenizer_of(model, tokenizer=None):
        _, feeder = build(
            model, task.train, task.preprocess, 3, seed=0, device=CPU, tokenizer=tokenizer,
            max_length=16,
        )  # fmt: skip
        return feeder.preprocess.tokenizer

    assert tokenizer_of(str(folder)).vocabulary == 10
    assert tokenizer_of("bag-of-embeddings", str(folder)).key == tokenizer_of(str(folder)).key
    words = tokenizer_of("bag-of-embeddings")
    assert words.key == tokenizer_of("small-transformer").key
    # Words of the evaluation texts are not looked at.
    assert words.key == WordTokenizer(task.train.store.texts, 16).key


def test_a_factory_of_ones_own_takes_tokens(make_text_task):
    class Counting(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.shape, self.table = shape, nn.Embedding(shape[1], classes)

        def forward(self, input_ids, attention_mask):
            return (self.table(input_ids) * attention_mask[:, :, None]).sum(1)

    task = make_text_task()
    model, feeder = build(
        Counting, task.train, task.preprocess, 3, seed=0, device=CPU, max_length=9
    )
    assert model.shape == (9, feeder.preprocess.tokenizer.vocabulary)
    assert model(**feeder(task.train, torch.arange(4))[1]).shape == (4, 3)


@pytest.mark.parametrize("known", [None, 0])
def test_a_decoder_classifies_by_the_last_token_of_the_text(known, tmp_path, make_text_task):
    """Whatever its files say of padding: an example is what it is beside longer ones too."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: n for n, word in enumerate(["[UNK]", "[END]", "[FILL]", "the", "film", "was"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="[END]", pad_token="[FILL]", model_max_length=16
    ).save_pretrained(tmp_path)
    config = transformers.GPT2Config(
        vocab_size=6, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1,
        eos_token_id=1, pad_token_id=known,
    )  # fmt: skip
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    task = make_text_task()
    model, feeder = build(
        str(tmp_path), task.train, task.preprocess, 3, seed=0, device=CPU, max_length=16
    )
    model.eval()
    lengths = feeder.lengths(task.train)
    assert len(lengths.unique()) > 3
    with torch.no_grad():
        together = model(**feeder(task.train, torch.arange(8))[1]).logits
        alone = [model(**feeder(task.train, torch.tensor([n]))[1]).logits[0] for n in range(8)]
    torch.testing.assert_close(together, torch.stack(alone))
