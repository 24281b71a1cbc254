"""Skeletons from masks to who acts: points, batches, the classifier's pools, BatchMix, guidance, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets.fingerprint import Hasher

import hf_pgg.demo_data
from hf_pgg import BatchMix, FreshDraws, PGGConfig, PGGTrainer, ProvenanceError
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import decode_mask, encode_mask
from hf_pgg.demo_data import digits_in_motion
from hf_pgg.guidance.engines import exact_guidance, first_order_guidance
from hf_pgg.guidance.forms import FORMS, share
from hf_pgg.guidance.forward import GuidanceSettings, guided_forward
from hf_pgg.guidance.modes import RandomState, second_derivatives
from hf_pgg.skeletons.model import SkeletonClassifier, SkeletonConfig
from hf_pgg.skeletons.rows import KEYPOINT_FEATURE, SkeletonCollator, normalize_tracks, read_keypoints
from hf_pgg.synthesis.batchmix import _join_persons
from recipes.medial_axis import add_skeletons, medial_axes, spread_points

POINTS, FRAMES, CLASSES = 5, 6, 4
FEATURES = 2 * POINTS


def classifier(dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = SkeletonConfig(num_keypoints=POINTS, hidden_sizes=[8, 12, 16], num_labels=CLASSES, **options)
    return SkeletonClassifier(config).to(dtype)


def clips_of(persons, dtype=torch.float32, seed=0):
    """Keypoints (B, P, F, E) of as many clips as `persons` has entries, and who is there."""
    generator = torch.Generator().manual_seed(seed)
    keypoints = torch.randn(len(persons), max(persons), FRAMES, FEATURES, generator=generator, dtype=dtype)
    present = torch.arange(max(persons)) < torch.tensor(persons)[:, None]
    return keypoints, present[:, :, None].expand(-1, -1, FRAMES).clone()


@pytest.fixture(scope="module")
def skeletons():
    """24 clips of one or two persons, 6 to 8 frames; the class is the direction in which the persons move."""
    rng, rows = np.random.default_rng(0), {"keypoints": [], "label": [], "name": []}
    for i in range(24):
        length, label = 6 + i % 3, i % CLASSES
        way = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)][label]) * np.linspace(0, 3, length)[:, None]
        body = rng.normal(size=(1 + i % 2, 1, POINTS, 2))
        points = body + way[None, :, None] + 0.1 * rng.normal(size=(1 + i % 2, length, POINTS, 2))
        persons = points.reshape(1 + i % 2, length, -1).tolist()
        if i % 5 == 0:
            persons[0][2] = None
        rows["keypoints"].append(persons)
        rows["label"].append(label)
        rows["name"].append(f"clip-{i}")
    features = Features(keypoints=KEYPOINT_FEATURE, label=ClassLabel(num_classes=CLASSES), name=Value("string"))
    return Dataset.from_dict(rows, features=features)


def mix_of(skeletons, **options):
    return BatchMix(source=skeletons, sampler=FrameSampler(FRAMES), **options)


# ---------------------------------------------------------------------------------------------- the medial axis


def test_points_are_distinct_and_on_the_axis():
    mask = np.zeros((40, 50), bool)
    mask[10:31, 5:46] = True
    axis = medial_axes([mask])[0]
    points = spread_points(mask, axis, 13)
    assert len(np.unique(points, axis=0)) == 13 and points.dtype == np.float32
    x, y = points.astype(int).T
    assert axis[y, x].all() and mask[y, x].all() and not (axis & ~mask).any()
    # of a rectangle: its corners' bisectors and the middle line between them
    middle = axis[20, 16:35]
    assert middle.all() and axis.sum() < 0.1 * mask.sum()


def test_masks_side_by_side_have_the_axes_that_they_have_alone():
    rng = np.random.default_rng(0)
    masks = []
    for height, width in ((9, 30), (25, 8), (12, 12)):
        mask = np.zeros((40, 40), bool)
        top, left = rng.integers(0, 40 - height), rng.integers(0, 40 - width)
        mask[top : top + height, left : left + width] = True
        masks.append(mask)
    masks.insert(1, np.zeros((40, 40), bool))
    for mask, axis in zip(masks, medial_axes(masks), strict=True):
        assert np.array_equal(axis, medial_axes([mask])[0]) and axis.any() == mask.any()


def test_a_mask_too_small_for_an_axis_gives_its_own_pixels():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 3:7] = True
    points = spread_points(mask, medial_axes([mask])[0], 13).astype(int)
    assert len(np.unique(points, axis=0)) == 13 and mask[points[:, 1], points[:, 0]].all()
    with pytest.raises(ValueError, match="a mask of 16 pixels does not hold 17 distinct points"):
        spread_points(mask, medial_axes([mask])[0], 17)


@pytest.fixture(scope="module")
def clips():
    """Eight embedded clips of four frames, with masks."""
    with pytest.MonkeyPatch.context() as patch:
        whole = hf_pgg.demo_data.digits
        patch.setattr(hf_pgg.demo_data, "digits", lambda split: whole(split).select(range(8)))
        return digits_in_motion(num_frames=4)["test"]


def test_skeletons_of_clips_lie_on_their_masks(clips):
    rows = add_skeletons(clips)
    for row in rows:
        masks = decode_mask(row["masks"], 4) > 127
        keypoints = read_keypoints(row["keypoints"]).reshape(1, 4, 13, 2).astype(int)
        for mask, points in zip(masks, keypoints[0], strict=True):
            assert mask[points[:, 1], points[:, 0]].all() and len(np.unique(points, axis=0)) == 13
    sampled = add_skeletons(clips, sampler=FrameSampler(2), num_points=15)
    assert read_keypoints(sampled[0]["keypoints"]).shape == (1, 2, 30)
    assert rows["keypoints"] == add_skeletons(clips, num_proc=2)["keypoints"]


def empty(clip, frames):
    masks = decode_mask(clip["masks"], 4).copy()
    masks[frames] = 0
    return {**clip, "masks": encode_mask(masks)}


def test_a_frame_without_the_person_has_no_skeleton(clips):
    rows = add_skeletons(Dataset.from_list([empty(clips[0], [1, 3])], features=clips.features))
    assert [frame is None for frame in rows[0]["keypoints"][0]] == [False, True, False, True]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda clip: {**clip, "masks": encode_mask(np.ones((5, 48, 48), bool))}, {},
         "row 1, column 'masks': masks of 48x240 pixels for 4 frames of 48x48, which take 48x192. Stack"),
        (lambda clip: empty(clip, slice(None)), {}, "row 1, column 'masks': the masks of all frames are empty"),
        (lambda clip: clip, {"num_points": 5000}, "row 0, .*does not hold 5000 distinct points. Take fewer points"),
        (lambda clip: clip, {"sampler": FrameSampler(3, "dense", stride=2)}, "row 0, .* need a clip of 5 frames"),
    ],
)  # fmt: skip
def test_clips_without_a_skeleton_are_named(clips, change, options, words):
    rows = Dataset.from_list([clips[0], change(clips[1])], features=clips.features)
    with pytest.raises(ProvenanceError, match=words):
        add_skeletons(rows, **options)


# ---------------------------------------------------------------------------------------------- keypoints


def test_tracks_lose_their_place_and_size_but_not_their_motion():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2, FRAMES, POINTS, 3))
    points[1, 2] = np.nan
    keypoints = points.reshape(2, FRAMES, -1).astype(np.float32)
    tracks = normalize_tracks(keypoints, 3).reshape(2, FRAMES, POINTS, 3)
    for person, seen in ((0, [0, 1, 2, 3, 4, 5]), (1, [0, 1, 3, 4, 5])):
        places = tracks[person, seen][..., :2]
        assert np.allclose(places.mean((0, 1)), 0, atol=1e-6) and np.square(places).sum(-1).mean() == pytest.approx(1)
        assert np.array_equal(tracks[person, seen][..., 2], points[person, seen][..., 2].astype(np.float32))
    assert not tracks[1, 2].any()
    moved = points * [7, 7, 1] + [30, -20, 0]
    assert np.allclose(normalize_tracks(moved.reshape(2, FRAMES, -1), 3).reshape(tracks.shape), tracks, atol=1e-5)
    alone = normalize_tracks(keypoints[1:], 3)
    assert np.array_equal(alone[0], tracks[1].reshape(FRAMES, -1))


@pytest.mark.parametrize(
    ("persons", "words"),
    [
        (None, "there is no person"),
        ([], "there is no person"),
        ([[None, None]], "no person is seen in any frame"),
        ([[[0.0, 1.0]], [[0.0, 1.0], [2.0, 3.0]]], r"the persons have \[1, 2\] frames"),
        ([[[0.0, 1.0], [0.0]]], r"the frames have \[1, 2\] features"),
        ([[[0.0, 1.0], [2.0, float("nan")]]], "person 0, frame 1 holds NaN or infinity: mend .* or give None"),
        ([[[0.0, float("inf")]]], "person 0, frame 0 holds NaN or infinity"),
    ],
)
def test_keypoints_that_cannot_be_used_are_refused(persons, words, skeletons, tmp_path):
    with pytest.raises(ValueError, match=words):
        read_keypoints(persons)
    rows = Dataset.from_list([skeletons[0], {**skeletons[1], "keypoints": persons}], features=skeletons.features)
    with pytest.raises(ProvenanceError, match=f"row 1 of the training dataset, column 'keypoints': {words}"):
        trainer(rows, tmp_path)
    with pytest.raises(ProvenanceError, match=f"row 1, column 'keypoints': {words}"):
        mix_of(skeletons).map(rows)


def test_a_batch_pads_persons_and_labels(skeletons):
    collator = SkeletonCollator(sampler=FrameSampler(FRAMES))
    mixed = mix_of(skeletons).map(skeletons)
    rows = [next(row for row in mixed if len(row["keypoints"]) == 3), skeletons[0]]
    batch = collator(rows)
    assert batch["keypoints"].shape == (2, 3, FRAMES, FEATURES) and batch["keypoints"].dtype == torch.float32
    assert batch["provenance"].shape == (2, 2, 3, FRAMES, FEATURES)
    assert batch["guided"].tolist() == [True, False] and batch["labels"][1].tolist() == [skeletons[0]["label"], -100]
    assert batch["present"][1].any(1).tolist() == [True, False, False] and not batch["keypoints"][1, 1:].any()
    assert not batch["present"][1, 0].all() and not batch["keypoints"][1, 0][~batch["present"][1, 0]].any()
    expected = normalize_tracks(read_keypoints(rows[0]["keypoints"]))
    np.testing.assert_array_equal(batch["keypoints"][0], expected)


def test_flips_mirror_in_training_only(skeletons):
    plain = SkeletonCollator(sampler=FrameSampler(FRAMES))
    flipping = SkeletonCollator(sampler=FrameSampler(FRAMES), flip=1.0)
    rows = [skeletons[i] for i in range(3)]
    mirror = torch.tensor([-1.0, 1.0]).repeat(POINTS)
    assert torch.equal(flipping(rows)["keypoints"], plain(rows)["keypoints"] * mirror)
    assert torch.equal(flipping.for_evaluation()(rows)["keypoints"], plain(rows)["keypoints"])


def test_clips_of_different_lengths_need_a_sampler(skeletons):
    with pytest.raises(ValueError, match=r"\[\(6, 10\), \(7, 10\)\] frames and features: set `sampler`"):
        SkeletonCollator()([skeletons[0], skeletons[1]])
    short = SkeletonCollator(sampler=FrameSampler(7, "dense"))
    with pytest.raises(ProvenanceError, match=r"row 0 of the batch, column 'keypoints': .* need a clip of 7 frames"):
        short([skeletons[0]])
    assert SkeletonCollator(sampler=FrameSampler(12))([skeletons[0]])["keypoints"].shape[2] == 12  # frames repeat


# ---------------------------------------------------------------------------------------------- the classifier


def test_the_pooling_switch_scores_persons_whose_maximum_is_trained():
    model, (keypoints, present) = classifier().eval(), clips_of([3, 1, 2])
    output = model(keypoints, present, score_frames=True)
    assert output.logits.shape == (3, CLASSES) and torch.equal(output.logits, output.person_logits.amax(1))
    assert output.frame_logits.shape == (3, 3, FRAMES, CLASSES)
    assert model(keypoints, present).frame_logits is None
    # of a person seen in one frame, the frame says what the person says
    present[:, :, 1:] = False
    output = model(keypoints, present, score_frames=True)
    torch.testing.assert_close(output.frame_logits[:, :, 0], output.person_logits)


@pytest.mark.parametrize("ordered", [False, True])
def test_the_order_of_persons_never_counts_and_that_of_keypoints_where_they_are_joints(ordered):
    model, (keypoints, present) = classifier(ordered=ordered).eval(), clips_of([3, 2])
    output = model(keypoints, present)
    order = torch.tensor([2, 0, 1])
    shuffled = model(keypoints[:, order], present[:, order])
    torch.testing.assert_close(shuffled.logits, output.logits)
    torch.testing.assert_close(shuffled.person_logits, output.person_logits[:, order])
    points = keypoints.unflatten(-1, (POINTS, 2))[:, :, :, torch.randperm(POINTS, generator=torch.Generator())]
    same = torch.allclose(model(points.flatten(-2), present).logits, output.logits, atol=1e-6)
    assert same != ordered


def test_the_order_of_frames_counts():
    model, (keypoints, present) = classifier().eval(), clips_of([2])
    assert not torch.allclose(model(keypoints, present).logits, model(keypoints.flip(2), present).logits, atol=1e-3)


def test_absent_persons_and_frames_are_ignored():
    model, (keypoints, present) = classifier().eval(), clips_of([2, 1])
    present[0, 1, 3] = False
    alone = model(keypoints[1:, :1], present[1:, :1])
    keypoints.requires_grad_()
    output = model(keypoints, present)
    torch.testing.assert_close(output.logits[1:], alone.logits)
    gradient = torch.autograd.grad(output.logits.sum(), keypoints)[0]
    assert not gradient[~present].any() and gradient[0, 0].any()
    other = torch.where(present[..., None], keypoints, 1e4)
    torch.testing.assert_close(model(other, present).logits, output.logits)


def test_shapes_that_do_not_fit_are_refused():
    model = classifier()
    with pytest.raises(
        ValueError, match=r"keypoints have shape \(2, 3, 6, 9\), expected \(B, P, F, 10\): 5 points of 2"
    ):
        model(torch.zeros(2, 3, FRAMES, 9))
    with pytest.raises(ValueError, match=r"present has shape \(2, 3\), expected \(2, 3, 6\)"):
        model(torch.zeros(2, 3, FRAMES, FEATURES), torch.ones(2, 3, dtype=torch.bool))


def test_a_checkpoint_loads_where_the_package_is_not_installed(tmp_path):
    model, keypoints = classifier().eval(), clips_of([2])[0]
    model.save_pretrained(tmp_path / "checkpoint")
    assert torch.equal(
        SkeletonClassifier.from_pretrained(tmp_path / "checkpoint")(keypoints).logits, model(keypoints).logits
    )
    torch.save(keypoints, tmp_path / "keypoints.pt")
    code = (
        "import sys, torch; sys.modules['hf_pgg'] = None\n"
        "from transformers import AutoModelForVideoClassification\n"
        "m = AutoModelForVideoClassification.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(*m(torch.load(sys.argv[2])).logits.flatten().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "checkpoint", tmp_path / "keypoints.pt"],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [float(logit) for logit in done.stdout.split()] == pytest.approx(
        model(keypoints).logits.flatten().tolist(), abs=1e-6
    )


# ---------------------------------------------------------------------------------------------- BatchMix


def test_every_feature_of_a_mix_comes_from_the_clip_that_its_mask_says(skeletons):
    sampled = {}
    for row in skeletons:
        keypoints = read_keypoints(row["keypoints"])
        keypoints = keypoints[:, FrameSampler(FRAMES).indices(keypoints.shape[1], np.random.default_rng())]
        sampled[keypoints.tobytes()] = row["label"]
    for row in mix_of(skeletons, num_clips=3).map(skeletons):
        joined = read_keypoints(row["keypoints"])
        masks = np.stack([decode_mask(mask, len(joined)) for mask in row["provenance"]])
        assert masks.shape == (3, *joined.shape) and set(np.unique(masks)) == {0, 255}
        assert (masks.astype(int).sum(0) == 255).all()
        for label, mask in zip(row["labels"], masks, strict=True):
            persons = np.flatnonzero(mask[:, 0, 0])
            assert mask[persons].all() and sampled[joined[persons].tobytes()] == label
        assert row["labels"][0] == row["label"] and row["label_weights"] == pytest.approx([1 / 3] * 3)


def test_a_mix_of_mixes_keeps_its_sources(skeletons):
    once = mix_of(skeletons).map(skeletons)
    twice = mix_of(once, seed=1).map(once)[0]
    masks = np.stack([decode_mask(mask, len(twice["keypoints"])) for mask in twice["provenance"]]) > 0
    assert len(twice["labels"]) == 4 and twice["label_weights"] == [0.25] * 4 and (masks.sum(0) == 1).all()
    persons = len(once[0]["keypoints"])
    first = np.stack([decode_mask(mask, persons) for mask in once[0]["provenance"]]) > 0
    assert np.array_equal(masks[:2, :persons], first) and not masks[:2, persons:].any()


def test_a_mix_depends_on_seed_row_and_epoch_alone(skeletons):
    mix = mix_of(skeletons)

    def contents(rows):
        return {
            row["name"]: (row["keypoints"], row["labels"], [m.tobytes() for m in row["provenance"]]) for row in rows
        }

    expected = contents(mix.map(skeletons))
    assert contents(mix.map(skeletons, num_proc=2, batch_size=5)) == expected
    assert contents(mix_of(skeletons, seed=1).map(skeletons)) != expected != contents(mix.at_epoch(1).map(skeletons))
    named = skeletons.add_column("row_id", list(range(len(skeletons))))
    by_id = mix_of(named, row_id_column="row_id")
    assert contents(by_id.map(named.select(range(23, -1, -1)))) == expected
    streamed = by_id.map(named.to_iterable_dataset(num_shards=3))
    assert {row["name"]: row["keypoints"] for row in streamed} == {name: row[0] for name, row in expected.items()}
    fresh = named.with_transform(FreshDraws(by_id))
    assert fresh[3]["labels"] == expected["clip-3"][1]
    assert Hasher.hash(mix) == Hasher.hash(mix_of(skeletons)) != Hasher.hash(mix_of(skeletons, seed=1))


def test_clips_that_cannot_be_joined_are_refused(skeletons):
    with pytest.raises(ValueError, match=r"\[\(6, 10\), \(6, 8\)\] frames and features: they must agree"):
        _join_persons([np.zeros((1, 6, 10)), np.zeros((1, 6, 8))])
    with pytest.raises(ProvenanceError, match=r"row 0, column 'keypoints': .* need a clip of 7 frames, this one has 6"):
        BatchMix(source=skeletons, sampler=FrameSampler(7, "dense")).map(skeletons)
    broken = Dataset.from_list([{**row, "keypoints": [[None]]} for row in skeletons], features=skeletons.features)
    with pytest.raises(ProvenanceError, match=r"row \d+ of the source, column 'keypoints': no person is seen"):
        BatchMix(source=broken).map(skeletons)
    for options, words in (
        ({"num_clips": 1}, "num_clips is 1"),
        ({"source": skeletons.select([0])}, "source has 1 row"),
    ):
        with pytest.raises(ValueError, match=words):
            BatchMix(**{"source": skeletons, **options})


def test_masks_of_another_number_of_frames_are_refused(skeletons, tmp_path):
    mixed = mix_of(skeletons).map(skeletons)
    wrong = [encode_mask(np.ones((len(mixed[1]["keypoints"]), FRAMES + 1, FEATURES), bool))] * 2
    rows = Dataset.from_list([mixed[0], {**mixed[1], "provenance": wrong}], features=mixed.features)
    words = r"row 1 of the training dataset, column 'provenance': \d masks of 10x7 for frames of 10x6"
    with pytest.raises(ProvenanceError, match=words):
        trainer(rows, tmp_path)


# ---------------------------------------------------------------------------------------------- guidance


def mixed_batch(dtype=torch.float64):
    keypoints, present = clips_of([2, 3, 2], dtype)
    labels = torch.tensor([[0, 2], [1, 3], [2, -100]])
    first = torch.arange(3)[None, :, None, None] < torch.tensor([1, 2, 2])[:, None, None, None]
    first = first.expand_as(keypoints)
    provenance = torch.stack([first, ~first], 1).to(dtype)
    provenance[2, 1] = 0
    return keypoints, present, labels, provenance, torch.tensor([True, True, False])


def parameter_gradient(value, model):
    parts = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("name", FORMS)
def test_exact_and_first_order_guidance_agree(name):
    """In float64, on masks of the input's own shape; for `share` also against the definition."""
    model, (keypoints, present, labels, provenance, guided) = classifier(torch.float64), mixed_batch()
    keypoints.requires_grad_()
    state = RandomState(keypoints.device)
    with second_derivatives():
        logits = model(keypoints, present).logits
        exact = exact_guidance(logits, keypoints, labels, provenance, guided, FORMS[name])
    first = first_order_guidance(
        lambda point: model(point, present).logits,
        logits, keypoints, labels, provenance, guided, FORMS[name], random_state=state, step=1e-7,
    )  # fmt: skip
    torch.testing.assert_close(first.loss, exact.loss)
    assert exact.loss[:2].gt(0).all() and exact.loss[2] == 0
    gradients = [parameter_gradient(found.value.sum(), model) for found in (exact, first)]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.9999
    assert (gradients[1].norm() / gradients[0].norm()).item() == pytest.approx(1, abs=1e-3)
    if name == "share":
        outside = 0.0
        for k in range(2):
            gradient = torch.autograd.grad(logits[0, labels[0, k]], keypoints, retain_graph=True)[0][0]
            outside += ((1 - provenance[0, k]) * gradient).square().sum() / gradient.square().sum() / 2
        torch.testing.assert_close(exact.loss[0], outside)


