"""The chooser in a training loop of the user's own."""

import dataclasses
import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import goldiprox
from goldiprox import Chooser
from goldiprox.schema import ConfigError, DataError, NonFinite, TableError
from goldiprox.selection.methods import METHODS, Method
from goldiprox.selection.selectors import TopK

N, D, C = 60, 5, 3


class Rows(Dataset):
    """Items as dicts, the way text data sets give them."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, position):
        return {"features": self.inputs[position], "labels": self.targets[position],
                "name": f"row {position}"}  # fmt: skip


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, C)

    def forward(self, features, name=None):
        return self.net(features)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, D, generator=generator)
    return inputs, torch.randint(0, C, (N,), generator=generator)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, C))


def loader(dataset, size=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size=size, shuffle=True, generator=generator)


def test_a_loop_with_tuples_trains_on_the_highest_reducible_losses(model, data, make_table):
    table = make_table(range(N))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    choose = goldiprox.Chooser(model, "rho-loss", share=0.25, irreducible=table)
    before = F.cross_entropy(model(data[0]), data[1]).item()
    for epoch in range(6):
        for pool in loader(goldiprox.with_ids(TensorDataset(*data)), seed=epoch):
            with torch.no_grad():
                losses = F.cross_entropy(model(pool[1]), pool[2], reduction="none")
            reducible = {
                int(i): float(loss) - float(table.columns["irreducible_loss"][int(i)])
                for i, loss in zip(pool[0], losses, strict=True)
            }
            expected = sorted(reducible, key=lambda i: (-reducible[i], i))[:5]
            chosen = choose(pool)
            ids, inputs, targets = chosen.batch
            assert sorted(ids.tolist()) == sorted(expected)
            assert torch.equal(inputs, data[0][ids])
            assert torch.equal(targets, data[1][ids])
            assert torch.equal(chosen.weights, torch.ones(5))
            loss = F.cross_entropy(model(inputs), targets, reduction="none")
            optimizer.zero_grad()
            (loss * chosen.weights).mean().backward()
            optimizer.step()
    assert choose.step == 18
    assert F.cross_entropy(model(data[0]), data[1]).item() < before


def test_a_loop_with_dicts(data, make_table, tmp_path):
    torch.manual_seed(0)
    model = Keyword()
    make_table(range(N)).write(tmp_path / "il.parquet")
    choose = goldiprox.Chooser(
        model,
        "rho-loss",
        share=0.1,
        irreducible=str(tmp_path / "il.parquet"),
        logits=lambda model, batch: model(batch["features"]),
    )
    for pool in loader(goldiprox.with_ids(Rows(*data))):
        chosen = choose(pool)
        assert set(chosen.batch) == {"id", "features", "labels", "name"}
        assert chosen.batch["name"] == [f"row {i}" for i in chosen.batch["id"].tolist()]
        assert torch.equal(chosen.batch["labels"], data[1][chosen.batch["id"]])
        assert len(chosen.batch["id"]) == 2
        del pool["name"]
        default = goldiprox.Chooser(model, "loss", share=0.1)(pool)
        assert set(default.batch) == {"id", "features", "labels"}


def test_ids_that_the_table_lacks_are_named(model, data, make_table):
    table = make_table([i for i in range(N) if i not in (4, 17)])
    pool = (torch.tensor([1, 17, 2, 4, 500]), data[0][:5], data[1][:5])
    for method in ("rho-loss", "irreducible"):
        choose = goldiprox.Chooser(model, method, irreducible=table)
        with pytest.raises(
            TableError, match=r"lacks 3 of 5 ids .*first: 17, 4, 500\).*goldiprox irreducible"
        ):
            choose(pool)
        assert choose.step == 0
    assert len(goldiprox.Chooser(model, "uniform", irreducible=table)(pool).weights) == 1


@pytest.mark.parametrize("id_", [-1, 10**12])
def test_ids_outside_the_table_are_named_not_wrapped_around(model, data, make_table, id_):
    choose = goldiprox.Chooser(model, "rho-loss", irreducible=make_table(range(N)))
    with pytest.raises(TableError, match=f"first: {id_}"):
        choose((torch.tensor([id_, 3]), data[0][:2], data[1][:2]))


def test_a_loss_that_is_nan_is_not_blamed_on_the_table(model, data, make_table):
    inputs = data[0].clone()
    inputs[7] = math.nan
    choose = goldiprox.Chooser(model, "rho-loss", irreducible=make_table(range(N)))
    with pytest.raises(NonFinite, match=r"reducible loss.*ids 7\)"):
        choose((torch.arange(20), inputs[:20], data[1][:20]))


def test_a_table_with_an_infinite_value_is_refused(model, data, make_table):
    table = make_table(range(N))
    table.columns["irreducible_loss"][3] = math.inf
    choose = goldiprox.Chooser(model, "irreducible", irreducible=table)
    with pytest.raises(TableError, match=r"table holds an infinite value for 1 of 20 .*first: 3\)"):
        choose((torch.arange(20), data[0][:20], data[1][:20]))


@pytest.mark.parametrize(
    ("share", "size", "expected"),
    [(0.1, 320, 32), (0.1, 319, 31), (0.1, 10, 1), (0.1, 9, 1), (0.1, 1, 1), (1.0, 7, 7),
     (0.29, 100, 29), (0.07, 100, 7), (1 / 3, 3, 1), (0.5, 5, 2), (0.999, 10, 9),
     (32 / 320, 320, 32), (0.1, 0, 0)],
)  # fmt: skip
def test_shares_round_down_but_never_to_nothing(model, share, size, expected):
    choose = goldiprox.Chooser(model, "uniform", share=share)
    assert len(choose.select((torch.arange(size),))) == expected


def test_every_whole_share_of_the_paper_is_exact(model):
    for percent in range(1, 101):
        choose = goldiprox.Chooser(model, "uniform", share=percent / 100)
        assert len(choose.select((torch.arange(300),))) == 3 * percent


@pytest.mark.parametrize("share", [0, -0.1, 1.01, math.nan])
def test_impossible_shares_are_refused(model, share):
    with pytest.raises(ConfigError, match="share is"):
        goldiprox.Chooser(model, share=share)


def test_settings_are_checked_when_it_is_made(model, make_table):
    with pytest.raises(ConfigError, match="goldiprox irreducible DATASET"):
        goldiprox.Chooser(model, "rho-loss")
    with pytest.raises(ConfigError, match="unknown method"):
        goldiprox.Chooser(model, "rho")
    table = dataclasses.replace(make_table(range(4)), columns={})
    with pytest.raises(TableError, match="no column irreducible_loss"):
        goldiprox.Chooser(model, "rho-loss", irreducible=table)
    with pytest.raises(TableError, match="does not exist"):
        goldiprox.Chooser(model, "rho-loss", irreducible="absent.parquet")


def test_random_choices_go_on_where_the_state_dict_was_taken(model):
    pools = [(torch.arange(i, i + 50),) for i in range(0, 500, 50)]

    def ids(chooser, some):
        return [chooser.select(pool).ids_k.tolist() for pool in some]

    whole = ids(goldiprox.Chooser(model, "uniform", seed=3), pools)
    first = goldiprox.Chooser(model, "uniform", seed=3)
    head = ids(first, pools[:4])
    later = goldiprox.Chooser(model, "uniform", seed=3)
    later.load_state_dict(first.state_dict())
    assert head + ids(later, pools[4:]) == whole
    same_pool = ids(goldiprox.Chooser(model, "uniform", seed=3), pools[:1] * 5)
    assert len({tuple(choice) for choice in same_pool}) == 5
    assert ids(goldiprox.Chooser(model, "uniform", seed=4), pools) != whole


def test_a_method_of_ones_own_may_be_given_itself(model, data):
    entry = dataclasses.replace(METHODS["loss"], name="mine")
    pool = (torch.arange(N), *data)
    mine = goldiprox.Chooser(model, entry)(pool)
    assert torch.equal(mine.batch[0], goldiprox.Chooser(model, "loss")(pool).batch[0])


def test_what_is_known_already_is_not_looked_up(model, data, make_table):
    pool = (torch.arange(N), *data)
    known = torch.arange(N).double()
    choose = goldiprox.Chooser(model, "irreducible", irreducible=make_table(range(N)))
    assert set(choose(pool, {"irreducible_B": known}).batch[0].tolist()) == set(range(6))


def test_a_loss_of_ones_own_decides(model, data):
    def regression(model, batch):
        return (model(batch[1])[:, 0] - batch[2]) ** 2

    pool = (torch.arange(N), *data)
    chosen = goldiprox.Chooser(model, "loss", per_example_loss=regression)(pool)
    with torch.no_grad():
        errors = regression(model, pool)
    assert set(chosen.batch[0].tolist()) == set(errors.topk(6).indices.tolist())


@pytest.mark.parametrize("name", ["rs2", "infobatch"])
def test_methods_that_decide_for_whole_epochs_are_refused(name):
    choose = goldiprox.Chooser(nn.Linear(2, 2), name)
    with pytest.raises(ConfigError, match=f'"{name}" decides for whole epochs'):
        choose((torch.arange(4), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)))


@pytest.mark.parametrize("name", ["loss", "loss@gumbel", "rank-based", "rho-loss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_a_forward_pass_of_ones_own_may_carry_a_graph(
    model, data, make_table, name, dtype
):
    inputs, targets = data
    ids = torch.arange(N)
    losses = F.cross_entropy(model(inputs), targets, reduction="none").to(dtype)
    table = make_table(range(N))
    given = Chooser(model, name, irreducible=table)(
        (ids, inputs, targets), known={"loss_B": losses}
    )
    plain = Chooser(model, name, irreducible=table)(
        (ids, inputs, targets), known={"loss_B": losses.detach().float()}
    )
    assert torch.equal(given.selection.ids_k, plain.selection.ids_k)
    assert not given.selection.scores_B.requires_grad


def test_a_score_of_ones_own_may_be_bfloat16_or_carry_a_graph(model, data):
    inputs, targets = data
    weight = torch.ones((), requires_grad=True)
    for score in (lambda e: e.loss_B.bfloat16(), lambda e: e.loss_B * weight):
        own = Method(
            name="mine", selector=TopK(score), needs=frozenset({"loss_B"}), summary="", source="me",
            cost="",
        )  # fmt: skip
        chosen = Chooser(model, own)((torch.arange(N), inputs, targets))
        assert chosen.selection.scores_B.dtype == torch.float32


@pytest.mark.parametrize("name", ["rho-loss-capped", "grad-norm-bound", "divbs", "reducr"])
def test_labels_that_are_probabilities_are_refused_where_a_class_is_needed(
    model, data, make_table, name
):
    inputs, targets = data
    soft = F.one_hot(targets, C).float()
    chooser = Chooser(model, name, irreducible=make_table(range(N)))
    with pytest.raises(ConfigError, match="not class numbers"):
        chooser((torch.arange(N), inputs, soft))


def test_a_last_layer_that_runs_on_every_token_has_no_features_of_examples(data):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(D, C)

        def forward(self, x):
            return self.head(x.unsqueeze(1).expand(-1, 3, -1)).mean(1)

    inputs, targets = data
    with pytest.raises(ConfigError, match="one vector for each"):
        Chooser(Tokens(), "divbs")((torch.arange(N), inputs, targets))


def test_the_layer_of_the_features_may_be_named(model, data):
    inputs, targets = data
    seen = []
    own = Method(
        name="mine", selector=TopK(lambda e: seen.append(e.features_BD) or e.loss_B),
        needs=frozenset({"loss_B", "features_BD"}), summary="", source="me", cost="",
    )  # fmt: skip
    for layer, width in ((None, 8), ("2", 8), ("0", D)):
        Chooser(model, own, feature_layer=layer)((torch.arange(N), inputs, targets))
        assert seen[-1].shape == (N, width)
    chooser = Chooser(model, own, feature_layer="7")
    with pytest.raises(ConfigError, match=r'"7" is no linear layer of the model.*0, 2'):
        chooser((torch.arange(N), inputs, targets))


@pytest.mark.parametrize("shared", [True, False])
def test_dropout_masks_are_as_many_as_asked_and_shared_where_asked(shared):
    dropped = nn.Sequential(nn.Dropout(0.5), nn.Linear(D, C))
    seen = []
    own = Method(
        name="mine",
        selector=TopK(lambda e: seen.append(e.mc_log_probs_KBC) or e.mc_log_probs_KBC[0, :, 0]),
        needs=frozenset({"mc_log_probs_KBC"}), summary="", source="me", cost="",
    )  # fmt: skip
    pool = (torch.arange(N), torch.ones(N, D), torch.zeros(N, dtype=torch.int64))
    chooser = Chooser(dropped, own, dropout_samples=3, dropout_shared=shared)
    assert chooser.passes == (3, 0)
    chooser(pool)
    (samples_KBC,) = seen
    assert samples_KBC.shape == (3, N, C)
    alike = (samples_KBC == samples_KBC[:, :1]).all(2).all(1)  # equal inputs, equal masks
    assert alike.tolist() == [shared] * 3
    with pytest.raises(ConfigError, match="0 dropout samples"):
        Chooser(dropped, own, dropout_samples=0)


class TimeFirst(nn.Module):
    """Takes [time, examples, features], as torch's recurrent layers do unless told otherwise."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, C)

    def forward(self, x):
        return self.net(x.mean(0))


