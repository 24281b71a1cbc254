"""The embedded data: real, offline, biased as told, and with true masks."""

import numpy as np
import pytest

from hf_pgg.data.validation import validate_row
from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, digits, digits_on_photographs, photographs


@pytest.fixture(scope="module")
def data():
    return digits_on_photographs(bias=0.8, copies=1)


def test_splits_share_no_digit():
    ids = [set(digits(split)["digit_id"]) for split in ("train", "validation", "test")]
    assert [len(part) for part in ids] == [1077, 360, 360]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])


def test_training_is_biased_and_test_is_not(data):
    aligned = {split: np.mean(data[split]["aligned"]) for split in data}
    assert aligned["train"] == pytest.approx(0.8, abs=0.04)
    assert aligned["test"] == pytest.approx(0.1, abs=0.04)
    assert aligned["validation"] == pytest.approx(0.1, abs=0.05)
    test = data["test"]
    assert test["aligned"] == [int(a == b) for a, b in zip(test["label"], test["background"], strict=True)]


def test_rows_keep_the_contract(data):
    for i in range(0, len(data["train"]), 50):
        validate_row(data["train"][i], i, 10)


def test_outside_the_digit_is_the_photograph(data):
    """Where the provenance is 0 the pixel does not depend on the digit: the digit's colour is one, its pixels vary."""
    row = data["train"][0]
    image, mask = np.asarray(row["image"]), np.asarray(row["provenance"][0])
    solid = image[mask == 255]
    assert (solid == solid[0]).all()
    assert image[mask == 0].std() > 1


def test_photographs_are_distinct_crops_and_the_same_in_every_call():
    pool = photographs()
    images = [np.asarray(row["image"]).tobytes() for row in pool]
    assert len(set(images)) == 600 and pool["label"] == sorted(pool["label"])
    assert images[:9] == [np.asarray(row["image"]).tobytes() for row in photographs().select(range(9))]
    others = photographs(OTHER_PHOTOGRAPHS, crops=2)
    assert len(others) == 2 * len(OTHER_PHOTOGRAPHS) and not set(others.features["label"].names) & set(
        pool.features["label"].names
    )


def test_a_bias_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"bias is 1.5"):
        digits_on_photographs(bias=1.5)
