"""`PGGTrainer` is a drop-in `Trainer`: what it trains, logs, refuses and saves."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from hf_pgg import CutMix, FreshDraws, PGGCollator, PGGConfig, PGGTrainer, ProvenanceError
from hf_pgg.metrics import group_metrics
from tests.conftest import FAMILIES, SIZE, tiny_model


def config(folder, **options):
    defaults = {
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return PGGConfig(output_dir=str(folder), **{**defaults, **options})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(model, rows, processor, folder, **options):
    trainer = PGGTrainer(model, config(folder, **options), train_dataset=rows, processing_class=processor)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def uneven(photos, guided_photos):
    """Guided rows first, unguided ones after: accumulation steps see different numbers of them."""
    bare = photos.remove_columns(["mask"])
    mixed = CutMix(source=photos, seed=1).map(photos).remove_columns(["mask"])
    bare = bare.map(lambda row: {"labels": [row["label"]], "label_weights": [1.0], "provenance": None},
                    features=guided_photos.features)  # fmt: skip
    return concatenate_datasets([guided_photos.select(range(10)), mixed.select(range(6)), bare.select(range(8))])


# ---------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_zero_is_the_stock_trainer_bit_for_bit(family, photos, processor, tmp_path):
    plain = photos.select_columns(["image", "label"])
    ours = train(tiny_model(family), plain, processor, tmp_path / "ours", alpha=0.0)

    collator = PGGCollator(processor)
    arguments = TrainingArguments(
        **{k: v for k, v in config(tmp_path / "stock").to_dict().items()
           if k in ("per_device_train_batch_size", "max_steps", "learning_rate", "logging_steps", "save_strategy",
                    "use_cpu", "disable_tqdm")},
        output_dir=str(tmp_path / "stock"), report_to=[], remove_unused_columns=False,
    )  # fmt: skip
    stock = Trainer(
        tiny_model(family),
        arguments,
        train_dataset=plain,
        data_collator=lambda rows: {
            "pixel_values": collator(rows)["pixel_values"],
            "labels": torch.tensor([row["label"] for row in rows]),
        },
    )
    stock.train()
    assert torch.equal(weights(ours.model), weights(stock.model))
    assert [e["loss"] for e in ours.state.log_history if "loss" in e] == pytest.approx(
        [e["loss"] for e in stock.state.log_history if "loss" in e]
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_accumulation_times_k_equals_batch_times_k(family, mode, uneven, processor, tmp_path):
    """Guided and unguided rows unevenly spread. SGD, no dropout, running statistics: nothing else may differ."""

    def run(batch, accumulation):
        model = tiny_model(family)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = train(
            model,
            uneven,
            processor,
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            max_steps=3,
            freeze_batch_norm=True,
            guidance_mode=mode,
            max_grad_norm=0.0,
            learning_rate=1e-4,
        )
        return weights(trainer.model), [e["loss"] for e in trainer.state.log_history if "loss" in e]

    (whole, whole_loss), (parts, parts_loss) = run(8, 1), run(2, 4)
    start = weights(tiny_model(family))
    moved = (whole - start).norm()
    assert (whole - parts).norm() < (1e-4 if mode == "exact" else 1e-2) * moved
    assert parts_loss == pytest.approx(whole_loss, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_moves_the_gradient_into_the_target(family, guided_photos, processor, tmp_path):
    trainer = train(
        tiny_model(family), guided_photos, processor, tmp_path, alpha=3.0, max_steps=25, learning_rate=3e-3, seed=1
    )
    shares = [entry["target_gradient_share"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(shares[-3:]) > np.mean(shares[:3]) + 0.02


@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_an_interrupted_run_resumes_to_the_same_weights(mode, guided_photos, processor, tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "guidance_mode": mode, "alpha": 0.5,
               "guidance_labels": "one", "guidance_fraction": 0.5}  # fmt: skip
    rows = guided_photos.add_column("row_id", list(range(len(guided_photos))))

    def trainer(folder, **more):
        collator = PGGCollator(
            processor, synthesis=FreshDraws(CutMix(source=guided_photos, row_id_column="row_id", seed=4))
        )
        return PGGTrainer(
            tiny_model("vit"), config(folder, **options, **more), train_dataset=rows, data_collator=collator
        )

    whole = trainer(tmp_path / "whole")
    whole.train()

    class Killed(Exception):
        pass

    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Killed

    cut = trainer(tmp_path / "cut")
    cut.add_callback(Kill)
    with pytest.raises(Killed):
        cut.train()
    resumed = trainer(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(whole.model), weights(resumed.model))


def test_a_stream_of_synthesized_rows_trains(photos, processor, tmp_path):
    rows = photos.add_column("row_id", list(range(len(photos)))).to_iterable_dataset(num_shards=2)
    mixed = CutMix(source=photos, row_id_column="row_id").map(rows)
    trainer = train(tiny_model("convnext"), mixed, processor, tmp_path, alpha=1.0)
    assert trainer.state.log_history[0]["guidance_loss"] > 0


# ---------------------------------------------------------------------------------------------- logs and metrics


def test_logs_and_evaluation_report_the_parts(guided_photos, processor, tmp_path):
    seen = {}

    def compute(prediction):
        seen["groups"], seen["labels"] = prediction.groups, prediction.label_ids
        return group_metrics(prediction.predictions.argmax(1), prediction.label_ids, prediction.groups["scene"])

    trainer = PGGTrainer(
        tiny_model("vit"),
        config(tmp_path, group_columns=["scene"], alpha=0.5),
        train_dataset=guided_photos,
        eval_dataset=guided_photos,
        processing_class=processor,
        compute_metrics=compute,
    )
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    assert entry["loss"] == pytest.approx(entry["classification_loss"] + 0.5 * entry["guidance_loss"], rel=1e-4)
    assert 0 < entry["target_gradient_share"] < 1
    assert entry["guidance_loss"] == pytest.approx(1 - entry["target_gradient_share"], rel=1e-3)
    metrics = trainer.evaluate()
    assert seen["groups"]["scene"].tolist() == guided_photos["scene"]
    assert seen["labels"].tolist() == guided_photos["label"]
    assert {"eval_accuracy", "eval_worst_group_accuracy", "eval_target_gradient_share"} <= set(metrics)


def test_the_evaluated_target_share_is_that_of_the_gradient(guided_photos, processor, tmp_path):
    trainer = PGGTrainer(
        tiny_model("convnext"), config(tmp_path), eval_dataset=guided_photos, processing_class=processor
    )
    reported = trainer.evaluate()["eval_target_gradient_share"]
    batch = PGGCollator(processor)([guided_photos[i] for i in range(len(guided_photos))])
    pixels = batch["pixel_values"].requires_grad_()
    chosen = trainer.model.eval()(pixel_values=pixels).logits.gather(1, batch["labels"][:, :1])
    energy = torch.autograd.grad(chosen.sum(), pixels)[0].pow(2).sum(1)
    inside = (batch["provenance"][:, 0] > 0).float()
    expected = 1 - ((1 - batch["provenance"][:, 0]) ** 2 * energy).sum((1, 2)) / energy.sum((1, 2))
    assert inside.mean() > 0 and reported == pytest.approx(expected.mean().item(), rel=1e-4)


def test_alpha_warms_up_and_the_logged_one_is_that_of_the_step(guided_photos, processor, tmp_path):
    trainer = train(tiny_model("vit"), guided_photos, processor, tmp_path, alpha=2.0, alpha_warmup_ratio=1.0)
    assert [e["alpha"] for e in trainer.state.log_history if "loss" in e] == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_a_run_at_chance_is_reported(guided_photos, processor, tmp_path):
    """Random labels cannot be fitted at a zero learning rate: the training accuracy stays at chance."""
    trainer = train(tiny_model("vit"), guided_photos, processor, tmp_path, max_steps=20, learning_rate=0.0)
    assert trainer.collapsed_at is not None


def test_label_smoothing_is_honoured(guided_photos, processor, tmp_path):
    plain = train(tiny_model("convnext"), guided_photos, processor, tmp_path, alpha=0.0, max_steps=1)
    smooth = train(
        tiny_model("convnext"), guided_photos, processor, tmp_path, alpha=0.0, max_steps=1, label_smoothing_factor=0.3
    )
    assert plain.state.log_history[0]["loss"] != smooth.state.log_history[0]["loss"]


def test_a_nonfinite_guidance_loss_is_skipped_counted_and_stops_the_run(guided_photos, processor, tmp_path):
    def broken(trainer):
        guide = trainer._guide

        def nan(*args):
            logits, guidance = guide(*args)
            guidance.loss = guidance.loss * float("nan")
            return logits, guidance

        trainer._guide = nan
        return trainer

    def make(limit):
        return broken(
            PGGTrainer(
                tiny_model("vit"),
                config(tmp_path, max_nonfinite_steps=limit, alpha=1.0),
                train_dataset=guided_photos,
                processing_class=processor,
            )
        )

    patient = make(100)
    patient.train()
    assert patient.nonfinite_steps == 4 and torch.isfinite(weights(patient.model)).all()
    assert patient.state.log_history[-2]["nonfinite_steps"] == 4
    with pytest.raises(RuntimeError, match=r"NaN or infinite 3 times in a row.*Lower the learning rate or alpha"):
        make(3).train()


# ---------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_loads_where_hf_pgg_cannot_be_imported(family, guided_photos, processor, tmp_path):
    trainer = train(tiny_model(family), guided_photos, processor, tmp_path)
    trainer.save_model()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    torch.save(pixels, tmp_path / "pixels.pt")
    code = f"""
