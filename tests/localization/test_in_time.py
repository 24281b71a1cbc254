"""Clips joined in time: plans, score curves with known answers, and a classifier that knows its classes by colour."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from torch import nn
from torchvision.transforms import v2
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor

import hf_pgg.demo_data
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_png
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.demo_data import digits_in_motion
from hf_pgg.localization.in_time import (
    JoinedClip,
    ScannedClip,
    _contrast,
    _frame_scores,
    _window_starts,
    evaluate_scans,
    join_clips,
    join_plan,
    scan_clips,
)
from hf_pgg.metrics.tubes import ClipError, Tube, temporal_iou

SIDE, CLASSES = 16, 3
SPEC = InputSpec((SIDE, SIDE), (SIDE, SIDE), (0.0,) * 3, (1.0,) * 3, 1 / 255, v2.InterpolationMode.NEAREST)


def rows_of(clips):
    """(label, frames (N, H, W, 3), boxes) to a dataset."""
    features = Features(video=List(Image()), label=ClassLabel(num_classes=CLASSES), bboxes=List(List(Value("float32"))))
    columns = {
        "video": [[encode_png(frame) for frame in frames] for _, frames, _ in clips],
        "label": [label for label, _, _ in clips],
        "bboxes": [boxes for _, _, boxes in clips],
    }
    return Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="module")
def coloured():
    """Nine clips of 8 to 10 frames; a 6 x 4 actor of its class's colour on black stands somewhere else in each."""
    clips = []
    for i in range(9):
        label, length, x, y = i % CLASSES, 8 + i % 3, i, 9 - i
        frames = np.zeros((length, SIDE, SIDE, 3), np.uint8)
        frames[:, y : y + 4, x : x + 6, label] = 255
        clips.append((label, frames, [[x, y, 6, 4]] * length))
    return rows_of(clips)