class ExamplesFirst(TimeFirst):
    def forward(self, x):
        return self.net(x.mean(1))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_pool_as_large_as_another_axis_is_asked_of_the_model(data, share):
    inputs = torch.randn(16, 16, D)
    pool = (torch.arange(16), inputs, data[1][:16])
    choose = Chooser(ExamplesFirst(), "loss", share=share)
    for _ in range(2):
        chosen = choose(pool)
        assert torch.equal(chosen.batch[1], inputs[chosen.batch[0]])
    with pytest.raises(DataError, match=r"further axis of part 1 of the batch.*batch_first"):
        Chooser(TimeFirst(), "loss", share=share)(pool)


def test_the_model_is_asked_once_and_only_where_the_axis_is_open(data):
    calls = []

    class Counted(ExamplesFirst):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    choose = Chooser(Counted(), "loss", share=0.5)
    pool = (torch.arange(16), torch.randn(16, 16, D), data[1][:16])
    for _ in range(3):
        choose(pool)
    assert calls == [16, 2, 16, 16]
    calls.clear()
    choose = Chooser(Counted(), "loss", share=0.5)
    choose((torch.arange(8), torch.randn(8, 16, D), data[1][:8]))
    choose(pool)
    assert calls == [8, 16]


def test_a_last_pool_of_two_is_read_as_those_before_it(data):
    items = [(data[0][i], int(data[1][i]), ("en", f"s{i}")) for i in range(18)]
    choose = Chooser(nn.Linear(D, C), "loss", share=0.5)
    for pool in DataLoader(goldiprox.with_ids(items), batch_size=16):
        batch = choose(pool).batch
        assert list(batch[3][1]) == [f"s{i}" for i in batch[0].tolist()]