def test_a_mask_of_neither_shape_is_refused():
    model, (keypoints, present, labels, provenance, guided) = classifier(torch.float64), mixed_batch()
    keypoints.requires_grad_()
    logits = model(keypoints, present).logits
    with pytest.raises(
        ValueError, match=r"provenance has shape \(3, 2, 3, 5, 10\), .* or \(3, 2, 3, 6, 10\) with a value"
    ):
        exact_guidance(logits, keypoints, labels, provenance[:, :, :, :5], guided)


@pytest.mark.parametrize("exact", [True, False])
def test_a_part_of_the_batch_takes_its_own_persons_along(exact):
    """Sampled rows: `present` is cut with the keypoints, whatever the model's main input is called."""
    model, (keypoints, present, labels, provenance, _) = classifier(torch.float64), mixed_batch()
    guided = torch.tensor([False, True, False])
    inputs = {"keypoints": keypoints, "present": present}
    settings = GuidanceSettings(form=share, exact=exact, fraction=0.5)
    logits, guidance = guided_forward(model, model, inputs, labels, provenance, guided, settings)
    torch.testing.assert_close(logits, model(keypoints, present).logits)
    assert guidance.measured.tolist() == [False, True, False] and 0 < guidance.loss[1] < 1


def trainer(rows, folder, **options):
    defaults = {"per_device_train_batch_size": 12, "max_steps": 40, "learning_rate": 5e-3, "logging_steps": 5}
    fixed = {"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}
    args = PGGConfig(output_dir=str(folder), **{**defaults, **fixed, **options})
    return PGGTrainer(classifier(), args, data_collator=SkeletonCollator(), train_dataset=rows)


@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_guided_training_turns_from_the_other_clips_persons(mode, skeletons, tmp_path):
    """End to end from rows: the share of a label's gradient on the persons of its own clip rises; unguided it stays."""
    mixed = mix_of(skeletons).map(skeletons)
    runs = {alpha: trainer(mixed, tmp_path, alpha=alpha, guidance_mode=mode) for alpha in (0.0, 3.0)}
    shares = {}
    for alpha, run in runs.items():
        before = run.evaluate(mixed)["eval_target_gradient_share"]
        run.train()
        shares[alpha] = (before, run.evaluate(mixed)["eval_target_gradient_share"])
    assert shares[3.0][1] > shares[3.0][0] + 0.1 and shares[3.0][1] > shares[0.0][1] + 0.1
    logged = [entry["guidance_loss"] for entry in runs[3.0].state.log_history if "guidance_loss" in entry]
    assert logged[-1] < logged[0]


@pytest.mark.slow
def test_the_recipe_compares_three_methods(tmp_path):
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "train_skeletons.py"
    options = ["--compare", "--max_steps", "3", "--use_cpu", "True", "--output_dir", tmp_path]
    done = subprocess.run([sys.executable, recipe, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    records = json.loads((tmp_path / "results.json").read_text())
    assert [record["method"]["name"] for record in records] == ["plain", "batchmix", "batchmix + guidance"]
    assert all(0 <= record["results"]["who_acts"] <= 1 and record["method"]["steps"] == 3 for record in records)
    assert "| batchmix + guidance |" in done.stdout
    SkeletonClassifier.from_pretrained(tmp_path / "batchmix-guidance")
