"""What meets in a trainer agrees: classes by name, ids of rows, and rows checked wherever they enter."""

import copy

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, IterableDataset

from hf_pgg import CutMix, FreshDraws, PGGCollator, PGGConfig, PGGTrainer
from hf_pgg.data.images import undecoded
from hf_pgg.data.provenance import ProvenanceError
from tests.conftest import tiny_model


def trainer(model, rows, processor, folder, **options):
    args = PGGConfig(str(folder), max_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
                     per_device_train_batch_size=4, alpha=0.0,
                     remove_unused_columns=options.pop("remove", True))  # fmt: skip
    return PGGTrainer(model, args, train_dataset=rows, processing_class=processor, **options)


def renamed(rows, names):
    """The same rows with their classes in another order."""
    old = rows.features["label"].names
    values = [names.index(old[value]) for value in rows["label"]]
    return rows.remove_columns("label").add_column("label", values, feature=ClassLabel(names=names))


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def constant(names=None):
    """A model that answers class 0 with every image."""
    model = tiny_model("vit")
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([1.0, 0.0, 0.0])
    if names is not None:
        model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    return model


def test_classes_in_another_order_are_evaluated_by_name(photos, processor, tmp_path):
    only_a = photos.select_columns(["image", "label"]).filter(lambda label: label == 0, input_columns="label")
    other = renamed(only_a, ["c", "b", "a"])
    run = trainer(constant(), photos, processor, tmp_path, eval_dataset=other, compute_metrics=accuracy)
    assert run.evaluate()["eval_accuracy"] == 1.0
    assert run.evaluate(other)["eval_accuracy"] == 1.0
    assert run.predict(other).metrics["test_accuracy"] == 1.0
    assert run.evaluate(other.to_iterable_dataset())["eval_accuracy"] == 1.0


def test_a_checkpoints_own_names_decide(photos, processor, tmp_path):
    only_a = photos.select_columns(["image", "label"]).filter(lambda label: label == 0, input_columns="label")
    run = trainer(constant(["a", "c", "b"]), renamed(photos, ["b", "a", "c"]), processor, tmp_path,
                  eval_dataset=only_a, compute_metrics=accuracy)  # fmt: skip
    assert run.train_dataset.features["label"].names == ["a", "c", "b"]
    assert run.evaluate()["eval_accuracy"] == 1.0
    with pytest.raises(ValueError, match="classes of the training dataset are a, b, c, and x, y, z are expected"):
        trainer(constant(["x", "y", "z"]), photos, processor, tmp_path)


def test_other_classes_are_refused_in_evaluation_and_prediction(photos, processor, tmp_path):
    run = trainer(tiny_model("vit"), photos, processor, tmp_path)
    fewer = photos.cast_column("label", ClassLabel(names=["a", "b", "q"]))
    for use in (run.evaluate, run.predict):
        with pytest.raises(ValueError, match=r"classes of the evaluation dataset.*q is not expected, c is missing"):
            use(fewer)


def test_pools_of_fresh_draws_take_the_classes_order(photos, processor, tmp_path):
    rows = photos.add_column("row_id", list(range(len(photos))))
    fresh = FreshDraws(CutMix(source=renamed(rows, ["c", "a", "b"]), row_id_column="row_id"))
    trainer(tiny_model("vit"), rows, processor, tmp_path, data_collator=PGGCollator(processor, synthesis=fresh))
    assert fresh.synthesizer.source["label"][:] == photos["label"][:]
    fresh = FreshDraws(CutMix(source=renamed(rows, ["c", "a", "b"]), row_id_column="row_id"))
    trainer(tiny_model("vit"), rows.with_transform(fresh), processor, tmp_path, remove=False)
    assert fresh.synthesizer.source["label"][:] == photos["label"][:]
    twice = rows.select([0, 1, 0])
    with pytest.raises(ValueError, match="rows 0 and 2 have the same id 0 in column 'row_id'"):
        trainer(tiny_model("vit"), twice, processor, tmp_path, data_collator=PGGCollator(processor, synthesis=fresh))