@pytest.mark.parametrize("method", ["loss", "grad-norm"])
@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_two_views_are_columns_however_the_pool_is_cut(data, method, micro_batch):
    """Parts of two examples, and a last pool of two, leave open what a pair holds."""
    items = [((data[0][i], data[0][i] + 1), int(data[1][i]), ("en", f"s{i}")) for i in range(12)]
    net = nn.Sequential(nn.Linear(D, 4), nn.PReLU(), nn.Linear(4, C))
    choose = Chooser(
        net, method, share=0.5, micro_batch=micro_batch,
        logits=lambda model, batch: model(batch[1][0]) + model(batch[1][1]),
    )  # fmt: skip
    for pool in DataLoader(goldiprox.with_ids(items), batch_size=5):
        batch = choose(pool).batch
        ids = batch[0].tolist()
        assert torch.equal(batch[1][0], data[0][ids])
        assert torch.equal(batch[1][1], data[0][ids] + 1)
        assert list(batch[3][1]) == [f"s{i}" for i in ids]


@pytest.mark.parametrize("method", ["loss", "grad-norm", "uniform"])
def test_targets_of_any_number_an_example_are_cut(data, method):
    boxes = [torch.full((i, 4), float(i)) for i in range(16)]
    pool = {"id": torch.arange(16), "x": data[0][:16], "labels": data[1][:16], "boxes": boxes}
    choose = Chooser(nn.Linear(D, C), method, logits=lambda model, batch: model(batch["x"]))
    batch = choose(pool).batch
    assert [len(found) for found in batch["boxes"]] == batch["id"].tolist()
    pool["weights"] = torch.ones(C)
    with pytest.raises(DataError, match=r'"weights" has the shape \(3,\) beside 16 ids'):
        choose(pool)


