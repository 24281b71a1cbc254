"""Debiasing: how many synthetic rows a group gets, biased splits, resampling, GroupDRO, DFR, and the FFR recipe."""

import importlib
import json
import math
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_pgg import PGGCollator, PGGConfig, PGGTrainer
from hf_pgg.data.groups import GROUP, add_groups, biased_split, count_groups, subgroup_counts, take_per_group
from hf_pgg.data.images import to_rgb
from hf_pgg.metrics import group_metrics
from hf_pgg.training.debias import GroupBalancedSampler, GroupDRO, GroupDROTrainer, ResamplingTrainer
from hf_pgg.training.last_layer import _classification_head, _head_inputs, fit_last_layer, refit_head
from tests.conftest import FAMILIES, tiny_model
from tests.recipes.test_recipes import ROOT, launch
from tests.training.test_trainer import config, weights

CELEBA = np.array([[54, 5335], [7797, 79]])  # smiling x male, 99 %


def table(counts):
    """A dataset with `counts` (labels, biases) rows of each group, mixed."""
    counts = np.asarray(counts)
    cells = [(y, b) for y, b in np.ndindex(*counts.shape) for _ in range(counts[y, b])]
    cells = np.random.default_rng(0).permutation(np.array(cells))
    labels = ClassLabel(names=[f"label {i}" for i in range(counts.shape[0])])
    biases = ClassLabel(names=[f"bias {i}" for i in range(counts.shape[1])])
    rows = Dataset.from_dict({"label": cells[:, 0], "bias": cells[:, 1], "number": range(len(cells))})
    return rows.cast_column("label", labels).cast_column("bias", biases)


# ---------------------------------------------------------------------------------------------- counts


def test_usb_tops_every_group_up_to_the_largest():
    counts = subgroup_counts(CELEBA, "usb")
    assert counts.tolist() == [[7743, 2462], [0, 7718]] and counts.sum() == 17_923
    assert (counts + CELEBA == 7797).all()


@pytest.mark.parametrize("rule", ["asb", "ffr"])
def test_asb_and_ffr_share_the_same_total_evenly(rule):
    counts = subgroup_counts(CELEBA, rule)
    assert counts.tolist() == [[4480, 4480], [4480, 4480]]
    for seed in range(20):
        real = np.random.default_rng(seed).integers(0, 1000, (4, 3))
        total = subgroup_counts(real, "usb").sum()
        assert 0 <= total - subgroup_counts(real, rule).sum() < real.size


def test_counts_that_are_none_are_refused():
    with pytest.raises(ValueError, match="rule 'ubs' is none of usb, asb, ffr"):
        subgroup_counts(CELEBA, "ubs")
    for bad in ([1, 2], [[1, -2]], [[0.5, 1]], [[]]):
        with pytest.raises(ValueError, match="table of counts"):
            subgroup_counts(bad, "usb")


def test_groups_are_counted_and_named():
    rows = table([[3, 1], [0, 2]])
    assert count_groups(rows, "label", "bias").tolist() == [[3, 1], [0, 2]]
    grouped = add_groups(rows, ["label", "bias"])
    assert grouped.features[GROUP].names[1] == "label 0 / bias 1"
    assert grouped[GROUP] == [2 * y + b for y, b in zip(rows["label"], rows["bias"], strict=True)]
    with pytest.raises(ValueError, match=r"'number' is Value\('int64'\), not a ClassLabel.*encode_classes"):
        add_groups(rows, ["label", "number"])
    with pytest.raises(ValueError, match="'scene' is missing"):
        count_groups(rows, "label", "scene")
    unknown = table([[3, 1]]).map(lambda row: {"bias": None if row["number"] == 0 else row["bias"]})
    with pytest.raises(ValueError, match="'bias' has rows without a value"):
        count_groups(unknown, "label", "bias")


def test_rows_are_taken_per_group_and_fewer_are_a_part_of_more():
    rows = table([[30, 10], [5, 20]])
    few, many = (
        take_per_group(rows, counts, "label", "bias", seed=3) for counts in ([[4, 0], [5, 2]], [[9, 3], [5, 8]])
    )
    assert count_groups(few, "label", "bias").tolist() == [[4, 0], [5, 2]]
    assert set(few["number"]) < set(many["number"]) and few["number"] == sorted(few["number"])
    with pytest.raises(ValueError, match=r"group \(label 'label 1', bias 'bias 0'\) has 5 rows, 6 are needed"):
        take_per_group(rows, [[1, 1], [6, 1]], "label", "bias")