def bad(photos, i):
    rows = [dict(row) for row in photos.select_columns(["image", "label"])]
    rows[i]["label"] = 5
    return rows


@pytest.mark.parametrize(("i", "words"), [(1, "row 1 of the training dataset, column 'label': label 5"),
                                          (23, "row . of the batch, column 'label': label 5")])  # fmt: skip
def test_streams_are_checked_at_the_start_and_batch_by_batch(i, words, photos, processor, tmp_path):
    stream = IterableDataset.from_generator(lambda: iter(bad(photos, i)))
    with pytest.raises(ProvenanceError, match=words):
        run = trainer(tiny_model("vit"), stream, processor, tmp_path)
        for _ in run.get_train_dataloader():
            pass


@pytest.mark.parametrize("i", [1, 23])
def test_an_image_of_a_stream_that_cannot_be_read_is_named(i, photos, processor, tmp_path):
    """`datasets` would decode it, and say neither row nor column."""
    rows = [dict(row) for row in undecoded(photos.select_columns(["image", "label"]))]
    rows[i]["image"]["bytes"] = rows[i]["image"]["bytes"][:-60]
    features = photos.select_columns(["image", "label"]).features
    stream = Dataset.from_list(rows, features=features).to_iterable_dataset()
    with pytest.raises(ProvenanceError, match=r"row \d of the (training dataset|batch), column 'image'"):
        run = trainer(tiny_model("vit"), stream, processor, tmp_path)
        for _ in run.get_train_dataloader():
            pass


def test_what_is_evaluated_or_predicted_is_checked(photos, processor, tmp_path):
    run = trainer(tiny_model("vit"), photos, processor, tmp_path)
    rows = Dataset.from_list(bad(photos, 23))
    for use in (run.evaluate, run.predict):
        with pytest.raises(
            ProvenanceError, match="row 23 of the evaluation dataset, column 'label': label 5 is outside"
        ):
            use(rows)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_formatted_dataset_trains_as_the_plain_one(kind, guided_photos, processor, tmp_path):
    batches = []
    for rows in (guided_photos, guided_photos.with_format(kind)):
        batches.append(next(iter(trainer(tiny_model("vit"), rows, processor, tmp_path).get_train_dataloader())))
    for name, values in batches[0].items():
        assert torch.equal(values, batches[1][name]), name


def test_a_transform_to_pixel_values_is_told_the_way(photos, processor, tmp_path):
    def transform(batch):
        return {"pixel_values": [np.zeros((3, 32, 32), np.float32)] * len(batch["image"]), "label": batch["label"]}

    with pytest.raises(ValueError, match=r"has \['label', 'pixel_values'\], no column 'image'.*give it as `augment`"):
        trainer(tiny_model("vit"), photos.with_transform(transform), processor, tmp_path, remove=False)


def test_a_group_column_that_reaches_no_batch_is_refused(photos, processor, tmp_path):
    args = PGGConfig(str(tmp_path), group_columns=["scene"], report_to=[], use_cpu=True, alpha=0.0)
    rows = photos.remove_columns("scene")
    with pytest.raises(ValueError, match=r"groups that `group_columns` names: .* extra_columns=\['scene'\]"):
        PGGTrainer(constant(), args, train_dataset=photos, data_collator=PGGCollator(processor))
    for own in (rows, rows.to_iterable_dataset()):
        with pytest.raises(ValueError, match="no group column 'scene'"):
            PGGTrainer(constant(), args, train_dataset=own, processing_class=processor)
    run = PGGTrainer(constant(), args, train_dataset=photos, processing_class=processor, compute_metrics=accuracy)
    with pytest.raises(ValueError, match="evaluation dataset has no group column 'scene'"):
        run.evaluate(rows)


def test_a_float_group_is_refused_with_the_remedy(photos, processor, tmp_path):
    rows = photos.add_column("place", [0.2, 0.7] * 12)
    args = PGGConfig(str(tmp_path), group_columns=["place"], report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match=r"group column 'place' of the training dataset is Value.*encode_classes"):
        PGGTrainer(copy.deepcopy(constant()), args, train_dataset=rows, processing_class=processor)