@dataclasses.dataclass
class Pool:
    ids: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor


@pytest.mark.parametrize("method", ["loss", "grad-norm", "uniform"])
def test_a_pool_may_be_a_dataclass(model, data, method):
    parts = (torch.arange(16), data[0][:16], data[1][:16])
    found = Chooser(model, method)(Pool(*parts)).batch
    plain = Chooser(model, method)(parts).batch
    assert isinstance(found, Pool)
    assert torch.equal(found.ids, plain[0])
    assert torch.equal(found.images, plain[1])


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_all_methods_cut_named_tuples_lists_and_arrays(data, micro_batch):
    pool_type = namedtuple("pool_type", "ids images labels names weights")
    names = [f"n{i}" for i in range(16)]
    pool = pool_type(torch.arange(16), data[0][:16], data[1][:16], names, np.arange(16) * 10)
    slow = nn.Sequential(nn.Linear(D, 4), nn.PReLU(), nn.Linear(4, C))
    for method in ("loss", "grad-norm", "uniform"):
        batch = Chooser(slow, method, share=0.25, micro_batch=micro_batch)(pool).batch
        ids = batch.ids.tolist()
        assert batch.names == [f"n{i}" for i in ids]
        assert batch.weights.tolist() == [10 * i for i in ids]
        assert torch.equal(batch.images, data[0][ids])