# ---------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("ratio,rest", [(0.9, (593, 866)), (0.95, (281, 410)), (0.99, (54, 79)), (0.999, (5, 8))])
def test_the_ratio_of_a_biased_split_is_exact(ratio, rest):
    """CelebA's published counts at 99 %: 54 of 5,389 and 79 of 7,876 off the majority."""
    rows = table([[600, 5335], [7797, 900]])
    split = biased_split(rows, "label", "bias", ratio, majority={0: 1, 1: 0})
    assert count_groups(split, "label", "bias").tolist() == [[rest[0], 5335], [7797, rest[1]]]


def test_a_biased_split_depends_on_its_seed_alone():
    rows = table([[100, 100], [100, 100]])
    one, same, other = (biased_split(rows, "label", "bias", 0.9, seed)["number"] for seed in (1, 1, 2))
    assert one == same != other
    assert set(biased_split(rows, "label", "bias", 0.95, 1)["number"]) < set(one)


def test_several_minority_values_share_evenly():
    split = biased_split(table(np.full((3, 3), 90)), "label", "bias", 0.9)
    assert count_groups(split, "label", "bias").tolist() == [[90, 5, 5], [5, 90, 5], [5, 5, 90]]


def test_a_group_without_a_real_row_is_refused_unless_asked():
    rows = table([[40, 40], [40, 40]])
    with pytest.raises(ValueError, match=r"0.99 leaves group \(label 'label 0', bias 'bias 1'\) without.*allow_empty"):
        biased_split(rows, "label", "bias", 0.99)
    split = biased_split(rows, "label", "bias", 0.99, allow_empty=True)
    assert count_groups(split, "label", "bias").tolist() == [[40, 0], [0, 40]]


def test_splits_that_make_no_sense_are_refused():
    rows = table([[9, 9, 9], [9, 9, 9]])
    with pytest.raises(ValueError, match="2 labels and 3 bias values: say which go together"):
        biased_split(rows, "label", "bias", 0.9)
    for majority in ({0: 1}, {0: 1, 1: 3}):
        with pytest.raises(ValueError, match="give each of 2 labels one of 3 bias values"):
            biased_split(rows, "label", "bias", 0.9, majority=majority)
    with pytest.raises(ValueError, match="ratio is 0: it must be in"):
        biased_split(rows, "label", "bias", 0)
    with pytest.raises(ValueError, match="has 9 rows, 18 are needed"):
        biased_split(rows, "label", "bias", 0.2, majority={0: 0, 1: 1})


# ---------------------------------------------------------------------------------------------- resampling


def test_resampling_draws_every_group_equally_often():
    groups = np.repeat([0, 1, 3], [970, 20, 10])
    sampler = GroupBalancedSampler(groups, seed=0)
    drawn = np.concatenate([groups[list(sampler)] for sampler.epoch in range(30)])
    shares = np.bincount(drawn)[[0, 1, 3]] / len(drawn)
    assert len(drawn) == 30_000 and shares == pytest.approx([1 / 3] * 3, abs=4 * math.sqrt(2 / 9 / 30_000))


def test_the_draws_depend_on_seed_and_epoch_alone():
    sampler = GroupBalancedSampler([0, 0, 0, 0, 1], seed=5)
    first = list(sampler)
    assert first == list(sampler) == list(GroupBalancedSampler([0, 0, 0, 0, 1], seed=5))
    sampler.set_epoch(1)
    assert list(sampler) != first
    with pytest.raises(ValueError, match="`groups` is"):
        GroupBalancedSampler([])


@pytest.fixture(scope="module")
def biased(guided_photos):
    """18 of the photos: two groups of one row, five of four and three; provenance on half of the rows."""
    rows = add_groups(guided_photos, ["label", "scene"])
    seen, keep = {}, []
    for i, group in enumerate(rows[GROUP]):
        seen[group] = seen.get(group, 0) + 1
        if seen[group] <= (1 if group < 2 else 4):
            keep.append(i)
    rows = rows.select(keep)
    return rows.map(lambda row, i: {"provenance": row["provenance"] if i % 2 else None}, with_indices=True)


def trainer_of(kind, rows, processor, folder, family="vit", **options):
    args = config(folder, group_columns=[GROUP], **options)
    return kind(tiny_model(family), args, train_dataset=rows, processing_class=processor)


