"""A data set opens by what the user names: a parquet file, a saved folder, a folder of files, each with its columns."""

import numpy as np
import pytest
from datasets import DatasetDict
from PIL import Image as PILImage

from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.loading import Annotations, open_dataset


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """The photos as a parquet file, saved with and without splits, and as a folder of parquet files."""
    folder = tmp_path_factory.mktemp("data")
    photos.to_parquet(folder / "photos.parquet")
    photos.save_to_disk(folder / "rows")
    DatasetDict(train=photos, test=photos.select([0])).save_to_disk(folder / "splits")
    (folder / "files").mkdir()
    photos.to_parquet(folder / "files" / "train.parquet")
    (folder / "notes.txt").write_text("no data")
    return folder


@pytest.mark.parametrize("kind", ["photos.parquet", "rows", "splits", "files"])
def test_every_kind_opens_alike(kind, folder, photos):
    rows = open_dataset(str(folder / kind))
    assert rows["label"][:] == photos["label"][:] and rows.column_names == photos.column_names


def test_a_split_is_chosen(folder):
    assert len(open_dataset(str(folder / "splits"), "test")) == 1


def test_columns_take_our_names_and_replace_what_had_them(folder, photos):
    rows = open_dataset(str(folder / "rows"), columns={"mask": "image", "label": "label"})
    assert "mask" not in rows.column_names and rows[0]["image"].size == photos[0]["mask"].size
    assert rows.features["image"] == photos.features["mask"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("absent", {}, "absent does not exist"),
        ("notes.txt", {}, "notes.txt is neither a parquet file nor a folder"),
        ("splits", {"split": "dev"}, "there is no split 'dev': choose train, test"),
        ("files", {"split": "dev"}, "cannot be opened: Unknown split"),
        ("rows", {"columns": {"photo": "image"}}, "has no column 'photo' but image, "),
    ],
)
def test_what_cannot_be_opened_is_refused_in_a_sentence(name, options, words, folder):
    with pytest.raises(ValueError, match=words) as caught:
        open_dataset(str(folder / name), **options)
    assert "\n" not in str(caught.value)


ANNOTATIONS = {
    "coco": Annotations("{root}/instances_{split}.json"),
    "yolo": Annotations("{root}/labels_{split}", "yolo", ["a", "b", "c"]),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
@pytest.mark.parametrize(("split", "start"), [("train", 0), ("test", 8)])
def test_annotations_beside_a_folder_give_classes_and_provenance(kind, split, start, annotated_folder, photos):
    annotations = ANNOTATIONS[kind]._replace(path=ANNOTATIONS[kind].path.replace("{root}", str(annotated_folder)))
    rows = open_dataset(str(annotated_folder / "{split}"), split, columns={"label": "label"}, annotations=annotations)
    assert rows.features["label"].names == ["a", "b", "c"] and len(rows) == 8
    order = [int(number) for number in sorted(map(str, range(start, start + 8)))]  # of the file names
    expected = photos.select(range(start, start + 8) if kind == "coco" else order)
    assert rows["label"][:] == expected["label"][:]
    for row, photo in zip(rows, expected, strict=True):
        mask = np.asarray(photo["mask"]) > 127
        assert ((np.asarray(row["provenance"][0]) > 127) == mask).all() and row["bbox"] == [list(mask_to_box(mask))]
    with pytest.raises(ValueError, match="has no column 'breed' but image, "):
        open_dataset(str(annotated_folder / split), split, columns={"breed": "label"}, annotations=annotations)


def test_a_column_of_objects_gives_classes_and_provenance(photos, tmp_path):
    """As the Hub's detection sets have it; boxes that could be corners are refused until their format is stated."""
    boxes = [list(mask_to_box(np.asarray(row["mask"]) > 127)) for row in photos]
    objects = [{"bbox": [box], "category": [label]} for box, label in zip(boxes, photos["label"], strict=True)]
    rows = photos.select_columns(["image"]).rename_column("image", "photo").add_column("objects", objects)
    rows.to_parquet(tmp_path / "train.parquet")
    options = {"columns": {"photo": "image", "label": "label"}}
    stated = Annotations("objects", "objects", box_format="xywh")
    known = open_dataset(str(tmp_path), annotations=stated, **options)
    assert known["bbox"][:] == [[box] for box in boxes] and known["label"][:] == photos["label"][:]
    assert known.column_names[0] == "image" and all(masks is not None for masks in known["provenance"])
    rows.select([i for i, box in enumerate(boxes) if box[0] < box[2]][:1]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="column 'objects': each of 1 distinct boxes could be 'xywh' or"):
        open_dataset(str(tmp_path), annotations=stated._replace(box_format=None), **options)
    with pytest.raises(ValueError, match="column 'things' is None: give the one that holds `bbox`"):
        open_dataset(str(tmp_path), annotations=stated._replace(path="things"), **options)


def test_a_split_or_a_folder_that_is_not_there_is_told_with_the_remedy(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    PILImage.new("RGB", (8, 8)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match="give the folder that holds a folder 'test'"):
        open_dataset(str(tmp_path), "test")
    with pytest.raises(ValueError, match="there is no folder or file of that name"):
        open_dataset("nowhere/to_be_found", "train")
