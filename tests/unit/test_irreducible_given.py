"""Irreducible losses from a model of one's own or from plain numbers."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from goldiprox.precompute.given import table_from_model, table_from_values
from goldiprox.precompute.irreducible import irreducible_cost, require_fitting
from goldiprox.records.files import sha256_of
from goldiprox.records.tables import IRREDUCIBLE_LOSS
from goldiprox.schema import ConfigError, TableError


def net(shape, classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.BatchNorm1d(8), nn.Dropout(0.5),
        nn.Linear(8, classes),
    )  # fmt: skip


@pytest.fixture
def splits(make_tiny_splits):
    return make_tiny_splits(count=200, label_noise=0.2, duplicate=1.5)


@pytest.fixture
def trained(splits):
    """A model whose stored statistics are not those of a pool."""
    torch.manual_seed(3)
    model = net(splits.train.store.example_shape, splits.num_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        model[2].running_mean.normal_()
        model[2].running_var.uniform_(0.5, 2)
    return model.eval()


def slow_losses(model, splits):
    """One example at a time, in float64."""
    model, losses = model.double(), []
    mean, std = float(splits.preprocess.mean_C[0]), float(splits.preprocess.std_C[0])
    with torch.no_grad():
        for row, target in zip(splits.train.rows_N, splits.train.targets_N, strict=True):
            image = (splits.train.store.images_NCHW[row].double() / 255 - mean) / std
            losses.append(float(-model(image[None])[0].log_softmax(0)[target]))
    return losses


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_model_of_ones_own_scores_the_training_set(splits, trained, tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(trained.state_dict(), path)
    table = table_from_model(splits, net, path, device="cpu")
    require_fitting(table, splits)
    assert table.ids_N.tolist() == splits.train.ids_N.tolist()
    assert np.allclose(table.columns[IRREDUCIBLE_LOSS], slow_losses(trained, splits), atol=1e-4)
    assert table.provenance["weights_digest"] == sha256_of(path)
    assert table.provenance["model"].endswith(":net")
    cost = irreducible_cost(table)
    assert cost.phases.keys() == {"irreducible-scoring"}
    assert cost.total().flops == 2 * len(splits.train) * (16 * 8 + 8 * splits.num_classes)


def test_a_factory_may_return_a_trained_model(splits, trained):
    table = table_from_model(splits, lambda shape, classes: trained, None, device="cpu")
    assert np.allclose(table.columns[IRREDUCIBLE_LOSS], slow_losses(trained, splits), atol=1e-4)


def test_weights_of_another_model_are_refused(splits, trained, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), path)
    with pytest.raises(ConfigError, match=r"does not fit mlp-128: 1\.bias is \(8,\) in the file, "):
        table_from_model(splits, "mlp-128", path)
    state = trained.state_dict()
    del state["4.bias"]
    save_file(state, path)
    with pytest.raises(ConfigError, match=r"4\.bias is absent in the file, \(3,\) in the model"):
        table_from_model(splits, net, path)


def test_weights_that_do_not_load_are_refused(splits, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        table_from_model(splits, "mlp", tmp_path / "no.pt")
    for name in ("bad.pt", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ConfigError, match=rf"{name} does not load"):
            table_from_model(splits, "mlp", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConfigError, match="not a plain state dict"):
        table_from_model(splits, "mlp", tmp_path / "list.pt")


def write(path, **columns):
    table = pa.table(columns)
    (pa_csv.write_csv if path.suffix == ".csv" else pq.write_table)(table, path)
    return path


def values_of(splits):
    """A value for each original of the training set, in an order of its own, and others besides."""
    rows = np.random.default_rng(0).permutation(len(splits.train.store))
    return rows, (rows * 0.25).astype(np.float64)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_plain_numbers_become_a_table(splits, tmp_path, suffix):
    ids, values = values_of(splits)
    path = write(tmp_path / f"losses.{suffix}", row=ids, nats=values, note=["x"] * len(ids))
    table = table_from_values(splits, path, id_column="row", value_column="nats")
    require_fitting(table, splits)
    found = dict(zip(table.ids_N.tolist(), table.columns[IRREDUCIBLE_LOSS].tolist(), strict=True))
    assert found.keys() == set(splits.train.ids_N.tolist())
    stride = len(splits.train.store)
    assert max(found) >= stride, "the fixture must have copies"
    assert all(loss == (i % stride) * 0.25 for i, loss in found.items())


def test_plain_numbers_that_do_not_serve_are_refused(splits, tmp_path):
    ids, values = values_of(splits)
    path = tmp_path / "losses.csv"

    def refused(match, **columns):
        write(path, **columns)
        with pytest.raises(TableError, match=match):
            table_from_values(splits, path)

    refused("no column irreducible_loss; it has: id, nats; .*--value-column", id=ids, nats=values)
    refused("no column id; .*--id-column", row=ids, irreducible_loss=values)
    refused(r"id holds double", id=ids + 0.5, irreducible_loss=values)
    refused(r"irreducible_loss holds string", id=ids, irreducible_loss=["x"] * len(ids))
    twice = np.concatenate([ids, ids[:1]])
    refused(rf"ids more than once \(first: {ids[0]}\)", id=twice,
            irreducible_loss=np.concatenate([values, values[:1]]))  # fmt: skip
    lost = int(splits.train.origin_N[0])
    keep = ids != lost
    refused(rf"lacks .*first: {lost}", id=ids[keep], irreducible_loss=values[keep])
    bad = np.where(ids == lost, np.inf, values)
    refused("NaN or infinite", id=ids, irreducible_loss=bad)
    refused("empty in 1 rows", id=ids, irreducible_loss=[None, *values[1:].tolist()])


def test_files_that_are_no_tables_are_refused(splits, tmp_path):
    with pytest.raises(TableError, match="does not exist"):
        table_from_values(splits, tmp_path / "no.csv")
    with pytest.raises(TableError, match=r"must end in \.csv, \.tsv or \.parquet"):
        table_from_values(splits, tmp_path / "losses.xlsx")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(TableError, match="damaged"):
        table_from_values(splits, tmp_path / "bad.parquet")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(TableError, match="is a folder"):
        table_from_values(splits, tmp_path / "folder.parquet")


@pytest.fixture
def plain(make_tiny_splits):
    """Splits without copies."""
    return make_tiny_splits()


def rows_of(splits, start=0):
    """Lines of a file that gives row r the value r / 8."""
    count = len(splits.train.store)
    return [(row + start, row / 8) for row in range(count)]


FORMS = {
    "commas": (",", ".", "utf-8"),
    "a mark": (",", ".", "utf-8-sig"),
    "european": (";", ",", "utf-8"),
    "semicolons": (";", ".", "utf-8"),
    "tabs in UTF-16": ("\t", ",", "utf-16"),
    "commas in UTF-16": (",", ".", "utf-16"),
    "UTF-32": (",", ".", "utf-32"),
    "spaces": (", ", ".", "utf-8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_of_spreadsheets_are_read(plain, tmp_path, form):
    separator, point, encoding = FORMS[form]
    lines = [f"id{separator}irreducible_loss{separator}note"]
    lines += [
        f"{row}{separator}{str(value).replace('.', point)}{separator}x"
        for row, value in rows_of(plain)
    ]
    path = tmp_path / "v.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    table = table_from_values(plain, path)
    np.testing.assert_array_equal(table.columns[IRREDUCIBLE_LOSS], table.ids_N / 8)
    is_usual = separator.strip() == "," and encoding.startswith("utf-8")
    assert ("separated by" in table.provenance["made_by"]) == (separator in (";", "\t"))
    assert (table.provenance["made_by"] == "the column irreducible_loss of v.csv") == is_usual


@pytest.mark.parametrize(
    "content, match",
    [
        (b"id,irreducible_loss,irreducible_loss\n0,1,2\n", "2 columns irreducible_loss; keep one"),
        (b"id,irreducible_loss\n0,1,5\n", "separated by commas: .*decimal commas.*semicolons"),
        ("id,irreducible_loss\n0,1\n".encode("utf-16")[2:], "not a text in UTF-8; save it"),
        (b"\xff\xfei\x00d\x00\n", "not a text in UTF-16; save it"),
        ("id,l\xf6ss\n0,1\n".encode("latin-1"), "not a text in UTF-8; save it"),
        (b"id;irreducible_loss\n0;1,5\n1;0.7\n", "irreducible_loss holds string, not numbers"),
        (b"0;0,5\n1;0,7\n", "has no column id; it has: 0;0, 5"),
        (b"", "Empty CSV file"),
    ],
)
def test_csv_files_that_cannot_be_read_say_what_to_do(plain, tmp_path, content, match):
    path = tmp_path / "v.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=match) as caught:
        table_from_values(plain, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data_seed", range(4))
@pytest.mark.parametrize("only", ["all", "train"])
def test_ids_that_count_from_1_are_noticed(make_tiny_splits, tmp_path, data_seed, only):
    splits = make_tiny_splits(data_seed=data_seed)
    rows = rows_of(splits, start=1)
    if only == "train":
        rows = [rows[row] for row in splits.train.origin_N.tolist()]
    path = write(
        tmp_path / "v.parquet", id=[r[0] for r in rows], irreducible_loss=[r[1] for r in rows]
    )
    with pytest.raises(TableError, match=r"id counts from 1; .*subtract 1"):
        table_from_values(splits, path)


def test_ids_beyond_the_data_set_are_refused(plain, tmp_path):
    ids = [row for row, _ in rows_of(plain)]
    for last in (len(ids) + 5, 2**64 - 1):
        column = pa.array([*ids, last], pa.uint64())
        path = write(tmp_path / "v.parquet", id=column, irreducible_loss=[0.5] * len(column))
        with pytest.raises(TableError, match=f"id {last} is no row of the data set"):
            table_from_values(plain, path)


def test_columns_may_be_unsigned_decimal_or_a_category(plain, tmp_path):
    ids = pa.array([row for row, _ in rows_of(plain)], pa.uint64())
    values = pa.array([value for _, value in rows_of(plain)])
    for kinds in (
        {"id": ids, "irreducible_loss": values.cast(pa.decimal128(20, 3))},
        {"id": ids.cast(pa.int64()).dictionary_encode(), "irreducible_loss": values},
    ):
        table = table_from_values(plain, write(tmp_path / "v.parquet", **kinds))
        np.testing.assert_array_equal(table.columns[IRREDUCIBLE_LOSS], table.ids_N / 8)