class ByColour(nn.Module):
    """A class's logit grows with the share of its colour in the window."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, pixel_values):
        mass = pixel_values.sum((1, 3, 4))
        return SimpleNamespace(logits=self.scale * mass / mass.sum(1, keepdim=True))


def brightness(model, pixel_values, target):
    return pixel_values.amax(2)


def scanned(scores, truth, size=(20, 20), name="clip"):
    """A scan whose maps mark the pixels 5 to 14 of both axes on every frame."""
    maps = np.zeros((len(scores), *size))
    maps[:, 5:15, 5:15] = 1
    return ScannedClip(np.asarray(scores, float), maps, np.arange(len(scores)), size, truth, 1, name)


def still(first, last, label):
    return Tube(np.arange(first, last), np.tile([5, 5, 14, 14], (last - first, 1)), 1.0, label)


# ---------------------------------------------------------------------------------------------- joining


def test_every_clip_stands_between_clips_of_other_classes():
    labels = [0, 1, 2, 0, 1, 2, 0]
    plan = join_plan(labels, seed=3)
    assert [middle for _, middle, _ in plan] == list(range(len(labels)))
    assert all(labels[before] != labels[i] != labels[after] for before, i, after in plan)
    assert plan == join_plan(labels, seed=3) != join_plan(labels, seed=4)
    assert join_plan([*labels, 1], seed=3)[0][1] == 0
    with pytest.raises(ValueError, match="7 clips are of one class"):
        join_plan([2] * 7)


def test_joined_clips_keep_every_frame_and_box(coloured):
    (clip,) = join_clips(coloured, [(1, 3, 2)])
    frames = [np.stack([np.asarray(frame) for frame in coloured[i]["video"]]) for i in (1, 3, 2)]
    np.testing.assert_array_equal(clip.frames, np.concatenate(frames))
    assert [(tube.frames[0], tube.frames[-1], tube.label) for tube in clip.truth] == [
        (0, 8, 1),
        (9, 16, 0),
        (17, 26, 2),
    ]
    assert clip.truth[1].boxes[0].tolist() == [3, 6, 8, 9] and clip.acting == 1 and clip.name == "row 3"


def test_neighbours_of_another_size_are_brought_to_the_acting_clips():
    small, large = np.zeros((2, 16, 16, 3), np.uint8), np.zeros((3, 32, 48, 3), np.uint8)
    rows = rows_of([(0, small, [[0, 0, 16, 16]] * 2), (1, large, [[24, 16, 24, 16]] * 3)])
    (clip,) = join_clips(rows, [(1, 0, 1)])
    assert clip.frames.shape == (8, 16, 16, 3)
    assert [tube.boxes[0].tolist() for tube in clip.truth] == [[8, 8, 15, 15], [0, 0, 15, 15], [8, 8, 15, 15]]


def test_missing_boxes_are_named():
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    rows = rows_of([(0, frames, [[0, 0, 4, 4]] * 3), (1, frames, [[0, 0, 4, 4]] * 2)])
    with pytest.raises(
        ClipError, match=r"'row 1', field 'bboxes': 2 boxes for a clip of 3 frames.*Give one box on every frame"
    ):
        list(join_clips(rows, [(1, 0, 1)]))


# ---------------------------------------------------------------------------------------------- scores


def test_windows_reach_the_last_frame():
    assert _window_starts(10, 4, 2).tolist() == [0, 2, 4, 6]
    assert _window_starts(11, 4, 3).tolist() == [0, 3, 6, 7]
    assert _window_starts(4, 4, 4).tolist() == [0]
    for window, stride in ((5, 1), (3, 4), (3, 0)):
        with pytest.raises(ValueError, match=f"windows of {window} frames, {stride} apart, in a clip of 4"):
            _window_starts(4, window, stride)


def test_a_frame_scores_the_mean_of_its_windows():
    scores = _frame_scores([[1.0, 0.0], [0.0, 4.0], [2.0, 2.0]], [0, 2, 3], 3, 6)
    assert scores.tolist() == [[1, 0], [1, 0], [0.5, 2], [1, 3], [1, 3], [2, 2]]


def test_contrast_is_of_a_class_with_itself():
    assert _contrast([0.01, 0.03, 0.02]).tolist() == pytest.approx([0, 1, 0.5])
    assert _contrast([0.2, 0.2]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("switch_cost", "spans"),
    [(0.0, [(10, 14), (15, 20), (25, 26)]), (0.3, [(10, 20), (25, 26)]), (0.6, [(10, 20)]), (20.0, [])],
)
def test_a_step_with_a_dip_and_a_spike_is_cut_as_the_cost_says(switch_cost, spans):
    """0.1 outside and 0.5 inside; one frame dips, one outside spikes: switches cost more than such a frame gains."""
    curve = np.full(30, 0.1)
    curve[10:20], curve[14], curve[25] = 0.5, 0.2, 0.5
    scan = scanned(np.stack([curve, np.zeros(30) + np.eye(30)[0]], axis=1), [])
    tubes = [tube for tube in scan.tubes(scan.frame_boxes([0.5])[0.5], scan.when(switch_cost)) if tube.label == 0]
    assert [(tube.frames[0], tube.frames[-1] + 1) for tube in tubes] == spans
    for tube, (first, last) in zip(tubes, spans, strict=True):
        assert tube.score == pytest.approx(curve[first:last].mean())
        assert tube.boxes.tolist() == [[5, 5, 14, 14]] * (last - first)


# ---------------------------------------------------------------------------------------------- measures


def test_temporal_iou_counts_frames():
    assert temporal_iou(still(0, 10, 0), still(5, 20, 0)) == 5 / 20
    assert temporal_iou(still(0, 10, 0), still(10, 20, 0)) == 0


def test_scores_that_know_when_reach_the_maximum_and_untrimmed_tubes_a_third():
    truth = [still(0, 10, 1), still(10, 20, 0), still(20, 30, 2)]
    scores = np.repeat(np.eye(3)[[1, 0, 2]], 10, axis=0)
    results = evaluate_scans([scanned(scores, truth)], 3, [(0.5, 0.5)])[0.5, 0.5]
    assert results == pytest.approx(
        {
            "temporal_iou": 1.0,
            "temporal_iou_untrimmed": 1 / 3,
            "video_mAP@0.2": 100.0,
            "video_mAP@0.5": 100.0,
            "video_mAP@0.2_untrimmed": 100.0,
            "video_mAP@0.5_untrimmed": 0.0,
        }
    )


def test_scores_that_are_late_lose_what_they_miss():
    """The acting class is found from frame 15 to 25: 5 shared frames of 15."""
    truth = [still(0, 10, 1), still(10, 20, 0), still(20, 30, 2)]
    scores = np.repeat(np.eye(3)[[1, 0, 2]], 10, axis=0)
    scores[:, 0] = (np.arange(30) >= 15) & (np.arange(30) < 25)
    results = evaluate_scans([scanned(scores, truth)], 3, [(0.5, 0.5)])[0.5, 0.5]
    assert results["temporal_iou"] == pytest.approx(5 / 15)
    assert results["video_mAP@0.2"] == pytest.approx(100) and results["video_mAP@0.5"] == pytest.approx(200 / 3)


def test_a_class_that_is_never_found_counts_as_nothing():
    truth = [still(0, 10, 1), still(10, 20, 0), still(20, 30, 2)]
    scores = np.repeat(np.eye(3)[[1, 0, 2]], 10, axis=0)
    scores[:, 0] = np.eye(30)[12]  # one frame: less than two switches cost
    results = evaluate_scans([scanned(scores, truth)], 3, [(0.5, 1.0)])[0.5, 1.0]
    assert results["temporal_iou"] == 0 and results["temporal_iou_untrimmed"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no joined clip"):
        evaluate_scans([], 3, [(0.5, 1.0)])


# ---------------------------------------------------------------------------------------------- a classifier


def test_a_classifier_slid_over_joined_clips_finds_when_and_where(coloured):
    clips = join_clips(coloured, join_plan(coloured["label"]))
    scans = list(scan_clips(ByColour(), SPEC, clips, brightness, window=4, stride=1, sampler=FrameSampler(4)))
    assert all(scan.scores.shape == (sum(len(tube.frames) for tube in scan.truth), CLASSES) for scan in scans)
    assert all(np.allclose(scan.scores.sum(1), 1) and len(scan.maps) == len(scan.scores) for scan in scans)
    results = evaluate_scans(scans, CLASSES, [(0.5, 0.3)])[0.5, 0.3]
    assert results["temporal_iou"] > 0.9 > 0.4 > results["temporal_iou_untrimmed"]
    assert results["video_mAP@0.5"] > 90 > 10 > results["video_mAP@0.5_untrimmed"]


def test_a_window_sees_the_sampled_frames_only(coloured):
    (clip,) = join_clips(coloured, [(1, 0, 2)])
    (scan,) = scan_clips(ByColour(), SPEC, [clip], brightness, window=8, stride=8, sampler=FrameSampler(2))
    assert scan.indices.tolist() == [2, 6, 10, 14, 18, 21, 22, 25] and len(scan.scores) == 27
    np.testing.assert_array_equal(scan.maps > 0, clip.frames[scan.indices].max(-1) > 0)


def test_the_embedded_clips_join(monkeypatch):
    whole = hf_pgg.demo_data.digits
    monkeypatch.setattr(hf_pgg.demo_data, "digits", lambda split: whole(split).select(range(8)))
    rows = digits_in_motion(size=32, num_frames=4)["test"]
    clips = list(join_clips(rows, join_plan(rows["label"])))
    assert len(clips) == 8 and all(
        isinstance(clip, JoinedClip) and clip.frames.shape == (12, 32, 32, 3) for clip in clips
    )
    assert [clip.truth[clip.acting].label for clip in clips] == rows["label"]


def test_the_recipe_measures_a_checkpoint_on_its_own_data(coloured, tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        coloured.to_parquet(tmp_path / "data" / f"{split}.parquet")
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = VideoMAEConfig(**shape, image_size=SIDE, patch_size=8, num_frames=4, num_labels=CLASSES)
    VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "checkpoint")
    processor = VideoMAEVideoProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    processor.save_pretrained(tmp_path / "checkpoint")
    options = {"checkpoints": "checkpoint", "dataset_name": "data", "output": "figures.json"}
    command = [sys.executable, "-m", "benchmarks.clips.joined", "--validation_share", "0.33"]
    for name, path in options.items():
        command += [f"--{name}", tmp_path / path]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = json.loads((tmp_path / "figures.json").read_text())
    assert record["window"] == 9 and record["stride"] == 1 and "| checkpoint |" in done.stdout
    assert 0.3 < record["temporal_iou_untrimmed"] < 0.4 and 0 <= record["temporal_iou"] <= 1
