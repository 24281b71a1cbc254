"""What a user of `Trainer` relies on holds for `PGGTrainer`: evaluation, prediction, models, arguments."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback, TrainingArguments, default_data_collator
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_utils import HPSearchBackend

from hf_pgg import CutMix, PGGCollator, PGGConfig, PGGTrainer
from tests.conftest import SIZE, tiny_model


def config(folder, **options):
    defaults = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 5, "max_steps": 2, "alpha": 1.0,
                "save_strategy": "no", "logging_steps": 1, "report_to": [], "use_cpu": True,
                "disable_tqdm": True}  # fmt: skip
    return PGGConfig(output_dir=str(folder), **{**defaults, **options})


@pytest.fixture
def make(guided_photos, processor, tmp_path):
    def make(model=None, *, options=None, **kwargs):
        kwargs = {
            "train_dataset": guided_photos,
            "eval_dataset": guided_photos,
            "processing_class": processor,
            **kwargs,
        }
        model = tiny_model("vit") if model is None and "model_init" not in kwargs else model
        return PGGTrainer(model, config(tmp_path / "out", **(options or {})), **kwargs)

    return make


def accuracy(prediction):
    assert isinstance(prediction.label_ids, np.ndarray) and prediction.label_ids.ndim == 1
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


# ---------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("groups", [None, ["scene"]])
def test_predictions_have_one_label_a_row_and_the_groups_beside(groups, make, guided_photos):
    trainer = make(options={"group_columns": groups}, compute_metrics=accuracy)
    found = trainer.predict(guided_photos)
    predictions, label_ids, metrics = found
    assert label_ids.tolist() == guided_photos["label"]
    assert metrics["test_accuracy"] == pytest.approx((predictions.argmax(-1) == label_ids).mean())
    assert {name: values.tolist() for name, values in found.groups.items()} == (
        {"scene": guided_photos["scene"]} if groups else {}
    )


def test_rows_of_several_sources_are_predicted_with_their_own_label(make, photos):
    mixed = CutMix(source=photos, seed=1).map(photos)
    assert make().predict(mixed).label_ids.tolist() == [labels[0] for labels in mixed["labels"]]


def test_logits_are_preprocessed_with_one_label_a_row(make, guided_photos):
    shapes = []

    def first(logits, labels):
        shapes.append((tuple(logits.shape), tuple(labels.shape)))
        return logits.argmax(-1)

    found = make(compute_metrics=lambda p: {"a": float((p.predictions == p.label_ids).mean())},
                 preprocess_logits_for_metrics=first).predict(guided_photos)  # fmt: skip
    assert found.predictions.shape == found.label_ids.shape == (24,)
    assert shapes[0] == ((5, 3), (5,))


def test_metrics_may_be_computed_batch_by_batch(make, guided_photos):
    seen = []

    def compute(prediction, compute_result):
        seen.append((prediction.label_ids, prediction.groups["scene"], compute_result))
        return {"rows": sum(len(labels) for labels, *_ in seen)} if compute_result else None

    trainer = make(options={"batch_eval_metrics": True, "group_columns": ["scene"]}, compute_metrics=compute)
    assert trainer.evaluate()["eval_rows"] == 24
    assert [last for *_, last in seen] == [False] * 4 + [True]
    assert torch.cat([labels for labels, *_ in seen]).tolist() == guided_photos["label"]
    assert torch.cat([groups for _, groups, _ in seen]).tolist() == guided_photos["scene"]


def test_batches_may_be_left_apart(make, guided_photos):
    seen = {}

    def compute(prediction):
        seen["labels"], seen["groups"] = prediction.label_ids, prediction.groups["scene"]
        return {}

    options = {"eval_do_concat_batches": False, "group_columns": ["scene"]}
    make(options=options, compute_metrics=compute).evaluate()
    assert [len(labels) for labels in seen["labels"]] == [len(groups) for groups in seen["groups"]] == [5, 5, 5, 5, 4]
    assert np.concatenate(seen["groups"]).tolist() == guided_photos["scene"]


@pytest.mark.parametrize("kind", ["rows", "stream", "list", "transformed"])
def test_rows_without_labels_are_predicted(kind, make, guided_photos):
    trainer = make(options={"group_columns": ["scene"]}, compute_metrics=accuracy)
    expected = trainer.predict(guided_photos).predictions
    bare = guided_photos.select_columns(["image"])
    rows = {"rows": bare, "stream": bare.to_iterable_dataset(), "list": list(bare),
            "transformed": bare.with_transform(lambda batch: batch)}[kind]  # fmt: skip
    found = trainer.predict(rows)
    assert found.label_ids is None and found.groups == {}
    assert np.allclose(found.predictions, expected, atol=1e-6)


def test_evaluation_needs_labels(make, guided_photos):
    with pytest.raises(ValueError, match="the evaluation dataset has neither 'labels' nor 'label'"):
        make().evaluate(guided_photos.select_columns(["image"]))


def test_evaluation_runs_in_inference_mode(make):
    trainer = make(compute_metrics=accuracy)
    expected = trainer.evaluate()
    with torch.inference_mode():
        found = trainer.evaluate()
    for name in ("eval_loss", "eval_accuracy", "eval_target_gradient_share"):
        assert found[name] == pytest.approx(expected[name])
    trainer.train()


def test_a_prediction_step_runs_by_itself(make):
    trainer = make()
    batch = next(iter(trainer.get_eval_dataloader()))
    loss, logits, labels = trainer.prediction_step(trainer.model.eval(), batch, prediction_loss_only=False)
    assert loss.ndim == 0 and logits.shape == (5, 3) and labels.shape == (5,)


# ---------------------------------------------------------------------------------------------- model_init, arguments


def test_model_init_makes_the_model_anew_for_every_training(make):
    made = []

    def init():
        made.append(tiny_model("vit", seed=int(torch.randint(100, ()))))
        made[-1].half()
        return made[-1]

    trainer = make(model_init=init, options={"max_steps": 1})
    assert trainer.model is made[0] and len(made) == 1
    trainer.train()
    first = [p.clone() for p in trainer.model.parameters()]
    assert {p.dtype for p in first} == {torch.float32}  # cast, as a model is that is given
    assert trainer.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    trainer.train()
    assert len(made) == 3 and all(torch.equal(a, b) for a, b in zip(first, trainer.model.parameters(), strict=True))


def test_neither_a_model_nor_model_init_is_the_trainers_own_error(guided_photos, processor, tmp_path):
    with pytest.raises(RuntimeError, match="requires either a `model` or `model_init` argument"):
        PGGTrainer(args=config(tmp_path), train_dataset=guided_photos, processing_class=processor)
    with pytest.raises(ValueError, match="but not both"):
        PGGTrainer(tiny_model("vit"), config(tmp_path), model_init=lambda: tiny_model("vit"),
                   train_dataset=guided_photos, processing_class=processor)  # fmt: skip


def test_a_search_trains_with_the_values_of_the_trial(make, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    trainer = make(model_init=lambda: tiny_model("vit"), options={"max_steps": 1})
    trainer.hp_search_backend, trainer.hp_name = HPSearchBackend.OPTUNA, None
    trainer.hp_space = lambda trial: {"learning_rate": 0.5, "alpha": 3.0, "guidance_form": "l2"}
    trainer.train(trial=SimpleNamespace(number=4, params={}))
    entry = trainer.state.log_history[0]
    assert entry["learning_rate"] == 0.5 and entry["alpha"] == 3.0 and trainer.guidance.form.name == "l2"
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.5


def test_optuna_searches(make):
    pytest.importorskip("optuna")
    trainer = make(model_init=lambda: tiny_model("vit"), options={"max_steps": 1})
    best = trainer.hyperparameter_search(lambda trial: {"alpha": trial.suggest_float("alpha", 0, 2)}, n_trials=2)
    assert set(best.hyperparameters) == {"alpha"}


class Changing(TrainerCallback):
    """Changes arguments after the first step."""

    def __init__(self, **values):
        self.values = values

    def on_step_end(self, args, state, control, **kwargs):
        for name, value in self.values.items():
            setattr(args, name, value)


def test_arguments_of_guidance_that_change_on_the_way_are_followed(make):
    trainer = make(callbacks=[Changing(guidance_form="l2_mean", guidance_mode="exact", alpha=0.25)])
    assert (trainer.guidance.form.name, trainer.guidance.exact) == ("share", False)
    trainer.train()
    assert (trainer.guidance.form.name, trainer.guidance.exact) == ("l2_mean", True)
    assert [entry["alpha"] for entry in trainer.state.log_history if "loss" in entry] == [1.0, 0.25]


@pytest.mark.parametrize(("values", "words"), [({"guidance_form": "l3"}, "guidance_form is 'l3': choose one of"),
                                               ({"alpha": float("nan")}, "alpha is nan"),
                                               ({"guidance_fraction": 2.0}, "guidance_fraction is 2.0")])  # fmt: skip
def test_a_bad_value_given_on_the_way_is_refused_too(values, words, make):
    with pytest.raises(ValueError, match=words):
        make(callbacks=[Changing(**values)]).train()


def test_positional_arguments_stand_in_the_stock_order(guided_photos, processor, tmp_path):
    seen = []
    trainer = PGGTrainer(tiny_model("vit"), config(tmp_path), None, guided_photos, guided_photos, processor, None, None,
                         accuracy, [Changing(alpha=0.5)], (None, None), None,
                         lambda logits, labels: seen.append(logits) or logits)  # fmt: skip
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate() and seen and trainer.args.alpha == 0.5


def test_training_arguments_are_refused_with_the_remedy(guided_photos, processor, tmp_path):
    arguments = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to=[])
    with pytest.raises(TypeError, match="args is a TrainingArguments: PGGTrainer needs `PGGConfig`"):
        PGGTrainer(tiny_model("vit"), arguments, train_dataset=guided_photos, processing_class=processor)


def test_a_users_own_collator_is_refused_with_the_remedy(make):
    with pytest.raises(TypeError, match="give a `PGGCollator`, or a subclass"):
        make(data_collator=default_data_collator)


# ---------------------------------------------------------------------------------------------- models


class Plain(nn.Module):
    """A module of one's own, without a configuration."""

    def __init__(self, kind="dict", classes=3):
        super().__init__()
        self.kind, self.layers = kind, nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, classes))

    def forward(self, pixel_values, labels=None):
        assert labels is None
        if self.kind == "detached":
            with torch.no_grad():
                pixel_values = self.layers(pixel_values)
            return {"logits": pixel_values * nn.Parameter(torch.ones(()))}
        logits = self.layers(pixel_values)
        return {"dict": {"logits": logits}, "output": ImageClassifierOutput(logits=logits), "tuple": (logits,),
                "tensor": logits, "other": {"scores": logits}, "flat": {"logits": logits[0]}}[self.kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["dict", "output"])
