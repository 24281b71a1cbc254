"""A run and its folder: checkpoints stay whole, are another run's or this one's, and resume exactly."""

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from huggingface_hub import ModelCard

from hf_pgg import PGGConfig, PGGTrainer
from tests.conftest import tiny_model


@pytest.fixture
def make(guided_photos, processor, tmp_path):
    def make(model=None, **options):
        defaults = {"per_device_train_batch_size": 8, "max_steps": 4, "save_strategy": "steps", "save_steps": 2,
                    "alpha": 1.0, "learning_rate": 1e-2, "report_to": [], "use_cpu": True,
                    "disable_tqdm": True}  # fmt: skip
        args = PGGConfig(str(tmp_path / "out"), **{**defaults, **options})
        rows = {"train_dataset": guided_photos, "eval_dataset": guided_photos}
        return PGGTrainer(model or tiny_model("vit"), args, **rows, processing_class=processor)

    return make


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def checkpoints(folder):
    return sorted(path.name for path in (folder / "out").glob("*checkpoint-*"))


# ---------------------------------------------------------------------------------------------- renamed weights


def in_shards(model):
    model.save_pretrained = partial(model.save_pretrained, max_shard_size="10KB")
    return model


def test_a_sharded_checkpoint_of_renamed_weights_resumes_exactly(make, tmp_path):
    whole = make(in_shards(tiny_model("vit")))
    whole.train()
    folder = tmp_path / "out" / "checkpoint-2"
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(names.values())) > 1 and not set(names) <= set(whole.model.state_dict())
    resumed = make(tiny_model("vit", seed=1))
    resumed.train(resume_from_checkpoint=str(folder))
    assert torch.equal(weights(whole), weights(resumed))


def test_the_best_sharded_checkpoint_is_loaded_at_the_end(make, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "learning_rate": 0.5,
               "metric_for_best_model": "eval_loss"}  # fmt: skip
    trainer = make(in_shards(tiny_model("vit")), **options)
    trainer.train()
    best = type(trainer.model).from_pretrained(trainer.state.best_model_checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), best.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------- other runs


def test_a_run_in_a_folder_where_another_trains_is_refused(make, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / "_running.lock"), pytest.raises(RuntimeError, match="another run is training in"):
        make().train()
    make(max_steps=1).train()
    assert not (tmp_path / "out" / "_running.lock").exists()


def test_a_fresh_run_deletes_no_checkpoint_of_another(make, tmp_path, caplog):
    make().train()
    first = {file: file.read_bytes() for file in (tmp_path / "out").glob("checkpoint-*/model.safetensors")}
    trainer = make(tiny_model("vit", seed=1), save_steps=1, max_steps=3, save_total_limit=1)
    with caplog.at_level(logging.WARNING, "hf_pgg"):
        trainer.train()
    assert "checkpoint-2, checkpoint-4 of another run: they stay" in caplog.text
    assert checkpoints(tmp_path) == ["_earlier-checkpoint-2", "checkpoint-3", "checkpoint-4"]
    moved = {file.parent.name.removeprefix("_earlier-"): file.read_bytes()
             for file in (tmp_path / "out").glob("*checkpoint-[24]/model.safetensors")}  # fmt: skip
    assert moved == {file.parent.name: data for file, data in first.items()}


@pytest.mark.parametrize("limit", [1, 2])
def test_nor_does_one_that_keeps_its_best(limit, make, tmp_path):
    make(max_steps=6, save_steps=6).train()
    make(max_steps=4, save_total_limit=limit, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True).train()
    assert "checkpoint-6" in checkpoints(tmp_path)
    assert len(checkpoints(tmp_path)) == limit + 1


def test_the_own_checkpoints_are_rotated_and_replaced(make, tmp_path):
    trainer = make(save_steps=1, save_total_limit=2)
    trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    make(save_steps=1, save_total_limit=2, max_steps=5).train(resume_from_checkpoint=True)
    assert checkpoints(tmp_path) == ["checkpoint-4", "checkpoint-5"]


def test_another_number_of_processes_is_told(make, tmp_path, caplog):
    make(max_steps=2).train()
    folder = tmp_path / "out" / "checkpoint-2"
    state = (folder / "rng_state.pth").read_bytes()
    for i in range(2):
        (folder / f"rng_state_{i}.pth").write_bytes(state)
    with caplog.at_level(logging.WARNING, "hf_pgg"):
        make().train(resume_from_checkpoint=True)
    assert "was written by 2 processes, and this run has 1" in caplog.text


# ---------------------------------------------------------------------------------------------- disks, cards, secrets


def test_a_full_disk_is_named_and_what_was_staged_is_freed(make, tmp_path, monkeypatch):
    trainer = make()
    write = trainer._save_optimizer_and_scheduler

    def full(folder):
        if trainer.state.global_step == 4:
            raise OSError(28, "No space left on device")
        write(folder)

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(
        OSError, match=r"disk full: writing to .*out failed with [\d,]{5,} bytes there, and [\d,]+ bytes"
    ):
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-2"] and not (tmp_path / "out" / "_unfinished").exists()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(trainer.model, "save_pretrained", lambda *args, **kwargs: full(""))
        trainer.save_model()


def test_the_arguments_are_never_written(make, tmp_path, monkeypatch):
    written, save = [], torch.save

    def watch(value, file, *args, **kwargs):
        written.append(type(value).__name__)
        return save(value, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", watch)
    trainer = make(max_steps=2, hub_token="hf_" + "a" * 30)
    trainer.train()
    trainer.save_model()
    assert written and "PGGConfig" not in written
    files = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert files and not any(b"hf_" + b"a" * 30 in data for data in files)


def card(folder):
    return ModelCard.load(folder / "out" / "README.md")


def test_a_card_is_made_with_what_it_is_told_and_keeps_it(make, tmp_path):
    trainer = make(save_strategy="no", max_steps=1)
    trainer.model.add_model_tags(["mine"])
    trainer.create_model_card(license="mit", tags="photos", language="en", model_name="Rectangles",
                              finetuned_from="some/base", dataset="rectangles", dataset_tags="some/rectangles",
                              tasks="image-classification", dataset_args="default")  # fmt: skip
    for _ in range(2):
        found = card(tmp_path)
        assert found.data.license == "mit" and found.data.language == "en" and found.data.base_model == "some/base"
        assert {"photos", "mine", "hf_pgg"} <= set(found.data.tags) and found.data.datasets == ["some/rectangles"]
        assert "# Rectangles" in found.text
        trainer.train()
        trainer.save_model()


def test_a_card_of_ones_own_stays(make, tmp_path, caplog):
    trainer = make(save_strategy="no", max_steps=1)
    (tmp_path / "out").mkdir(exist_ok=True)
    Path(tmp_path / "out" / "README.md").write_text("# My own\n")
    with caplog.at_level(logging.WARNING, "hf_pgg"):
        trainer.create_model_card(license="mit")
    assert (tmp_path / "out" / "README.md").read_text() == "# My own\n"
    assert "a card of your own: it stays as it is, without license" in caplog.text
