"""A label is the index of a class by a name: names meet by name, and what is no index is refused by row and column."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value
from PIL import Image as PILImage
from transformers import ViTImageProcessor

from hf_pgg import CutMix, FreshDraws, PGGCollator, add_provenance
from hf_pgg.data.groups import column_values, subgroup_counts
from hf_pgg.data.labels import class_label, encode_classes, with_classes
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import ProvenanceError
from hf_pgg.data.validation import validate_row

IMAGE = np.zeros((8, 8, 3), np.uint8)
COLLATOR = PGGCollator(ViTImageProcessor(size={"height": 8, "width": 8}), extra_columns=("scene",))
NO_LABELS = {
    "a fraction": (0.5, "0.5 is not a whole number"),
    "a rounded one": (np.float32(1.75), "1.75 is not a whole number"),
    "a tensor": (torch.tensor(1.5), "1.5 is not a whole number"),
    "infinity": (float("inf"), "inf is not a whole number"),
    "NaN": (float("nan"), "there is no value"),
    "none": (None, "there is no label"),
    "multi-hot": ([0, 1, 1], "is a list, multi-hot or of several"),
    "one-hot": (np.array([0.0, 1.0]), "is a list, multi-hot or of several"),
    "a name": ("cat", "'cat' is a name, not a number"),
    "the missing class": (-1, "label -1 is outside"),
}


@pytest.mark.parametrize("kind", NO_LABELS)
def test_what_is_no_class_is_refused_by_row_and_column_of_the_label(kind):
    label, words = NO_LABELS[kind]
    row = {"image": IMAGE, "label": label, "scene": 0}
    with pytest.raises(ProvenanceError, match="row 1 of the batch, column 'label': ") as caught:
        COLLATOR([{**row, "label": 0}, row])
    assert words in str(caught.value)
    with pytest.raises(ProvenanceError, match="row 7, column 'label': "):
        validate_row(row, 7, num_classes=2)


@pytest.mark.parametrize("label", [1, 1.0, True, np.int8(1), np.float32(1), torch.tensor(1), np.array(1)])
def test_whole_numbers_of_every_kind_are_classes(label):
    assert COLLATOR([{"image": IMAGE, "label": label, "scene": 0}])["labels"].tolist() == [[1]]


def test_multi_hot_labels_are_refused_by_name():
    row = {"image": IMAGE, "labels": [0, 1, 1], "scene": 0}
    with pytest.raises(ProvenanceError, match=r"column 'labels': \[0, 1, 1\] is multi-hot"):
        COLLATOR([row])
    with pytest.raises(ProvenanceError, match=r"row 3, column 'labels': .*multi-hot"):
        validate_row(row, 3, num_classes=3)


def test_a_batch_names_weights_that_do_not_sum_to_one_and_labels_above_the_models():
    row = {"image": IMAGE, "labels": [0, 2], "label_weights": [0.5, 0.5], "scene": 0}
    with pytest.raises(ProvenanceError, match=r"row 0 of the batch, column 'label_weights': .* sums to 0.9"):
        COLLATOR([{**row, "label_weights": [0.5, 0.4]}])
    collator = COLLATOR.for_evaluation()
    collator.num_classes = 2
    with pytest.raises(ProvenanceError, match=r"row 0 of the batch, column 'labels': label 2 is outside 0\.\.1"):
        collator([row])


@pytest.mark.parametrize(("scene", "words"), [(0.2, "0.2 is not a whole"), (None, "no value"), ("x", "'x' is a name")])
def test_a_group_is_never_shortened(scene, words):
    with pytest.raises(ProvenanceError, match=f"row 0 of the batch, column 'scene': .*{words}"):
        COLLATOR([{"image": IMAGE, "label": 0, "scene": scene}])


@pytest.mark.parametrize("values", [[0.2, 0.7], [0.0, 1.0], ["x", "y"], [True, False]])
def test_only_classes_and_integers_are_groups(values):
    with pytest.raises(ValueError, match=r"column 'scene' is Value.*encode_classes"):
        column_values(Dataset.from_dict({"scene": values}), "scene")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([0.2, 0.7, 1.5, 2.5], "row ids in column 'key' are Value"),
        ([1, 2, 1, 3], "rows 0 and 2 have the same id 1"),
        (["a", "b", "c", "b"], "rows 1 and 3 have the same id b"),
        ([1, None, 2, 3], "row 1 has no id"),
    ],
)
def test_row_ids_are_one_rows_own(ids, words, photos):
    rows = photos.select(range(4)).add_column("key", ids)
    with pytest.raises(ValueError, match=words):
        CutMix(source=photos, row_id_column="key").map(rows)


def test_a_float_id_is_refused_where_no_dataset_is_seen(photos):
    row = {"image": [IMAGE], "label": [0], "key": [0.7]}
    with pytest.raises(ValueError, match=r"column 'key' holds 0.7, no id"):
        FreshDraws(CutMix(source=photos, row_id_column="key"))(row)


# ------------------------------------------------------------------------------------------------------------- names


def renamed(rows, names):
    """The same rows with their classes in another order: what encoding another split for itself leads to."""
    old = rows.features["label"].names
    values = [names.index(old[value]) for value in rows["label"]]
    return rows.remove_columns("label").add_column("label", values, feature=ClassLabel(names=names))


def test_classes_in_another_order_are_matched_by_name_in_every_column_and_kind(guided_photos):
    other = renamed(guided_photos, ["c", "a", "b"])
    assert with_classes(other, ["a", "b", "c"])["label"][:] == guided_photos["label"][:]
    turned = with_classes(guided_photos, ["c", "a", "b"])
    assert turned["labels"][:4] == [[1], [2], [0], [1]] and turned["label"][:4] == [1, 2, 0, 1]
    assert turned.features["labels"].feature.names == ["c", "a", "b"]
    assert turned.column_names == guided_photos.column_names
    stream = with_classes(other.select_columns(["label"]).to_iterable_dataset(), ["a", "b", "c"])
    assert isinstance(stream, IterableDataset)
    assert [row["label"] for row in stream] == guided_photos["label"][:]


def test_the_missing_class_stays_missing():
    rows = Dataset.from_dict({"label": [0, None, -1]}, features=Features(label=ClassLabel(names=["a", "b"])))
    assert with_classes(rows, ["b", "a"])["label"][:] == [1, None, -1]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b", "d"], "c is not expected, d is missing"),
        (["a", "b"], "c is not expected"),
    ],
)
def test_other_classes_are_refused_with_the_difference(names, words, photos):
    with pytest.raises(ValueError, match=rf"the classes of the test split are a, b, c, and .*: {words}\. Number"):
        with_classes(photos, names, whose="the test split")


def test_a_part_of_the_classes_is_matched_by_name(photos):
    """A test split that shows fewer classes keeps them; one that shows more is refused above."""
    other = renamed(photos, ["c", "a", "b"])
    wider = with_classes(other, ["x", "b", "a", "c"], whose="the test split")
    assert wider.features["label"].names == ["x", "b", "a", "c"]
    assert [wider.features["label"].int2str(value) for value in wider["label"]] == [
        photos.features["label"].int2str(value) for value in photos["label"]
    ]


@pytest.mark.parametrize(
    ("found", "expected", "labels"),
    [
        (["0", "2"], ["0", "1", "2"], [0, 2]),  # integers of a split that lacks one, encoded for itself
        (["0", "1"], ["cat", "dog"], [0, 1]),  # never named
        (["cat", "dog"], ["LABEL_0", "LABEL_1"], [0, 1]),
        (["0", "1"], ["3", "5"], None),
        (["3", "5"], ["0", "1"], None),
    ],
)
def test_numbers_as_names_agree_with_numbers(found, expected, labels):
    rows = Dataset.from_dict({"label": [0, 1]}, features=Features(label=ClassLabel(names=found)))
    if labels is None:
        with pytest.raises(ValueError, match=r"are expected: .* are not expected"):
            with_classes(rows, expected)
    else:
        assert with_classes(rows, expected)["label"][:] == labels


def test_a_mixs_partners_have_the_labels_of_their_names(photos):
    """CutMix with a source of other order: the classes that are mixed are those of the same source in one order."""
    right = CutMix(source=photos, seed=3).map(photos)
    assert CutMix(source=renamed(photos, ["b", "c", "a"]), seed=3).map(photos)["labels"][:] == right["labels"][:]
    stranger = photos.cast_column("label", ClassLabel(names=["a", "b", "z"]))
    with pytest.raises(ValueError, match=r"the classes of `source` are a, b, z.*z is not expected, c is missing"):
        CutMix(source=stranger, seed=3).map(photos)


def test_strings_integers_and_classes_are_numbered_over_all_splits_in_sorted_order(caplog):
    splits = {"train": ["fox", "cat", None], "test": ["dog", "fox", "fox"]}
    encoded = encode_classes({name: Dataset.from_dict({"label": own}) for name, own in splits.items()}, "label")
    assert isinstance(encoded, DatasetDict) and encoded["test"].features["label"].names == ["cat", "dog", "fox"]
    assert encoded["train"]["label"][:] == [2, 0, None] and encoded["test"]["label"][:] == [1, 2, 2]
    assert "column 'label' of train, test: 3 classes are numbered 0 cat, 1 dog, 2 fox" in caplog.text


def columns(**splits):
    return {name: Dataset.from_dict({"label": values}) for name, values in splits.items()}


def test_integers_are_sorted_as_numbers_and_split_wise_classes_are_joined():
    numbers = encode_classes(columns(train=[10, 2], test=[7.0]), "label")
    assert numbers["train"].features["label"].names == ["2", "7", "10"] and numbers["test"]["label"][:] == [1]
    apart = {name: rows.class_encode_column("label") for name, rows in columns(a=["y", "z"], b=["z", "x"]).items()}
    joined = encode_classes(apart, "label")
    assert joined["b"].features["label"].names == ["y", "z", "x"] and joined["b"]["label"][:] == [1, 2]


@pytest.mark.parametrize("values", [[[0, 1], [1, 1]], [0.5, 1.0]])
def test_values_that_are_no_names_are_not_numbered(values):
    with pytest.raises(ValueError, match="column 'label'"):
        encode_classes({"train": Dataset.from_dict({"label": values})}, "label")


def test_a_class_label_column_called_labels_is_a_label_column(photos, processor):
    beans = photos.rename_column("label", "labels")
    assert class_label(beans.features).names == ["a", "b", "c"]
    assert PGGCollator(processor)([beans[0], beans[1]])["labels"].tolist() == [[0], [1]]
    validate_row(beans[0], 0, num_classes=3)
    assert add_provenance(beans, mask_column="mask")["labels"][:3] == [[0], [1], [2]]
    mixed = CutMix(source=beans, seed=3).map(beans)
    assert mixed["labels"][:] == CutMix(source=photos, seed=3).map(photos)["labels"][:]
    assert mixed.features["labels"] == List(photos.features["label"])


# ------------------------------------------------------------------------------------------------------------- files


def folder_of_photos(root, header, row):
    """Two splits; the class `dog` is in the test split alone, and `fox` in the training split alone."""
    for split, names in (("train", ["fox", "cat", "fox", "cat"]), ("test", ["cat", "dog"])):
        lines = [header]
        for i, name in enumerate(names):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            (root / split / "masks").mkdir(exist_ok=True)
            PILImage.fromarray(IMAGE).save(root / split / name / f"{i}.png")
            PILImage.fromarray(IMAGE[..., 0] + 255).save(root / split / "masks" / f"{i}.png")
            lines.append(row.format(name=name, number={"cat": 3, "dog": 5, "fox": 9}[name], i=i))
        (root / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    return str(root)


@pytest.mark.parametrize(
    ("header", "row", "names"),
    [
        ("file_name,label,mask_file_name", "{name}/{i}.png,{name},masks/{i}.png", ["cat", "dog", "fox"]),
        ("file_name,label,mask_file_name", "{name}/{i}.png,{number},masks/{i}.png", ["3", "5", "9"]),
        ("file_name,mask_file_name", "{name}/{i}.png,masks/{i}.png", ["cat", "dog", "fox"]),
    ],
    ids=["strings", "integers", "class folders and masks only"],
)
def test_a_metadata_csv_gives_classes_over_all_splits(header, row, names, tmp_path):
    folder = folder_of_photos(tmp_path / "photos", header, row)
    train, test = (open_dataset(folder, split) for split in ("train", "test"))
    assert train.features["label"].names == test.features["label"].names == names
    assert sorted(train["label"][:]) == [0, 0, 2, 2] and sorted(test["label"][:]) == [0, 1]
    assert len(add_provenance(train, mask_column="mask")) == 4
    assert open_dataset(folder, "train[:2]").features["label"].names == names
    ours = open_dataset(folder, "test", columns={"label": "label", "image": "image"})
    assert ours.features["label"].names == names


# ------------------------------------------------------------------------------------------------------------ groups


def test_groups_that_cannot_exist_get_no_rows():
    real, possible = [[90, 10, 0], [10, 70, 0]], [[True, True, False], [True, True, False]]
    assert subgroup_counts(real, "usb", possible).tolist() == [[0, 80, 0], [80, 20, 0]]
    assert subgroup_counts(real, "ffr", possible).tolist() == [[45, 45, 0], [45, 45, 0]]
    with pytest.raises(ValueError, match="True for every group that has rows"):
        subgroup_counts(real, "usb", [[False, True, False], [True, True, False]])
    with pytest.raises(ValueError, match="of the same shape"):
        subgroup_counts(real, "usb", [True, False])


def test_a_boolean_or_index_column_may_hold_classes_of_every_width():
    rows = Dataset.from_dict({"scene": [0, 1, 1]}, features=Features(scene=Value("uint8")))
    assert column_values(rows, "scene").tolist() == [0, 1, 1]


def test_a_class_that_training_has_no_row_of_is_warned_of(caplog):
    splits = {
        "train": Dataset.from_dict({"shape": ["disc", "square", None]}),
        "test": Dataset.from_dict({"shape": ["sqare", "disc", "sqare"]}),
    }
    encode_classes(splits, "shape")
    assert "column 'shape': 'sqare' is in test (2 rows), not in train: is it misspelt?" in caplog.text
    caplog.clear()
    encode_classes({"train": splits["train"]}, "shape")
    assert "misspelt" not in caplog.text