def test_a_plain_module_trains_evaluates_and_is_saved(kind, make, guided_photos, tmp_path):
    trainer = make(Plain(kind), options={"save_strategy": "steps", "save_steps": 1}, compute_metrics=accuracy)
    trainer.train()
    assert trainer.state.log_history[0]["guidance_loss"] > 0
    assert "eval_accuracy" in trainer.evaluate()
    trainer.save_model()
    assert (tmp_path / "out" / "model.safetensors").is_file()
    again = make(Plain(kind), options={"save_strategy": "steps", "save_steps": 1, "max_steps": 2})
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert torch.equal(trainer.model.layers[1].weight, again.model.layers[1].weight)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tuple", r"Plain, tried on one row \(pixel_values \(1, 3, 32, 32\)\), returned a tuple: .*'logits'"),
        ("tensor", "returned a Tensor: return a dictionary with 'logits'"),
        ("other", "returned scores, no logits: give a model that returns one logit a class"),
        ("flat", r"returned logits of shape \(3,\), not \(1, classes\)"),
        ("detached", "cannot be differentiated in 'pixel_values'.*set alpha=0"),
    ],
)
def test_what_a_module_must_return_is_said_when_the_trainer_is_made(kind, words, make, tmp_path):
    with pytest.raises(ValueError, match=words):
        make(Plain(kind))
    assert not (tmp_path / "out").exists()


