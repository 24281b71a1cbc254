"""What every synthesis method promises, tested once for all of them, and for one that is defined here.

A new method is one new file, one line in `hf_pgg.synthesis`, and one line in `METHODS`: without the last,
`test_no_method_is_left_out` fails.
"""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Image, List
from datasets.fingerprint import Hasher

import hf_pgg.synthesis
from hf_pgg import ProvenanceError
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import undecoded
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.validation import validate_row
from hf_pgg.skeletons.rows import SkeletonCollator
from hf_pgg.synthesis import (
    ActorComposite,
    BackgroundExchange,
    BatchMix,
    Composite,
    CutMix,
    Edit,
    FreshDraws,
    InputGradientSaliency,
    MaskAblation,
    PuzzleMix,
    ResizeMix,
    TileMix,
    VideoMix,
)
from hf_pgg.synthesis.base import RowTransform, Sample
from hf_pgg.synthesis.images import PairSynthesizer
from hf_pgg.synthesis.pasting import paste_window
from tests.conftest import tiny_model
from tests.synthesis.conftest import contents


@dataclass(frozen=True, kw_only=True)
class Halves(PairSynthesizer):
    """The left half of each image beside the right half of another: all that a new method takes."""

    def synthesize(self, row, rng):
        image, sources = self.read(row)
        other, other_sources = self.partner(rng, image.shape[:2])
        mixed, mask = paste_window(image, other, np.s_[:, image.shape[1] // 2 :])
        return Sample(mixed, *sources.mix(other_sources, mask))


def noisy_band(image, rng):
    image[: image.shape[0] // 2] = rng.integers(0, 256, image[: image.shape[0] // 2].shape)
    return image


# for each method, how it is made and the rows that it maps; `data` holds the fixtures
METHODS = {
    "CutMix": lambda data, **options: (CutMix(source=data.photos, **options), data.photos),
    "ResizeMix": lambda data, **options: (ResizeMix(source=data.photos, **options), data.photos),
    "PuzzleMix": lambda data, **options: (
        PuzzleMix(source=data.photos, saliency=data.saliency, **options),
        data.photos,
    ),
    "Composite": lambda data, **options: (
        Composite(backgrounds=data.scenes, mask_column="mask", size=40, background_column="label", **options),
        data.photos,
    ),
    "Edit": lambda data, **options: (Edit(editor=noisy_band, random=True, **options), data.photos),
    "BackgroundExchange": lambda data, **options: (BackgroundExchange(source=data.guided, **options), data.guided),
    "MaskAblation": lambda data, **options: (MaskAblation(kind="random", **options), data.guided),
    "VideoMix": lambda data, **options: (VideoMix(source=data.clips, **options), data.clips),
    "VideoMix in time": lambda data, **options: (
        VideoMix(source=data.clips, mode="temporal", sampler=FrameSampler(6, "window"), **options),
        data.clips,
    ),
    "TileMix": lambda data, **options: (TileMix(source=data.clips, grid=(2, 2), **options), data.clips),
    "ActorComposite": lambda data, **options: (
        ActorComposite(backgrounds=data.clips, mask_column="masks", background_column="label", **options),
        data.clips,
    ),
    "BatchMix": lambda data, **options: (BatchMix(source=data.skeletons, **options), data.skeletons),
    "Halves": lambda data, **options: (Halves(source=data.photos, **options), data.photos),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def data(photos, guided_photos, photo_scenes, clips, skeletons, processor):
    saliency = InputGradientSaliency(tiny_model("convnext"), InputSpec.from_processor(processor))
    return SimpleNamespace(
        photos=photos, guided=guided_photos, scenes=photo_scenes, clips=clips, skeletons=skeletons, saliency=saliency
    )


def test_no_method_is_left_out(data):
    exported = {
        value
        for value in vars(hf_pgg.synthesis).values()
        if inspect.isclass(value) and issubclass(value, RowTransform) and not inspect.isabstract(value)
    }
    assert exported == {type(make(data)[0]) for make in METHODS.values()} - {Halves}


@every_method
def test_rows_keep_the_contract(make, data):
    method, rows = make(data)
    mapped = method.map(rows)
    assert mapped.features == method.features(rows.features)
    assert mapped.features["provenance"] == List(Image(mode="L"))
    assert isinstance(mapped.features["labels"].feature, ClassLabel)
    assert "video" not in rows.features or mapped.features["video"] == List(Image())
    assert "image" in rows.features or "image" not in mapped.features
    for i, row in enumerate(mapped):
        assert sum(row["label_weights"]) == pytest.approx(1, abs=1e-6)
        if "keypoints" in row:
            SkeletonCollator().validate_row(row, i, 3)
        else:
            validate_row(row, i, 3, video_column="video" if "video" in row else None)


@every_method
def test_the_result_depends_on_seed_row_and_epoch_alone(make, data):
    """One process = two = other batch sizes = shuffled = streaming."""
    method, rows = make(data, seed=7, row_id_column="name")
    reference = contents(method.map(rows))
    assert contents(method.map(rows, num_proc=2)) == reference
    assert contents(method.map(rows, batch_size=5)) == reference
    assert contents(method.map(rows.shuffle(seed=1))) == reference
    assert contents(method.map(rows.to_iterable_dataset(num_shards=3))) == reference
    assert contents(method.at_epoch(1).map(rows)) != reference
    assert contents(make(data, seed=8, row_id_column="name")[0].map(rows)) != reference


@every_method
def test_without_a_column_of_ids_the_index_is_the_id(make, data):
    method, rows = make(data)
    numbered, ids = make(data, row_id_column="row_id")[0], list(range(len(rows)))
    assert contents(method.map(rows)) == contents(numbered.map(rows.add_column("row_id", ids)))


@every_method
def test_fresh_draws_are_those_of_the_epoch(make, data):
    method, rows = make(data, row_id_column="name")
    fresh, few = FreshDraws(method), rows.select(range(6))
    drawn = few.with_transform(fresh)
    expected = [contents(method.at_epoch(epoch).map(few)) for epoch in (0, 1)]
    assert contents(drawn) == expected[0] != expected[1]
    for epoch in (1, 0):
        fresh.set_epoch(epoch)
        assert contents(drawn) == expected[epoch]
    assert fresh.columns == method.columns and set(drawn[0]) == set(method.features(rows.features))


@every_method
def test_nothing_draws_from_global_random_state(make, data):
    method, rows = make(data)
    np.random.seed(0)
    torch.manual_seed(0)
    before = (np.random.get_state()[1].copy(), torch.get_rng_state())
    method.map(rows, load_from_cache_file=False)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


@every_method
def test_a_method_hashes_by_its_settings_and_cannot_be_changed(make, data):
    method, rows = make(data, seed=1)
    fingerprint = Hasher.hash(method)
    method(rows[:2], [0, 1])
    assert Hasher.hash(method) == Hasher.hash(make(data, seed=1)[0]) == fingerprint
    assert Hasher.hash(make(data, seed=2)[0]) != fingerprint
    with pytest.raises(FrozenInstanceError):
        method.seed = 3


@every_method
def test_the_columns_that_it_declares_are_enough(make, data):
    method, rows = make(data, row_id_column="name")
    assert set(method.columns) - {"labels", "label_weights", "provenance"} <= set(rows.column_names)
    assert len(set(method.columns)) == len(method.columns)
    kept = rows.select_columns([name for name in rows.column_names if name in method.columns])
    made, expected = method.map(kept), method.map(rows)
    written = [name for name in made.column_names if name in ("image", "video", "keypoints", "provenance")]
    assert [row[name] for row in undecoded(made) for name in written] == [
        row[name] for row in undecoded(expected) for name in written
    ]


@every_method
def test_a_row_that_cannot_be_read_is_named(make, data):
    method, rows = make(data)
    broken = [dict(row) for row in undecoded(rows)]
    noise = {"bytes": b"noise", "path": None}
    for column, value in {"image": noise, "provenance": [noise], "video": [noise], "keypoints": [[None]]}.items():
        if column in broken[2]:
            broken[2][column] = value
    with pytest.raises(ProvenanceError, match=r"^row 2, column '(image|provenance|video|keypoints)': .*\w{5}"):
        method.map(Dataset.from_list(broken, features=rows.features))


@every_method
def test_a_row_without_an_id_is_refused(make, data):
    method, rows = make(data)
    with pytest.raises(ValueError, match="store an id in a column"):
        method.map(rows.to_iterable_dataset())
    with pytest.raises(ValueError, match="`row_id_column`"):
        method(rows[:2])
    with pytest.raises(ValueError, match="`row_id_column`"):
        FreshDraws(method)