import sys
sys.modules["hf_pgg"] = None
import torch
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained({str(tmp_path)!r}).eval()
torch.save(model(pixel_values=torch.load({str(tmp_path / "pixels.pt")!r})).logits, {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = trainer.model.eval()(pixel_values=pixels).logits
    assert torch.allclose(torch.load(tmp_path / "logits.pt"), expected, atol=1e-6)


def test_lora_trains_under_guidance(guided_photos, processor, tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny_model("vit"), peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    )
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    trainer = train(model, guided_photos, processor, tmp_path, alpha=1.0)
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in frozen.items())
    assert any("lora_B" in n and not torch.equal(after[n], p) for n, p in before.items())


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"guidance_form": "l3"}, "choose one of l2, l2_mean, share, energy"),
        ({"guidance_mode": "fast"}, "choose one of auto, exact, finite_difference"),
        ({"guidance_logit": "top"}, "choose one of label, centered"),
        ({"guidance_step": 0.0}, r"it must be in \(0, 1\)"),
        ({"guidance_fraction": 0.0}, r"it must be in \(0, 1\]"),
        ({"guidance_labels": "two"}, "choose one of all, one"),
        ({"guidance_mode": "exact", "guidance_step": 1e-3}, "exact guidance takes no step"),
        ({"alpha_warmup_ratio": 2.0}, r"must be in \[0, 1\]"),
    ],
)
def test_bad_settings_are_refused(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        config(tmp_path, **options)


def test_what_exact_mode_cannot_do_is_refused_with_the_remedy(guided_photos, processor, tmp_path):
    with pytest.raises(ValueError, match=r"torch_compile.*guidance_mode='finite_difference'"):
        train(
            tiny_model("vit"), guided_photos, processor, tmp_path, guidance_mode="exact", torch_compile=True
        )  # fmt: skip
    with pytest.raises(ValueError, match="use_reentrant': False"):
        train(
            tiny_model("vit"), guided_photos, processor, tmp_path,
            gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True},
        )  # fmt: skip
    with pytest.raises(ValueError, match="compute_loss_func"):
        PGGTrainer(tiny_model("vit"), config(tmp_path), compute_loss_func=len, processing_class=processor)