def test_modules_that_take_no_pixel_values_are_refused(make):
    from torchvision.models import squeezenet1_0

    with pytest.raises(ValueError, match=r"SqueezeNet.forward takes x, not `pixel_values`"):
        make(squeezenet1_0(num_classes=3))


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
VIT = {**SMALL, "image_size": SIZE, "patch_size": 8, "num_labels": 3}


def built(name, config=None, **options):
    return getattr(transformers, name)(getattr(transformers, config or name.split("For")[0] + "Config")(**options))


def segmenter():
    widths = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    return built("SegformerForSemanticSegmentation", num_labels=3, **widths)


def detector():
    return built("YolosForObjectDetection", **{**VIT, "image_size": [SIZE, SIZE]}, num_detection_tokens=4)


def clip():
    text, vision = {**SMALL, "vocab_size": 9}, {**SMALL, "image_size": SIZE, "patch_size": 8}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=4))


def listener():
    return built("ASTForAudioClassification", **SMALL, max_length=32, num_mel_bins=16, num_labels=3)


OTHERS = {
    "segmentation": (segmenter, r"logits of shape \(1, 3, 8, 8\), not \(1, classes\)"),
    "detection": (detector, r"logits of shape \(1, 4, 4\), not \(1, classes\)"),
    "masked": (lambda: built("ViTForMaskedImageModeling", **VIT, encoder_stride=8), "ViTForMaskedImageModeling, tried"),
    "headless": (lambda: built("ViTModel", "ViTConfig", **VIT), "returned last_hidden_state, pooler_output, no logits"),
    "CLIP": (clip, "CLIPModel, tried on one row .*failed"),
    "audio": (listener, "reads 'input_values', which the collator does not make"),
    "tuples": (lambda: built("ViTForImageClassification", **VIT, return_dict=False), "failed .*tuple|returned a tuple"),
    "width": (lambda: wide(), "returned 4 logits, and its configuration says 3 classes: set `num_labels`"),
    "regression": (lambda: built("ViTForImageClassification", **{**VIT, "num_labels": 1}), "one logit, a regression"),
    "multi-label": (
        lambda: built("ViTForImageClassification", **VIT, problem_type="multi_label_classification"),
        "`config.problem_type` is 'multi_label_classification'",
    ),
}


def wide():
    model = tiny_model("vit")
    model.classifier = nn.Linear(24, 4)
    return model


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_does_not_classify_is_refused_in_one_sentence(kind, alpha, make, tmp_path):
    build, words = OTHERS[kind]
    with pytest.raises(ValueError, match=words) as refused:
        make(build(), options={"alpha": alpha})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_the_dry_forward_changes_nothing(guided_photos, processor, tmp_path):
    torch.manual_seed(3)
    model = tiny_model("timm").train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    PGGTrainer(model, config(tmp_path), train_dataset=guided_photos, data_collator=PGGCollator(processor))
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())


def test_rows_of_a_plain_list_train(make, guided_photos):
    rows = [dict(row) for row in guided_photos.select(range(8))]
    assert isinstance(rows, list) and isinstance(guided_photos, Dataset)
    trainer = make(train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["guidance_loss"] > 0
