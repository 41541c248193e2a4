"""Tables as people bring them: read right, or refused in one line that says what to do."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from goldiprox.data.datasets import from_items, load
from goldiprox.data.settings import Reading
from goldiprox.schema import DataError

ROWS = 40
TEXTS = ("red apple", "blue sky")


def csv(tmp_path, head, line, name="a.csv", encoding="utf-8", end="\n"):
    text = end.join([head, *(line(i) for i in range(ROWS))]) + end
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def parquet(tmp_path, columns, features=None):
    table = pa.table(columns)
    if features:
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    return str(tmp_path / "a.parquet")


def texts(dataset):
    return dataset.store.fetch(torch.arange(ROWS))


def notes(dataset):
    return {note.what: note for note in dataset.notes}


# How a file is written


def test_leading_zeros_belong_to_the_names_of_classes(tmp_path):
    path = csv(tmp_path, "text, label", lambda i: f"{TEXTS[i % 2]}, {('007', '010')[i % 2]}")
    dataset = load(path)
    assert dataset.class_names == ("007", "010")
    path = csv(tmp_path, "text,label", lambda i: f"{TEXTS[i % 2]},{('1', '01', '2')[i % 3]}")
    with pytest.raises(DataError, match="'1' and '01' are the same number"):
        load(path)


def test_what_stands_in_quotes_is_no_gap_in_texts(tmp_path):
    def line(i):
        text = ('""', '"n/a"', '"null"', "plain")[i % 4]
        return f'{text},"{("NA", "EU")[i % 2]}","{"" if i == 7 else i}"'

    path = csv(tmp_path, "text,label,size", line)
    dataset = load(path)
    assert texts(dataset)[:4] == ["", "n/a", "null", "plain"]
    assert dataset.class_names == ("EU", "NA")
    sized = load(path, reading=Reading(feature_columns=("size",)))
    assert sized.preprocess.names == ("size", "size missing")

    with pytest.raises(DataError, match=r"row 0 has no label \(20 such\).*needs quotes"):
        load(csv(tmp_path, "text,label", lambda i: f"{TEXTS[i % 2]},{('NA', 'EU')[i % 2]}"))
    with pytest.raises(DataError, match=r"1 texts are null \(first: row 3\); leave the row out"):
        load(csv(tmp_path, "text,label", lambda i: f"{'' if i == 3 else 'a'},{i % 2}"))


@pytest.mark.parametrize(
    "line, name, at",
    [
        (lambda i: f'"{TEXTS[0]}\t{i % 2}' if i in (5, 15) else f"{TEXTS[1]}\t{i % 2}", "a.tsv", 7),
        (lambda i: f'"{TEXTS[0]}\t{i % 2}' if i == 5 else f"{TEXTS[1]}\t{i % 2}", "a.tsv", 7),
        (lambda i: f'"say \\"{TEXTS[i % 2]}\\" ok",{i % 2}', "a.csv", 2),
    ],
)
def test_quotes_that_do_not_pair_are_refused_with_their_line(tmp_path, line, name, at):
    head = "text\tlabel" if name == "a.tsv" else "text,label"
    with pytest.raises(DataError, match=f"row that begins in line {at} do not pair.*JSON lines"):
        load(csv(tmp_path, head, line, name))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quotes_and_ends_of_lines_of_all_kinds(tmp_path, encoding, end):
    long = "x" * 200_000  # longer than Python's own reader takes

    def line(i):
        return f'"say ""{TEXTS[i % 2]}"";\n{long if i == 3 else "more"}";{i % 2}'

    dataset = load(csv(tmp_path, "text;label", line, encoding=encoding, end=end))
    assert texts(dataset)[0] == 'say "red apple";\nmore'
    assert len(texts(dataset)[3]) > len(long)


def test_excels_own_first_line_is_understood(tmp_path):
    path = csv(tmp_path, "sep=;\nx;label", lambda i: f"{i},5;{i % 2}")
    assert load(path).preprocess.names == ("x",)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_another_encoding_is_named_wherever_it_shows(tmp_path, name):
    rows = [{"text": f"{TEXTS[i % 2]} {'y' * 50}", "label": i % 2} for i in range(2000)]
    rows.append({"text": "B\u00e4r", "label": 1})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = {
        "a.csv": "\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in rows)]),
        "a.jsonl": "\n".join(lines),
        "a.json": f"[{','.join(lines)}]",
    }[name]
    for encoding in ("latin-1", "utf-16") if name != "a.csv" else ("latin-1",):
        (tmp_path / name).write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match="is not a text in UTF-8; save it with the encoding"):
            load(str(tmp_path / name))


def test_columns_that_the_first_object_lacks_are_read(tmp_path):
    rows = [{"x": i, "label": i % 2} | ({"size": i * 2.5} if i else {}) for i in range(ROWS)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [load(str(tmp_path / name)) for name in ("a.json", "a.jsonl")]
    assert found[0].preprocess.names == ("x", "size", "size missing")
    assert found[0].fingerprint == found[1].fingerprint
    (tmp_path / "a.json").write_text('[{"x": 1, "x": 2, "label": 0}]')
    with pytest.raises(DataError, match="one name twice among x, x, label"):
        load(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('[{"text": "\\ud83d", "label": 0}]')
    with pytest.raises(DataError, match="not a text in UTF-8"):
        load(str(tmp_path / "a.json"))


def test_files_of_another_kind_are_named_as_that(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match=r"a\.xlsx: a file of another kind; tables end in \.csv"):
        load(str(tmp_path / "a.xlsx"))
    with pytest.raises(DataError, match="does not exist: give a table"):
        load(str(tmp_path / "b.csv"))


def test_tables_beside_those_that_are_read_are_said(tmp_path):
    for name in ("train.csv", "test.csv", "val.csv"):
        csv(tmp_path, "x,label", lambda i: f"{i},{i % 2}", name)
    (note,) = load(str(tmp_path)).notes
    assert str(note) == "left out: tables that are neither training nor test set: 1 (val.csv)"


# What columns hold


@pytest.mark.parametrize("value", ["1,5", "1,234", "1.234,5", "12%", "$5", "1 234", "\u20ac 3,50"])
def test_numbers_written_for_readers_are_no_categories(tmp_path, value):
    path = csv(tmp_path, "x,z,label", lambda i: f'"{value if i == 9 else i % 5}",{i},{i % 2}')
    said = f"column 'x' holds numbers as texts (row 9: {value!r}); write them plainly"
    with pytest.raises(DataError, match=re.escape(said)):
        load(path)


@pytest.mark.parametrize("mark", ["?", "None", "-", "missing"])
def test_marks_of_missing_numbers_are_gaps(tmp_path, mark):
    dataset = load(csv(tmp_path, "x,label", lambda i: f"{mark if i == 0 else i},{i % 2}"))
    assert dataset.preprocess.names == ("x", "x missing")
    assert dataset.notes[0].first == ("x (1)",)


def test_categories_are_said_and_codes_stay_categories(tmp_path):
    codes = [str(i % 7) for i in range(ROWS)]
    labels = [i % 2 for i in range(ROWS)]
    path = parquet(tmp_path, {"code": codes, "x": list(range(ROWS)), "label": labels})
    dataset = load(path)
    assert dataset.preprocess.names[:3] == ("x", "code=0", "code=1")
    assert notes(dataset)["columns of texts, read as categories (so many)"].first == ("code (7)",)
    dataset = load(csv(tmp_path, "k,label", lambda i: f"{('0', '1', '3+')[i % 3]},{i % 2}"))
    assert dataset.preprocess.names == ("k=0", "k=1", "k=3+")


def test_pandas_index_is_no_feature_and_nan_is_a_gap(tmp_path):
    x = np.arange(ROWS) * 1.5
    x[3] = np.nan
    labels = [i % 2 for i in range(ROWS)]
    rows = [f"r{i}" for i in range(ROWS)]
    dataset = load(parquet(tmp_path, {"x": x, "label": labels, "__index_level_0__": rows}))
    assert dataset.preprocess.names == ("x", "x missing")
    assert notes(dataset)["left out: column that numbers the rows"].first == ("__index_level_0__",)
    assert any("missing values" in what for what in notes(dataset))


def test_large_whole_numbers_are_features(tmp_path):
    values = pa.array([2**64 - 1 - i * 2**50 for i in range(ROWS)], pa.uint64())
    dataset = load(parquet(tmp_path, {"x": values, "label": [i % 2 for i in range(ROWS)]}))
    first, last = dataset.store.fetch(torch.tensor([0, ROWS - 1])).flatten().tolist()
    assert first > 1.5
    assert last < -1.5


def test_targets_beyond_32_bits_are_refused(tmp_path):
    path = csv(tmp_path, "x,label", lambda i: f"{i},{i}e300")
    with pytest.raises(DataError, match="does not fit into 32 bits"):
        load(path, targets="numbers")


@pytest.mark.parametrize(
    "features",
    [
        {"label": {"names": ["neg", "pos"]}},
        {"label": {"feature": {"names": ["neg", "pos"]}}},
        {"label": [{"names": ["neg", "pos"]}]},
    ],
)
@pytest.mark.parametrize("kind", ["features", "texts", "images"])
def test_names_in_the_metadata_are_kept_by_every_reader(tmp_path, features, kind):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    image = (tmp_path / "a.png").read_bytes()
    inputs = {
        "features": {"x": list(range(ROWS))},
        "texts": {"text": [TEXTS[i % 2] for i in range(ROWS)]},
        "images": {"image": [image] * ROWS},
    }[kind]
    is_set = "names" not in features["label"]
    labels = [[i % 2] if i % 3 else [0, 1] for i in range(ROWS)] if is_set else [1, 0] * 20
    dataset = load(parquet(tmp_path, inputs | {"label": labels}, features))
    assert dataset.class_names == ("neg", "pos")
    assert dataset.targets == ("label sets" if is_set else "classes")


def test_texts_as_bytes_may_have_numbers_to_predict(tmp_path):
    words = [TEXTS[i % 2].encode() for i in range(ROWS)]
    path = parquet(tmp_path, {"text": words, "label": [i * 0.5 for i in range(ROWS)]})
    dataset = load(path, targets="numbers")
    assert texts(dataset)[0] == "red apple"
    assert dataset.labels_N[:3].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), "dictionary"])
def test_images_as_bytes_of_every_type(tmp_path, kind):
    Image.new("L", (4, 4), 7).save(tmp_path / "a.png")
    images = pa.array([(tmp_path / "a.png").read_bytes()] * ROWS)
    images = images.dictionary_encode() if kind == "dictionary" else images.cast(kind)
    dataset = load(parquet(tmp_path, {"image": images, "label": [i % 2 for i in range(ROWS)]}))
    assert dataset.store.fetch(torch.tensor([5])).unique().tolist() == [7]


def test_columns_of_labels_hold_bits(tmp_path):
    path = csv(tmp_path, "text,big,red", lambda i: f"{TEXTS[i % 2]},{i % 2},{i % 3}")
    with pytest.raises(DataError, match="row 2 has 2 in the label column 'red'; 0 or 1 expected"):
        load(path, reading=Reading(label_column="big,red"), targets="label sets")


@pytest.mark.parametrize("other", ["red ", "red\u200b", ""])
def test_labels_of_sets_are_told_apart(tmp_path, other):
    rows = [{"text": TEXTS[i % 2], "label": [["red", "big"], [other]][i % 2]} for i in range(ROWS)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="differ only in spaces" if other else "a name or a whole"):
        load(str(tmp_path / "a.jsonl"))


# Images that a table names


def test_names_of_images_from_windows_and_from_elsewhere(tmp_path):
    (tmp_path / "sub").mkdir()
    for i in range(ROWS):
        Image.new("L", (4, 4), i).save(tmp_path / "sub" / f"{i}.png")
    dataset = load(csv(tmp_path, "file,label", lambda i: f"sub\\{i}.png,{i % 2}"))
    assert dataset.store.fetch(torch.tensor([9])).unique().tolist() == [9]
    with pytest.raises(DataError, match=r"row 0 names '0\.png', which is not in .*relative to"):
        load(csv(tmp_path, "file,label", lambda i: f"{i}.png,{i % 2}"))
    dataset = load(csv(tmp_path, "file,label", lambda i: f"sub/{i // 2}.png,{i % 2}"))
    assert notes(dataset)["images that several rows name, each an example"].count == 20


@pytest.mark.parametrize("column", ["file_name", "image", "text", "photo"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_names_of_images_are_never_read_as_texts_or_categories(tmp_path, column, name):
    for i in range(ROWS):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    files = [f"{i}.png" for i in range(ROWS)]
    path = csv(tmp_path, f"{column},x,label", lambda i: f"{files[i]},{i},{i % 2}")
    if name == "a.parquet":
        rows = {"x": list(range(ROWS)), "label": [i % 2 for i in range(ROWS)]}
        path = parquet(tmp_path, {column: files} | rows)
    for reading in (Reading(), Reading(input_column=column)):
        dataset = load(path, reading=reading)
        assert dataset.store.fetch(torch.tensor([9])).unique().tolist() == [9]


def test_several_columns_of_image_names_are_refused(tmp_path):
    files = [f"{i}.png" for i in range(ROWS)]
    labels = [i % 2 for i in range(ROWS)]
    path = parquet(tmp_path, {"left": files, "right": files, "label": labels})
    with pytest.raises(DataError, match="columns left, right all name image files"):
        load(path)


@pytest.mark.parametrize("column", ["text", "content", "review"])
def test_texts_are_called_the_same_in_parquet_as_in_csv(tmp_path, column):
    labels = [i % 2 for i in range(ROWS)]
    words = [TEXTS[i % 2] for i in range(ROWS)]
    first = load(parquet(tmp_path, {column: words, "label": labels}))
    second = load(csv(tmp_path, f"{column},label", lambda i: f"{words[i]},{labels[i]}"))
    assert texts(first)[:2] == list(TEXTS)
    assert first.fingerprint == second.fingerprint


def test_names_of_image_files_in_python_are_no_texts(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    items = [(str(tmp_path / "a.png"), i % 2) for i in range(ROWS)]
    with pytest.raises(DataError, match=r"train item 0 is .*a\.png', the name of an image file"):
        from_items("mine", items)