def test_a_collator_that_declares_nothing_is_refused(guided_photos, processor, tmp_path):
    with pytest.raises(TypeError, match=r"data_collator is a function: .*subclass of `hf_pgg.data.collator.Collator`"):
        PGGTrainer(
            tiny_model("vit"),
            config(tmp_path / "out"),
            train_dataset=guided_photos,
            data_collator=lambda rows: PGGCollator(processor)(rows),
        )
    assert not (tmp_path / "out").exists()


def test_evaluating_first_takes_no_column_from_fresh_draws(photos, processor, tmp_path):
    """The columns are those of the training collator, whichever data loader is made first."""
    rows = photos.add_column("row_id", list(range(len(photos))))
    fresh = FreshDraws(CutMix(source=photos, row_id_column="row_id"))
    trainer = PGGTrainer(
        tiny_model("vit"),
        config(tmp_path, max_steps=1, alpha=1.0),
        train_dataset=rows,
        eval_dataset=photos,
        data_collator=PGGCollator(processor, synthesis=fresh),
    )
    trainer.evaluate()
    trainer.train()
    assert any("guidance_loss" in entry for entry in trainer.state.log_history)


def test_a_model_that_reads_no_images_is_refused(guided_photos, processor, tmp_path):
    model = BertForSequenceClassification(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    )
    with pytest.raises(ValueError, match="not `pixel_values`"):
        train(model, guided_photos, processor, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.rename_column("image", "img"), "no column 'image' but .*set `image_column`"),
        (lambda rows: rows.remove_columns(["label", "labels"]), "neither 'labels' nor 'label'"),
        (lambda rows: rows.select([]), "training dataset is empty"),
        (lambda rows: rows.remove_columns(["scene"]), "no group column 'scene'"),
    ],
)
def test_a_wrong_dataset_is_refused_before_the_first_step(change, words, guided_photos, processor, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(tiny_model("vit"), change(guided_photos), processor, tmp_path / "out", group_columns=["scene"])
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_named_before_the_first_step(guided_photos, processor, tmp_path):
    rows = [dict(row) for row in guided_photos]
    rows[7]["label_weights"] = [0.7]
    data = Dataset.from_list(rows, features=guided_photos.features)
    with pytest.raises(ProvenanceError, match="row 7 of the training dataset, column 'label_weights'"):
        train(tiny_model("vit"), data, processor, tmp_path / "out")
    with pytest.raises(ProvenanceError, match=r"row 2 of the training.*'labels': label 2 is outside 0"):
        train(tiny_model("vit", num_labels=2), guided_photos, processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_saved_model_is_an_ordinary_auto_model(guided_photos, processor, tmp_path):
    trainer = train(tiny_model("vit"), guided_photos, processor, tmp_path)
    trainer.save_model()
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is type(trainer.model)
