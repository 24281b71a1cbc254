"""How a batch is walked: fresh draws in collators and workers, streams, threads, rows that cannot be read."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from datasets.distributed import split_dataset_by_node

from hf_pgg import CutMix, Edit, FreshDraws, PGGCollator, ProvenanceError
from hf_pgg.data.images import to_rgb
from tests.synthesis.conftest import contents


def test_fresh_draws_change_with_the_epoch_in_transform_and_collator(photos, processor):
    fresh = FreshDraws(CutMix(source=photos, row_id_column="name"))
    rows = photos.with_transform(fresh)
    first = np.asarray(to_rgb(rows[3]["image"]))
    assert (first == to_rgb(rows[3]["image"])).all()
    fresh.set_epoch(1)
    assert (first != to_rgb(rows[3]["image"])).any()
    fresh.set_epoch(0)
    assert (first == to_rgb(rows[3]["image"])).all()
    collator = PGGCollator(processor, synthesis=fresh)
    raw = [photos[i] for i in range(4)]
    batches = []
    for epoch in (0, 1, 0):
        collator.set_epoch(epoch)
        batches.append(collator(raw)["pixel_values"])
    assert torch.equal(batches[0], batches[2]) and not torch.equal(batches[0], batches[1])


def test_fresh_draws_reach_data_loader_workers(photos, processor):
    fresh = FreshDraws(CutMix(source=photos, row_id_column="name"))
    loader = torch.utils.data.DataLoader(
        photos, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=PGGCollator(processor, synthesis=fresh)
    )
    epochs = []
    for epoch in (0, 1, 0):
        fresh.set_epoch(epoch)
        epochs.append(torch.cat([batch["pixel_values"] for batch in loader]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_one_row_is_too_few_for_two_sources(photos):
    with pytest.raises(ValueError, match=r"mixes two images: its source has 1 row"):
        CutMix(source=photos.select([0]))


def test_a_truncated_image_is_named_by_its_row(photos):
    broken = photos.cast_column("image", Image(decode=False))
    rows = [dict(row) for row in broken]
    rows[5]["image"] = {"bytes": rows[5]["image"]["bytes"][:800], "path": None}
    features = Features({**broken.features, "image": Image()})
    data = Dataset.from_list(rows, features=features)
    with pytest.raises(ProvenanceError, match=r"row 5, column 'image': the image cannot be decoded"):
        CutMix(source=photos).map(data)


def test_every_process_streams_its_own_rows_once_and_resumes_in_the_middle(photos):
    """`split_dataset_by_node` over a stream: the processes' rows are those of the map-style run, each once."""
    rows = photos.add_column("row_id", list(range(len(photos))))
    method = CutMix(source=photos, row_id_column="row_id", seed=7)
    expected = contents(method.map(rows))

    def share_of(rank):
        return split_dataset_by_node(method.map(rows.to_iterable_dataset(num_shards=4)), rank=rank, world_size=2)

    parts = [list(share_of(rank)) for rank in range(2)]
    names = [row["name"] for part in parts for row in part]
    assert sorted(names) == sorted(photos["name"]) and all(parts)
    assert contents(row for part in parts for row in part) == expected

    whole, cut = [row["name"] for row in parts[1]], share_of(1)
    first = []
    for row in cut:
        first.append(row["name"])
        if len(first) == 5:
            break
    state, resumed = cut.state_dict(), share_of(1)
    resumed.load_state_dict(state)
    again = list(resumed)
    assert first + [row["name"] for row in again] == whole
    assert contents(again).items() <= expected.items()


def test_torch_runs_in_one_thread_meanwhile(photos):
    """With more, a forked worker of `map(num_proc=)` can hang on the first large resize."""
    threads = []

    def editor(image):
        threads.append(torch.get_num_threads())
        return 255 - image

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Edit(editor=editor)(photos[:2], [0, 1])
        assert threads == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
