"""What a scoring pass tells of texts, against one text at a time in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.gradients import gradient_norms
from goldiprox.models.text import BagOfEmbeddings, SmallTransformer

LENGTHS = (3, 7, 1, 5, 7, 2, 4)
VOCABULARY, CLASSES = 30, 3


def tiny(kind):
    shape = (8, VOCABULARY)
    if kind == "bag-of-embeddings":
        return BagOfEmbeddings(shape, CLASSES, width=6, dropout=0.3)
    if kind == "small-transformer":
        return SmallTransformer(shape, CLASSES, width=8, heads=2, dropout=0.3)
    transformers = pytest.importorskip("transformers")
    config = {
        "vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 2, "num_labels": CLASSES,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 8,
        "hidden_dropout_prob": 0.3, "attn_implementation": "sdpa",
    }  # fmt: skip
    if kind == "bert":
        return transformers.BertForSequenceClassification(transformers.BertConfig(**config))
    assert kind == "albert"  # its layers share their weights, its embeddings are factorised
    config |= {"embedding_size": 5, "classifier_dropout_prob": 0.3}
    return transformers.AlbertForSequenceClassification(transformers.AlbertConfig(**config))


@pytest.fixture(params=["bag-of-embeddings", "small-transformer", "bert", "albert"])
def model(request):
    torch.manual_seed(4)
    found = tiny(request.param).double().train()
    with torch.no_grad():  # away from the initial weights, where losses hardly differ
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return found


@pytest.fixture
def pool():
    generator = torch.Generator().manual_seed(1)
    ids_BL = torch.randint(1, VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask_BL = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    targets_B = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    ids_B = torch.tensor([50, 20, 70, 10, 60, 30, 40])
    return ids_B, {"input_ids": ids_BL * mask_BL, "attention_mask": mask_BL}, targets_B


def logits_of(model, inputs):
    output = model(**inputs)
    return getattr(output, "logits", output)


def one_at_a_time(model, pool):
    """Losses, norms over all parameters, EL2N (the norm over the logits), probabilities."""
    model.eval()
    rows = []
    for row, length in enumerate(LENGTHS):
        inputs = {key: value[row : row + 1, :length] for key, value in pool[1].items()}
        logits = logits_of(model, inputs)
        loss = F.cross_entropy(logits, pool[2][row : row + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))
        probs = logits.softmax(1)[0].detach()
        el2n = float((probs - F.one_hot(pool[2][row], CLASSES)).norm())
        rows.append((loss.item(), norm, el2n, probs))
    model.train()
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_losses_and_el2n_of_texts_of_any_length(model, pool, micro_batch):
    losses, _, el2n, probs = one_at_a_time(model, pool)
    scoring = ScoringPass(model, micro_batch=micro_batch)
    found = scoring(pool, {"loss_B", "grad_norm_bound_B", "log_probs_BC"})
    assert found.loss_B.tolist() == pytest.approx(losses, rel=1e-5)
    assert found.grad_norm_bound_B.tolist() == pytest.approx(el2n, rel=1e-5)
    torch.testing.assert_close(
        found.log_probs_BC.exp().double(), torch.stack(probs), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_exact_gradient_norms_of_texts(model, pool, micro_batch):
    losses, norms, _, _ = one_at_a_time(model, pool)
    model.eval()
    found = gradient_norms(model, pool[1], pool[2], micro_batch=micro_batch)
    assert found.grad_norm_B.tolist() == pytest.approx(norms, rel=1e-9)
    assert found.loss_B.tolist() == pytest.approx(losses, rel=1e-9)
    model.train()
    through = ScoringPass(model, micro_batch=micro_batch)(pool, {"loss_B", "grad_norm_B"})
    assert through.grad_norm_B.tolist() == pytest.approx(norms, rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_the_models_of_the_house_need_no_second_pass(pool):
    for kind in ("bag-of-embeddings", "small-transformer", "bert"):
        found = gradient_norms(tiny(kind).eval(), pool[1], pool[2])
        assert found.slow_parameters == (), kind


def test_dropout_samples_are_functions_of_the_text(model, pool):
    def samples(batch, **settings):
        scoring = ScoringPass(model, mc_samples=4, **settings)
        return scoring(batch, {"mc_log_probs_KBC"}, seed=3).mc_log_probs_KBC

    whole = samples(pool)
    assert whole.shape == (4, len(LENGTHS), CLASSES)
    assert not torch.allclose(whole[0], whole[1], rtol=1e-3)
    torch.testing.assert_close(samples(pool, micro_batch=2), whole)
    order = torch.tensor([6, 0, 3, 1, 5, 2, 4])
    turned = (pool[0][order], {k: v[order] for k, v in pool[1].items()}, pool[2][order])
    torch.testing.assert_close(samples(turned), whole[:, order])
    assert model.training