def test_the_resampling_trainer_feeds_balanced_batches_afresh_each_epoch(biased, processor, tmp_path):
    trainer = trainer_of(ResamplingTrainer, biased, processor, tmp_path, max_steps=1, alpha=0.0)
    loader, drawn = trainer.get_train_dataloader(), []
    for epoch in range(60):
        loader.set_epoch(epoch)
        drawn.append(torch.cat([batch[GROUP] for batch in loader]))
    assert not torch.equal(drawn[0], drawn[1])
    shares = torch.bincount(torch.cat(drawn)) / (60 * len(biased))
    assert shares.tolist() == pytest.approx([1 / 6] * 6, abs=0.05)
    trainer.train()


# ---------------------------------------------------------------------------------------------- GroupDRO


def test_two_steps_of_group_dro_by_hand():
    """Two groups, eta 0.1; batch means (2, 1), then (0.5, 3)."""
    dro = GroupDRO([True, True], step_size=0.1)
    loss = dro.loss(torch.tensor([1.0, 3.0, 1.0]), torch.tensor([0, 0, 1]))
    q = math.exp(0.2) / (math.exp(0.2) + math.exp(0.1))
    assert loss.item() == pytest.approx(2 * q + 1 * (1 - q)) and dro.q.tolist() == pytest.approx([q, 1 - q])
    loss = dro.loss(torch.tensor([0.5, 3.0]), torch.tensor([0, 1]))
    a, b = q * math.exp(0.05), (1 - q) * math.exp(0.3)
    assert loss.item() == pytest.approx((0.5 * a + 3 * b) / (a + b))
    assert dro.q.tolist() == pytest.approx([a / (a + b), b / (a + b)])


def test_the_gradient_of_a_row_is_its_groups_weight_over_its_groups_rows():
    losses = torch.tensor([1.0, 3.0, 1.0], requires_grad=True)
    dro = GroupDRO([True, True])
    dro.loss(losses, torch.tensor([0, 0, 1])).backward()
    assert losses.grad.tolist() == pytest.approx((dro.q[[0, 0, 1]] / torch.tensor([2, 2, 1])).tolist())


def test_q_moves_to_the_worst_group_and_never_to_an_empty_one():
    dro = GroupDRO([True, True, False, True])
    assert dro.q.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    for _ in range(500):
        dro.loss(torch.tensor([0.1, 2.0, 0.3]), torch.tensor([0, 1, 3]))
    assert dro.q[1] > 0.99 and dro.q[2] == 0 and dro.q.sum().item() == pytest.approx(1)


