"""A data set opens by what the user names: a parquet file, a saved folder, a folder of files, each with its columns."""

import pytest
from datasets import DatasetDict

from hf_pgg.data.loading import open_dataset


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
