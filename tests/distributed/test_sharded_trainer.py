"""Sharded training ends, and equals one process on the same rows, wherever the guided rows are."""

import json

import pytest
import torch
from datasets import concatenate_datasets

from hf_pgg import CutMix
from tests.conftest import tiny_model
from tests.distributed.test_processes import launch

pytestmark = pytest.mark.xdist_group("distributed")


@pytest.fixture(scope="module")
def cases(photos, guided_photos):
    """Batches of 4 rows go to the first and to the second process in turn."""
    bare = guided_photos.map(lambda row: {"provenance": None}, features=guided_photos.features)
    mixed = CutMix(source=photos, seed=1).map(photos).remove_columns(["mask"])
    four = range(4)
    return {
        "guided in one": concatenate_datasets([guided_photos.select(four), bare.select(four)] * 2),
        "labels differ": concatenate_datasets([mixed.select(four), bare.select(four), guided_photos.select(range(6))]),
        "guided in none": concatenate_datasets([bare.select(range(8)), guided_photos.select(range(8))]),
    }


@pytest.fixture(scope="module")
def found(cases, tmp_path_factory):
    results = {}
    for processes in (1, 2):
        folder, runs = tmp_path_factory.mktemp("runs"), []
        for name, rows in cases.items():
            place = folder / name
            rows.save_to_disk(str(place / "rows"))
            runs.append({"out": str(place / "out"), "rows": str(place / "rows"), "weights": str(place / "weights.pt"),
                         "batch": 8 // processes, "labels": "all"})  # fmt: skip
        (folder / "options.json").write_text(json.dumps(runs))
        launch("tests.distributed.sharded_trainer", folder / "options.json", processes)
        results[processes] = {name: torch.load(folder / name / "weights.pt") for name in cases}
    return results


@pytest.mark.parametrize("case", ["guided in one", "labels differ", "guided in none"])
def test_sharded_training_equals_one_process(case, found, cases):
    one, two = found[1][case], found[2][case]
    start = torch.cat([p.detach().flatten() for p in tiny_model("convnext").double().parameters()])
    moved = (one["weights"] - start).norm()
    assert moved > 1e-4
    if len(cases[case]) % 8 == 0:  # else the last round is filled from the beginning
        assert (one["weights"] - two["weights"]).norm() < 1e-6 * moved
    assert two["share"] == pytest.approx(one["share"], rel=1e-6)