def test_parts_of_a_batch_move_q_as_the_whole_does():
    losses, groups = torch.rand(12, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    whole, parts = GroupDRO([True] * 3, 0.5), GroupDRO([True] * 3, 0.5)
    whole.loss(losses, groups)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        parts.loss(losses[part], groups[part], counts=torch.bincount(groups))
    assert parts.q.tolist() == pytest.approx(whole.q.tolist())


def test_the_state_of_group_dro_is_saved_and_restored():
    dro = GroupDRO([True, True], 0.2)
    dro.loss(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
    other = GroupDRO([True, True])
    other.load_state_dict(json.loads(json.dumps(dro.state_dict())))
    assert torch.equal(other.q, dro.q) and other.step_size == 0.2
    with pytest.raises(ValueError, match="saved state has 2 groups, the training set has 3"):
        GroupDRO([True] * 3).load_state_dict(dro.state_dict())


def test_weights_stay_finite_at_any_loss_and_can_come_back():
    dro = GroupDRO([True, True, False], step_size=10.0)
    for _ in range(3):  # eta x loss is 200: exp(200) is infinite in float32
        loss = dro.loss(torch.tensor([20.0, 1.0]), torch.tensor([0, 1]))
    assert loss.isfinite() and dro.q.tolist() == [1, 0, 0]
    for _ in range(3):
        dro.loss(torch.tensor([1.0, 20.0]), torch.tensor([0, 1]))
    assert dro.q.tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-3)
    older = GroupDRO([True, True])
    older.load_state_dict({"q": [0.25, 0.75], "step_size": 0.1})
    assert older.q.tolist() == pytest.approx([0.25, 0.75])


def test_group_dro_that_could_not_work_is_refused(biased, guided_photos, processor, tmp_path):
    with pytest.raises(ValueError, match="step_size is 0"):
        GroupDRO([True], 0)
    with pytest.raises(ValueError, match="marks the groups that have rows"):
        GroupDRO([False, False])
    with pytest.raises(ValueError, match="`group_columns` is None: add 'group'"):
        GroupDROTrainer(tiny_model("vit"), config(tmp_path), train_dataset=biased, processing_class=processor)
    with pytest.raises(ValueError, match=r"give the collator extra_columns=\['group'\]"):
        GroupDROTrainer(tiny_model("vit"), config(tmp_path, group_columns=[GROUP]), train_dataset=biased,
                        data_collator=PGGCollator(processor))  # fmt: skip
    for kind in (GroupDROTrainer, ResamplingTrainer):
        args = config(tmp_path, group_columns=["scene"])
        with pytest.raises(ValueError, match=r"column 'group'|no batch has groups"):
            kind(tiny_model("vit"), args, train_dataset=guided_photos, processing_class=processor)


def entropies(model, processor, rows):
    batch = PGGCollator(processor)(list(rows))
    with torch.no_grad():
        logits = model.eval()(pixel_values=batch["pixel_values"]).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"][:, 0], reduction="none")


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_trainer_minimises_the_robust_loss_beside_guidance(accumulation, biased, processor, tmp_path):
    """One step on all rows: its logged loss is sum_g q_g l_g + alpha * guidance, not the mean of the entropies."""
    size = len(biased) // accumulation
    trainer = trainer_of(
        GroupDROTrainer, biased, processor, tmp_path, "convnext", max_steps=1, alpha=2.0,
        per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    losses, groups = entropies(trainer.model, processor, biased), torch.tensor(biased[GROUP])
    trainer.dro.step_size = step_size = 0.5 if accumulation == 1 else 0.02
    trainer.train()
    entry = trainer.state.log_history[0]
    expected = GroupDRO([True] * 6, step_size)
    robust = expected.loss(losses, groups).item()
    # with accumulation the first parts are weighted before the last ones have moved q
    tolerance = 1e-4 if accumulation == 1 else step_size * (losses.max() - losses.min()).item()
    assert entry["guidance_loss"] > 0 and abs(robust - losses.mean().item()) > tolerance
    assert trainer.dro.q.tolist() == pytest.approx(expected.q.tolist(), rel=1e-4)
    assert entry["loss"] - 2 * entry["guidance_loss"] == pytest.approx(robust, abs=tolerance)
    assert entry["classification_loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert entry["largest_group_weight"] == pytest.approx(expected.q.max().item(), rel=1e-4)


class Killed(Exception):
    pass


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise Killed


@pytest.mark.parametrize("kind", [GroupDROTrainer, ResamplingTrainer])
def test_an_interrupted_run_resumes_to_the_same_weights(kind, biased, processor, tmp_path):
    options = {"max_steps": 7, "save_strategy": "steps", "save_steps": 2, "alpha": 0.5}
    whole = trainer_of(kind, biased, processor, tmp_path / "whole", **options)
    whole.train()
    cut = trainer_of(kind, biased, processor, tmp_path / "cut", **options)
    cut.add_callback(Kill)
    with pytest.raises(Killed):
        cut.train()
    resumed = trainer_of(kind, biased, processor, tmp_path / "cut", **options)
    resumed.train(resume_from_checkpoint=get_last_checkpoint(str(tmp_path / "cut")))
    assert torch.equal(weights(whole.model), weights(resumed.model))
    if kind is GroupDROTrainer:
        assert torch.equal(whole.dro.q, resumed.dro.q) and whole.dro.q.std() > 0


# ---------------------------------------------------------------------------------------------- DFR


def linear_problem(sizes, seed):
    """Features: the label with noise, the bias with little noise, and eight that say nothing."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 0, 1, 1], sizes)
    biases = np.repeat([0, 1, 0, 1], sizes)
    noise = rng.normal(size=(len(labels), 10))
    features = noise + np.stack([2 * (2 * labels - 1), 20 * (2 * biases - 1)] + [labels * 0] * 8, 1)
    return features * ([1, 1] + [100] * 8) + 5, labels, 2 * labels + biases


def worst(weight, bias, features, labels, groups):
    return group_metrics((features @ weight.T + bias).argmax(1), labels, groups)["worst_group_accuracy"]


def test_dfr_recovers_the_worst_group_of_a_linear_problem():
    """A head that reads the bias alone is right in 95 % of the rows, and wrong in every row of two groups."""
    test = linear_problem([500, 500, 500, 500], seed=1)
    shortcut = np.array([[0.0, -1.0], [0.0, 1.0]]) @ np.eye(2, 10)
    assert worst(shortcut, np.array([5.0, -5.0]), *test) == 0
    layer = fit_last_layer(*linear_problem([400, 21, 20, 400], seed=0))
    assert worst(layer.weight, layer.bias, *test) > 0.9
    scales = np.abs(layer.weight[1]) * ([1, 20] + [100] * 8)
    assert scales[0] > 5 * scales[1:].max() and layer.C in (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


def test_dfr_averages_its_refits_and_is_a_function_of_its_seed():
    rows = linear_problem([100, 10, 10, 100], seed=0)
    one, again, other = (fit_last_layer(*rows, refits=3, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.weight, again.weight) and not np.array_equal(one.weight, other.weight)
    spread = [
        np.std([fit_last_layer(*rows, strengths=[1.0], refits=n, seed=s).weight[1, 0] for s in range(6)])
        for n in (1, 12)
    ]
    assert spread[1] < spread[0]


def test_dfr_refuses_what_it_cannot_fit():
    features, labels, groups = linear_problem([10, 2, 2, 10], seed=0)
    with pytest.raises(ValueError, match="group 1 has one row"):
        fit_last_layer(np.delete(features, 10, 0), np.delete(labels, 10), np.delete(groups, 10))
    with pytest.raises(ValueError, match="every class needs rows"):
        fit_last_layer(features[:12], labels[:12], groups[:12])
    with pytest.raises(ValueError, match="NaN"):
        fit_last_layer(np.where(features > 6, np.nan, features), labels, groups)
    with pytest.raises(ValueError, match=r"features \(N, d\)"):
        fit_last_layer(features, labels[1:], groups)


@pytest.mark.parametrize("family", FAMILIES)
def test_dfr_writes_the_head_that_it_fitted(family, guided_photos, processor):
    rows = add_groups(guided_photos, ["label", "scene"])
    model, collator = tiny_model(family), PGGCollator(processor)
    before = weights(model)
    layer = refit_head(model, rows, collator, refits=2)
    features, labels = _head_inputs(model, rows, collator)
    assert labels.tolist() == rows["label"] and features.shape == (24, 24)
    logits = model.eval()(pixel_values=collator(list(rows))["pixel_values"]).logits
    assert logits.detach().numpy() == pytest.approx(features @ layer.weight.T + layer.bias, abs=1e-3)
    head = sum(p.numel() for p in _classification_head(model).parameters())
    assert 0 < (weights(model) != before).sum() <= head


def test_a_model_without_a_linear_head_is_told(guided_photos, processor):
    model = tiny_model("vit")
    model.classifier = torch.nn.Identity()
    with pytest.raises(ValueError, match="no linear `classifier`"):
        _classification_head(model)
    rows = add_groups(guided_photos, ["label", "scene"]).filter(lambda row: row["label"] < 2)
    with pytest.raises(ValueError, match="the rows have 2 classes, the model 3"):
        refit_head(tiny_model("convnext"), rows, PGGCollator(processor), refits=1)


# ---------------------------------------------------------------------------------------------- the run


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoint_of_the_best_worst_group_is_kept(family, biased, processor, tmp_path):
    def figures(prediction):
        return group_metrics(prediction.predictions.argmax(1), prediction.label_ids, prediction.groups[GROUP])

    args = config(
        tmp_path, group_columns=[GROUP], max_steps=8, alpha=0.0, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, save_total_limit=1, load_best_model_at_end=True, learning_rate=3e-3,
        metric_for_best_model="worst_group_accuracy", greater_is_better=True,
    )  # fmt: skip
    trainer = PGGTrainer(tiny_model(family), args, train_dataset=biased, eval_dataset=biased,
                         processing_class=processor, compute_metrics=figures)  # fmt: skip
    trainer.train()
    curve = [e["eval_loss"] for e in trainer.state.log_history if "eval_worst_group_accuracy" in e]
    scores = [e["eval_worst_group_accuracy"] for e in trainer.state.log_history if "eval_worst_group_accuracy" in e]
    best = int(np.argmax(scores))
    assert trainer.state.best_global_step == best + 1
    assert trainer.evaluate()["eval_loss"] == pytest.approx(curve[best], rel=1e-5)


@pytest.fixture
def recipe(monkeypatch):
    """The recipe in this process: `recipe("--option", value, ...)`."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    train_ffr = importlib.import_module("train_ffr")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train_ffr.py", *map(str, arguments), "--disable_tqdm", "True", "--use_cpu"])
        train_ffr.main()

    return call


def test_the_recipe_trains_two_stages_and_skips_what_is_finished(recipe, tmp_path, capsys):
    """Stage two at a learning rate of 0 ends with stage one's weights, head included: it started from them."""
    options = ("--data", "ffr", "--method", "groupdro", "--guided", "--max_steps", 8, "--evaluations", 2,
               "--logging_steps", 1, "--stage_two_learning_rate", 0, "--output_dir", tmp_path)  # fmt: skip
    launch("recipes/train_ffr.py", *options, "--disable_tqdm", True, "--use_cpu")
    (record,) = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert np.array(record["real_rows"]).min() == 5 and len(set(np.ravel(record["synthetic_rows"]))) == 1
    assert record["stage_one"]["guided_rows"] == np.sum(record["synthetic_rows"]) > 0
    assert record["stage_one"]["target_gradient_share"] > 0 and record["guided_rows"] == 0
    assert record["steps"] + record["stage_one"]["steps"] == 8
    assert np.std(list(record["group_weights"].values())) > 0
    assert 0 <= record["test"]["worst_group_accuracy"] <= record["test"]["mean_group_accuracy"] <= 1
    (first,) = (tmp_path / "stage_one").glob("*/model/model.safetensors")
    (second,) = (tmp_path / "runs").glob("*/model/model.safetensors")
    first, second = load_file(first), load_file(second)
    assert "classifier.weight" in first and all(torch.equal(first[name], second[name]) for name in first)

    recipe(*options)
    told = capsys.readouterr().out
    assert "finished before" in told and "| 0.99 | ffr | groupdro | yes |" in told
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_annotated_real_rows_guide_stage_two(recipe, tmp_path):
    options = ("--max_steps", 2, "--evaluations", 1, "--logging_steps", 1, "--output_dir", tmp_path)
    recipe("--data", "real", "--guided", "--real_masks", *options)
    record = json.loads((tmp_path / "results.jsonl").read_text())
    assert record["stage_one"] is None and record["guided_rows"] == np.sum(record["real_rows"]) > 0
    assert record["target_gradient_share"] > 0


def test_an_artifact_marks_every_synthetic_image_and_nothing_else(recipe):
    train_ffr, config = importlib.import_module("train_ffr"), PGGConfig(use_cpu=True)
    plain, marked = (train_ffr.DataArguments(synthetic_artifact=levels) for levels in (0, 12))
    counts = np.full((2, 2), 3)
    pairs = [train_ffr.load_synthetic(None, counts, args, config, seed=0) for args in (plain, marked)]
    for before, after in zip(*pairs, strict=True):
        pixels = [to_rgb(row["image"]).astype(int) for row in (before, after)]
        board = pixels[1] - pixels[0]
        inside = (pixels[0] >= 12) & (pixels[0] <= 243)  # nothing is cut off at black or white
        assert set(np.unique(board[inside])) == {-12, 12}
        rows, columns = np.indices(board.shape[:2])
        assert (board[inside] == np.where((rows + columns) % 2, 12, -12)[..., None].repeat(3, 2)[inside]).all()
        assert {**before, "image": None} == {**after, "image": None}


def test_a_group_that_validation_lacks_is_named_and_one_that_training_lacks_is_told(recipe, photos, tmp_path, capsys):
    label, scene = (photos.features[name].names for name in ("label", "scene"))
    for split, gone in {"train": (0, 1), "validation": (2, 0), "test": None}.items():
        rows = photos.filter(lambda y, b, gone=gone: (y, b) != gone, input_columns=["label", "scene"])
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    with pytest.raises(ValueError, match=f"split validation has no row of {label[2]} / {scene[0]}: add some"):
        recipe("--dataset_name", tmp_path / "data", "--bias_column", "scene", "--data", "real")
    assert f"split train has no row of {label[0]} / {scene[1]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options,sentence",
    [
        (["--data", "usp"], "'usp' is unknown, choose real, usb, asb, ffr"),
        (["--dataset_name", "my/faces"], "--data ffr needs --synthetic_dataset"),
        (["--data", "real", "--guided"], "no row of --data real has provenance"),
        (["--bias", 0.9999], "without a real row"),
    ],
)
def test_the_recipe_tells_wrong_options_in_a_sentence(options, sentence, recipe, tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        recipe(*options, "--output_dir", tmp_path / "out")
    assert sentence in str(error.value) + capsys.readouterr().err
    assert not (tmp_path / "out").exists()
