"""Objectives: losses, what is right and metrics against slow float64 references, and refusals."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn
from torch.nn import functional as F

import goldiprox
from goldiprox.batch import take
from goldiprox.chooser import Chooser
from goldiprox.config import (
    CompareConfig,
    IrreducibleConfig,
    TrainConfig,
    config_hash,
    settings_of,
)
from goldiprox.data.datasets import load
from goldiprox.data.splits import DataConfig, make_splits
from goldiprox.objectives import (
    CLASSIFICATION,
    OBJECTIVES,
    Classification,
    LanguageModel,
    Multilabel,
    Objective,
    Regression,
    objective,
)
from goldiprox.precompute.data_diet import ScoreConfig
from goldiprox.schema import ConfigError, DataError, NonFinite, TableError
from goldiprox.seeds import stream
from goldiprox.selection.methods import METHODS, method
from objective_cases import IDS, B, C, cases, drawn
from objective_cases.language_model import L, V, token_labels

D = 5
CASES = cases()
OUTPUTS = {name: (case.OUTPUT, case.TARGETS) for name, case in CASES.items()}
NAMES = list(CASES)


def batch_of(name):
    return (IDS, None, OUTPUTS[name][1])


def plain_losses(name, output, targets):
    """A Python loop over the examples, in float64."""
    pairs = zip(output.double().tolist(), targets.tolist(), strict=True)
    return torch.tensor([CASES[name].loss_of(z, t) for z, t in pairs], dtype=torch.float64)


def test_every_built_in_objective_is_tried_here():
    assert set(NAMES) == set(OBJECTIVES)
    for name, entry in OBJECTIVES.items():
        assert entry.name == name
        assert entry is objective(name) is objective(entry)
        assert all(metric.name and metric.title for metric in entry.metrics)


@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_a_loop_over_the_examples(name):
    output, targets = OUTPUTS[name]
    loss_B = OBJECTIVES[name].losses(output, batch_of(name))
    expected = plain_losses(name, output, targets)
    assert loss_B.dtype == torch.float32
    assert torch.allclose(loss_B.double(), expected, rtol=1e-5, atol=1e-6)
    precise = OBJECTIVES[name].losses(output.double(), batch_of(name))
    assert torch.allclose(precise, expected, rtol=1e-12)
    narrow = OBJECTIVES[name].losses(output.bfloat16(), batch_of(name))
    assert narrow.dtype == torch.float32
    assert torch.allclose(
        narrow.double(), plain_losses(name, output.bfloat16(), targets), rtol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_lowers_the_weighted_mean_of_the_losses(name, weighted):
    output, targets = OUTPUTS[name]
    leaf = output.clone().requires_grad_()
    weights = torch.rand(B, generator=stream(7)) if weighted else None
    mean, loss_k, correct = OBJECTIVES[name].step(leaf, batch_of(name), weights)
    expected = plain_losses(name, output, targets)
    assert torch.allclose(loss_k.double(), expected, rtol=1e-5, atol=1e-6)
    assert not loss_k.requires_grad
    right = OBJECTIVES[name].correct(output, batch_of(name))
    assert torch.equal(correct, right) if right is not None else correct is None
    factor = 1.0 if weights is None else weights.double()
    assert mean.item() == pytest.approx(float((factor * expected).mean()), rel=1e-5)
    mean.backward()
    other = output.clone().requires_grad_()
    (OBJECTIVES[name].losses(other, batch_of(name)) * (1.0 if weights is None else weights)).mean(
    ).backward()  # fmt: skip
    assert torch.allclose(leaf.grad, other.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_losses_work_inside_function_transforms(name):
    """As the slow path of exact gradient norms uses them."""
    output, targets = OUTPUTS[name]
    entry = OBJECTIVES[name]

    def of_one(z, t):
        return entry.losses(z.unsqueeze(0), (IDS[:1], None, t.unsqueeze(0))).sum()

    slope = torch.func.vmap(torch.func.grad(of_one))(output, targets)
    leaf = output.clone().requires_grad_()
    entry.losses(leaf, batch_of(name)).sum().backward()
    assert torch.allclose(slope, leaf.grad, rtol=1e-5, atol=1e-7)


def measured(name):
    output, _ = OUTPUTS[name]
    entry = OBJECTIVES[name]
    batch = batch_of(name)
    halves = [torch.arange(0, 13), torch.arange(13, B)]  # results come batch by batch
    parts = [entry.results(output[half], take(batch, half)) for half in halves]
    results = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    found = entry.measure(entry.losses(output, batch), results)
    assert set(found) <= {metric.name for metric in entry.metrics}
    assert entry.headline.name in found
    return found


def test_metrics_of_classification_are_scikit_learns():
    output, targets = OUTPUTS["classification"]
    found = measured("classification")
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets, output.argmax(1)))
    assert found["loss"] == pytest.approx(
        sk.log_loss(targets, output.double().softmax(1), labels=[0, 1, 2]), rel=1e-6
    )


def test_metrics_of_several_labels_are_scikit_learns():
    output, targets = OUTPUTS["multilabel"]
    present, predicted = targets.int().numpy(), (output > 0).int().numpy()
    found = measured("multilabel")
    for how in ("micro", "macro"):
        assert found[f"{how}_f1"] == pytest.approx(sk.f1_score(present, predicted, average=how))
    assert found["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(present, output.numpy(), average="macro")
    )
    assert found["exact"] == pytest.approx(sk.accuracy_score(present, predicted))


def test_a_label_that_nobody_has_is_left_out_of_the_mean_average_precision():
    output, targets = OUTPUTS["multilabel"]
    targets = targets.clone()
    targets[:, 1] = 0
    entry, batch = Multilabel(), (IDS, None, targets)
    found = entry.measure(entry.losses(output, batch), entry.results(output, batch))
    kept = [0, 2]
    assert found["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(targets[:, kept].numpy(), output[:, kept].numpy())
    )
    expected = sk.f1_score(targets.numpy(), (output > 0).numpy(), average="macro")
    assert found["macro_f1"] == pytest.approx(expected)
    nobody = (IDS, None, torch.zeros(B, C))
    found = entry.measure(entry.losses(-output.abs(), nobody), entry.results(-output.abs(), nobody))
    assert found["micro_f1"] == found["macro_f1"] == 0
    assert found["exact"] == 1
    assert "mean_average_precision" not in found


def test_one_label_is_a_yes_or_no():
    """With one logit an example, in one dimension or two."""
    logits, targets = drawn(B), (drawn(B, seed=5) > 0).long()
    flat = Multilabel().losses(logits, (IDS, None, targets))
    column = Multilabel().losses(logits.unsqueeze(1), (IDS, None, targets.bool()))
    expected = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    assert torch.equal(flat, expected)
    assert torch.equal(column, expected)
    entry, batch = Multilabel(), (IDS, None, targets)
    found = entry.measure(flat, entry.results(logits, batch))
    assert found["micro_f1"] == pytest.approx(sk.f1_score(targets, logits > 0))
    assert found["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(targets, logits)
    )


@pytest.mark.parametrize("name", ["regression", "regression-absolute", "regression-huber"])
def test_metrics_of_regression_are_scikit_learns(name):
    output, targets = OUTPUTS[name]
    predicted, actual = output.reshape(B, -1).double(), targets.reshape(B, -1).double()
    found = measured(name)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(actual, predicted))
    assert found["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(actual, predicted)))
    assert found["r2"] == pytest.approx(sk.r2_score(actual, predicted))
    assert OBJECTIVES[name].headline.name == ("rmse" if name == "regression" else "mae")
    assert not OBJECTIVES[name].headline.higher_is_better


def test_targets_that_do_not_vary_have_no_r2():
    entry, batch = Regression(), (IDS, None, torch.ones(B))
    assert "r2" not in entry.measure(entry.losses(drawn(B), batch), entry.results(drawn(B), batch))


def test_metrics_of_a_language_model_weigh_every_token_alike():
    output, labels = OUTPUTS["language-model"]
    found = measured("language-model")
    logits, following = output[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1)
    nats = float(F.cross_entropy(logits.double(), following))  # -100 does not count
    assert found["nats_per_token"] == pytest.approx(nats, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-6)
    assert found["loss"] != pytest.approx(nats, rel=1e-3)  # every text alike
    summed = LanguageModel("sum")
    batch = batch_of("language-model")
    again = summed.measure(summed.losses(output, batch), summed.results(output, batch))
    assert again["nats_per_token"] == pytest.approx(nats, rel=1e-6)


def test_token_losses_and_their_mask():
    output, labels = OUTPUTS["language-model"]
    loss_BL, mask_BL = LanguageModel().token_losses(output, batch_of("language-model"))
    assert loss_BL.shape == mask_BL.shape == (B, L - 1)
    assert torch.equal(mask_BL, labels[:, 1:] != -100)
    for i in range(B):
        for t in range(L - 1):
            label = int(labels[i, t + 1])
            expected = 0.0 if label == -100 else -float(output[i, t].log_softmax(0)[label])
            assert float(loss_BL[i, t]) == pytest.approx(expected, rel=1e-5)
    here, mask = LanguageModel(shift=False).token_losses(output, batch_of("language-model"))
    assert here.shape == (B, L)
    assert torch.equal(mask, labels != -100)
    assert float(here[0, 2]) == pytest.approx(-float(output[0, 2].log_softmax(0)[4]), rel=1e-5)


def test_the_shift_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=V, n_positions=L, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.randint(0, V, (1, L), generator=stream(8))
    labels = token_labels()[:1]
    with torch.no_grad():
        output = model(input_ids=tokens, labels=labels)
        batch = {"id": torch.tensor([3]), "input_ids": tokens, "labels": labels}
        table = goldiprox.irreducible_losses(model, [batch], objective="language-model")
    assert float(table.columns["irreducible_loss"][0]) == pytest.approx(float(output.loss))
    assert table.provenance["objective"] == "language-model"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("classification", lambda z, t: z.argmax(1) == t),
        ("multilabel", lambda z, t: ((z > 0) == t.bool()).all(1)),
        ("regression", None),
        ("language-model", None),
    ],
)
def test_what_is_right(name, expected):
    output, targets = OUTPUTS[name]
    found = OBJECTIVES[name].correct(output, batch_of(name))
    assert (found is None) == (expected is None)
    if expected is not None:
        assert torch.equal(found, expected(output, targets))
        assert 0 < int(found.sum()) < B


INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_any_integer_type_and_in_a_column(dtype):
    output, targets = OUTPUTS["classification"]
    expected = CLASSIFICATION.losses(output, batch_of("classification"))
    for given in (targets.to(dtype), targets.to(dtype).unsqueeze(1), F.one_hot(targets).to(dtype)):
        assert torch.allclose(CLASSIFICATION.losses(output, (IDS, None, given)), expected)
        right = CLASSIFICATION.correct(output, (IDS, None, given))
        assert torch.equal(right, output.argmax(1) == targets)
    evidence_form = CLASSIFICATION.targets((IDS, None, targets.to(dtype).unsqueeze(1)))
    assert evidence_form.dtype == torch.int64
    assert torch.equal(evidence_form, targets)


def test_labels_that_a_collate_function_left_as_they_were():
    output, targets = OUTPUTS["classification"]
    expected = CLASSIFICATION.losses(output, batch_of("classification"))
    for given in (targets.tolist(), targets.numpy(), targets.int().numpy()):
        assert torch.equal(CLASSIFICATION.losses(output, {"id": IDS, "labels": given}), expected)
    for given in (["a"] * B, [[0]] * B, np.array(["a"] * B), [2**70] * B):
        with pytest.raises(DataError, match="no labels in the usual place"):
            CLASSIFICATION.losses(output, {"id": IDS, "labels": given})


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_choose_from_is_no_error(name):
    output, targets = (values[:0] for values in OUTPUTS[name])
    model = Head(*output.shape[1:])
    batch = (IDS[:0], INPUTS[:0], targets)
    for by in ("loss", "grad-norm-bound", "grad-norm-last-layer"):
        assert len(Chooser(model, by, objective=name)(batch).selection) == 0


class Head(nn.Module):
    """A linear model whose output has any shape an example."""

    def __init__(self, *shape):
        super().__init__()
        torch.manual_seed(0)
        self.shape = shape
        self.linear = nn.Linear(D, math.prod(shape))

    def forward(self, x):
        return self.linear(x).view(len(x), *self.shape)


INPUTS = drawn(B, D, seed=9)

MISFITS = {
    # shape of the output, targets, objective; the words that have to be said
    "unlabelled": ((C,), torch.full((B,), -100), "classification", "label -100.*leave unlab"),
    "from one": ((C,), torch.arange(B) % C + 1, "classification", "label 3 .*3 classes, 0 to 2"),
    "several": ((C,), torch.ones(B, C), "classification", "sum.*--objective multilabel"),
    "several, int": ((C,), torch.ones(B, C).int(), "classification", "multilabel"),
    "one logit": ((1,), torch.zeros(B).long(), "classification", "one number.*multilabel"),
    "flat": ((), torch.zeros(B), "classification", "one number.*regression"),
    "tokens": ((L, V), torch.zeros(B, L).long(), "classification", "language-model"),
    "token labels": (
        (C,),
        torch.zeros(B, L).long(),
        "classification",
        r"labels .*shape \(\d+, 6\)",
    ),
    "images": ((C, 4, 4), torch.zeros(B, 4, 4).long(), "classification", "of your own"),
    "one for all": ((C,), torch.tensor(1), "classification", "single label"),
    "too few": ((C,), torch.zeros(B - 1).long(), "classification", "39 labels|shape .39,"),
    "column of numbers": ((C,), torch.rand(B, 1), "classification", "--objective regression"),
    "complex": ((), torch.zeros(B) + 1j, "regression", "two targets"),
    "complex classes": ((C,), torch.ones(B) + 0j, "classification", "complex"),
    "numbers": ((C,), torch.rand(B), "classification", "float32.*--objective regression"),
    "soft of other classes": ((C,), torch.ones(B, 4) / 4, "classification", "3 classes"),
    "classes": ((C,), torch.arange(B) % C, "multilabel", "--objective classification"),
    "not 0 or 1": ((C,), -torch.ones(B, C), "multilabel", r"\d+ examples.*0 or 1"),
    "unknown": ((C,), torch.full((B, C), math.nan), "multilabel", "0 or 1"),
    "broadcast": ((C,), torch.rand(B), "regression", "as many outputs.*classification"),
    "missing": ((), torch.full((B,), math.nan), "regression", "NaN or infinite.*ids"),
    "infinite": ((), torch.full((B,), math.inf), "regression-huber", "NaN or infinite"),
    "a class a text": ((V,), torch.zeros(B).long(), "language-model", "--objective classification"),
    "other tokens": ((L, V), torch.full((B, L), V), "language-model", f"label {V} .*{V} tokens"),
    "negative": ((L, V), torch.full((B, L), -1), "language-model", "label -1 .*or -100"),
    "nothing counts": ((L, V), torch.full((B, L), -100), "language-model", "no token that counts"),
    "float tokens": ((L, V), torch.zeros(B, L), "language-model", "token numbers"),
}


@pytest.mark.parametrize("what", MISFITS)
@pytest.mark.parametrize("how", ["choose", "norms", "table", "micro-batches"])
def test_what_does_not_fit_is_refused_in_one_line(what, how):
    shape, targets, name, words = MISFITS[what]
    model, batch = Head(*shape), (IDS, INPUTS, targets)

    def look():
        if how == "table":
            return goldiprox.irreducible_losses(model, [batch], objective=name)
        chosen_by = "grad-norm" if how == "norms" else "loss"
        size = 7 if how == "micro-batches" else None
        return Chooser(model, chosen_by, objective=name, micro_batch=size)(batch)

    with pytest.raises(DataError, match=words) as refused:
        look()
    assert "\n" not in str(refused.value)


def test_what_a_method_does_not_read_is_not_looked_at():
    """Entropy of unlabelled examples is active learning, not a mistake."""
    model = nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.Linear(8, C))
    batch = (IDS, INPUTS, torch.full((B,), -100))
    assert len(Chooser(model, "entropy")(batch).selection) == 4
    assert len(Chooser(model, "entropy")((IDS, INPUTS)).selection) == 4
    with pytest.raises(DataError, match="label -100"):
        Chooser(model, "loss-minus-conditional-entropy")(batch)


@pytest.mark.parametrize("name", ["bald", "divbs", "reducr", "loss@class-balanced", "svp",
                                  "irreducible-filter", "rho-loss@filtered"])  # fmt: skip
@pytest.mark.parametrize("trained_for", ["multilabel", "regression", "language-model"])
def test_methods_of_classes_refuse_other_objectives(name, trained_for, make_table):
    with pytest.raises(ConfigError, match=rf'"{name}".*"{trained_for}"'):
        Chooser(Head(C), name, objective=trained_for, irreducible=make_table(range(9)))


def test_a_table_of_another_objective_is_refused():
    batch = (IDS, INPUTS, torch.rand(B))
    table = goldiprox.irreducible_losses(Head(), [batch], objective="regression")
    Chooser(Head(), "rho-loss", objective="regression", irreducible=table)(batch)
    with pytest.raises(TableError, match=r'"regression".*"regression-huber"'):
        Chooser(Head(), "rho-loss", objective="regression-huber", irreducible=table)


@pytest.mark.parametrize("method_name", ["loss", "grad-norm", "grad-norm-bound"])
def test_outputs_that_are_no_floating_point_numbers_are_refused(method_name):
    class Counts(nn.Linear):
        def forward(self, x):
            return super().forward(x).long()

    batch = (IDS, drawn(B, D), torch.arange(B) % C)
    with pytest.raises(DataError, match="int64 tensor"):
        Chooser(Counts(D, C), method_name)(batch)


def test_a_label_that_is_no_class_has_no_loss():
    labels = torch.arange(B) % C
    labels[3], labels[5] = -100, C
    losses = Classification().losses(drawn(B, C), (IDS, None, labels))
    assert losses.isnan().nonzero().flatten().tolist() == [3, 5]


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(V, 8)
        self.head = nn.Linear(8, V)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.head(self.embedding(input_ids).cumsum(1)))


def text_batch():
    tokens = torch.randint(0, V, (B, L), generator=stream(12))
    return {"id": IDS, "input_ids": tokens, "labels": token_labels()}


def test_a_language_model_chooses_by_the_mean_loss_of_its_tokens():
    model, batch = Tagger(), text_batch()
    with pytest.raises(DataError, match="language-model"):
        Chooser(model, "loss")(batch)
    choose = Chooser(model, "loss", share=0.25, objective="language-model")
    chosen = choose(batch)
    by_hand = []
    for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        with torch.no_grad():
            logits = model(tokens.unsqueeze(0)).logits[0].double()
        terms = [-float(logits[t].log_softmax(0)[labels[t + 1]]) for t in range(L - 1)
                 if labels[t + 1] != -100]  # fmt: skip
        by_hand.append(sum(terms) / len(terms))
    by_hand = torch.tensor(by_hand)
    assert torch.allclose(chosen.selection.scores_B, by_hand, rtol=1e-5)
    expected = IDS[by_hand.topk(10).indices]
    assert set(chosen.batch["id"].tolist()) == set(expected.tolist())
    assert chosen.batch["labels"].shape == (10, L)


def test_padding_is_cut_off_labels_too_where_they_belong_to_tokens():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Tagger()

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids * attention_mask).logits

    torch.manual_seed(0)
    model = Padded()
    tokens = torch.randint(0, V, (B, L), generator=stream(12))
    lengths = torch.randint(2, L + 1, (B,), generator=stream(13))
    mask = (torch.arange(L) < lengths.unsqueeze(1)).long()
    labels = tokens.masked_fill(mask == 0, -100)
    batch = (IDS, {"input_ids": tokens, "attention_mask": mask}, labels)
    choose = Chooser(model, "loss", objective="language-model", micro_batch=5)
    scores = choose(batch).selection.scores_B
    output = model(tokens, mask)
    assert torch.allclose(scores, LanguageModel().losses(output, batch), rtol=1e-5)


class Mine(Objective):
    """Quantile loss, with a metric of its own."""

    name = "median"
    metrics = (goldiprox.Metric(name="within", title="within 1", higher_is_better=True),)

    def losses(self, output, batch):
        return (output - batch[2]).abs()

    def results(self, output, batch):
        return {"within": (output - batch[2]).abs() < 1}

    def measure(self, loss_N, results):
        return {"within": float(results["within"].double().mean())}


def absolute(output, batch):
    return (output - batch[2]).abs()


def total(output, batch):
    return absolute(output, batch).sum()


@pytest.fixture
def mine(monkeypatch):
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "mine_objectives", module)
    return "mine_objectives"


def test_objectives_of_the_users_own_by_name_and_as_they_are(mine):
    batch = (IDS, INPUTS, 3 * drawn(B, seed=14))
    expected = Chooser(Head(), "loss", objective="regression-absolute")(batch).batch[0]
    for given in (Mine, Mine(), absolute, f"{mine}:Mine", f"{mine}:absolute"):
        assert torch.equal(Chooser(Head(), "loss", objective=given)(batch).batch[0], expected)
        norms = Chooser(Head(), "grad-norm", objective=given)(batch).selection.scores_B
        slopes = torch.hypot(torch.linalg.vector_norm(INPUTS, dim=1), torch.ones(B))
        assert torch.allclose(norms, slopes, rtol=1e-4)
    assert objective(f"{mine}:absolute").name == f"{mine}:absolute"
    assert objective(f"{mine}:Mine").name == "median"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("regresion", 'did you mean "regression"'),
        ("nothing:here", "cannot import objective"),
        ("mine_objectives:absent", "has no absent"),
        ("mine_objectives:B", "is a int"),
        (3, "make it a goldiprox.Objective"),
    ],
)
def test_what_is_no_objective_is_refused(given, words, mine):
    with pytest.raises(ConfigError, match=words):
        objective(given)


def test_losses_of_ones_own_must_be_one_an_example():
    batch = (IDS, INPUTS, drawn(B, seed=14))
    for by in ("loss", "grad-norm", "grad-norm-bound"):
        with pytest.raises(ConfigError, match="for 40 examples"):
            Chooser(Head(), by, objective=total)(batch)


def test_two_answers_to_what_the_loss_is_are_refused():
    with pytest.raises(ConfigError, match="give one of them"):
        Chooser(Head(), "loss", objective="regression", per_example_loss=lambda m, b: b[2])


def test_a_subclass_of_classification_chooses_by_its_own_losses():
    class Smooth(Classification):
        def losses(self, output, batch):
            return F.cross_entropy(output, batch[2], reduction="none", label_smoothing=0.9)

    batch = (IDS, INPUTS, OUTPUTS["classification"][1])
    model = Head(C)
    scores = Chooser(model, "loss", objective=Smooth)(batch).selection.scores_B
    with torch.no_grad():
        assert torch.allclose(scores, Smooth().losses(model(INPUTS), batch))
    assert len(Chooser(model, "divbs", objective=Smooth)(batch).selection) == 4


def test_an_infinite_loss_in_a_table_is_refused_by_id():
    inputs = INPUTS.clone()
    inputs[7] = math.inf
    with pytest.raises(NonFinite, match=rf"ids {int(IDS[7])}\)"):
        goldiprox.irreducible_losses(Head(), [(IDS, inputs, drawn(B))], objective="regression")


WRITTEN_BY_0_1_0 = {
    TrainConfig: "adb2f97805204d4a",
    CompareConfig: "ade796abb034b237",
    IrreducibleConfig: "e77fc8f3556c8135",
    ScoreConfig: "c7656654263d83b7",
}


@pytest.mark.parametrize("kind", WRITTEN_BY_0_1_0)
def test_folders_of_version_0_1_0_are_still_known_as_the_same(kind):
    """A setting added since, at the value that says what 0.1.0 did, stands in config.LATER."""
    assert config_hash(settings_of(kind())) == WRITTEN_BY_0_1_0[kind]
    if kind is not ScoreConfig:
        assert settings_of(kind(objective="regression"))["objective"] == "regression"
    with pytest.raises(ConfigError, match="unknown objective"):
        kind(objective="regresion")


def test_settings_of_files_decide_nothing_of_a_data_set_whose_form_is_known():
    named = make_splits(load("digits"), DataConfig(dataset="digits")).identity()
    assert not {"data_dir", "image_fit", "background", "feature_columns"} & named.keys()
    assert {"dataset", "label_noise", "holdout_mode"} <= named.keys()


def test_the_irreducible_model_is_trained_for_what_the_target_is():
    beside = IrreducibleConfig().beside("regression")
    assert beside.training("mlp-128", 50).objective == "regression"
    with pytest.raises(ConfigError, match=r"multilabel is not .* regression"):
        IrreducibleConfig(objective="multilabel").beside("regression")


def test_scores_of_classifiers_are_refused_for_other_objectives():
    ScoreConfig(objective="regression", scores=("grand", "loss"))
    with pytest.raises(ConfigError, match=r"score el2n is of classifiers.*--scores grand,"):
        ScoreConfig(objective="regression")


def test_which_methods_work_for_every_objective():
    general = {name for name in METHODS if not METHODS[name].needs_classes}
    assert {"loss", "rho-loss", "grad-norm", "grad-norm-bound", "grad-norm-last-layer"} <= general
    assert {"uniform", "learnability", "infobatch", "jest", "svp-k-center"} <= general
    assert not method("rho-loss@gumbel=0.5").needs_classes
    assert method("uniform@class-balanced").needs_classes
