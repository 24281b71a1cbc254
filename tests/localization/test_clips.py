"""Clips from rows to tubes: the collator, guidance on VideoMAE, the embedded clips, detections and their measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from torch import nn
from torchvision.transforms import v2
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor

import hf_pgg.demo_data
from hf_pgg import PGGCollator, PGGConfig, PGGTrainer, add_provenance
from hf_pgg.data.boxes import corners
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import decode_mask
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.demo_data import MOTIONS, digits_in_motion
from hf_pgg.guidance.engines import exact_guidance, first_order_guidance
from hf_pgg.guidance.forms import share
from hf_pgg.guidance.modes import RandomState, second_derivatives
from hf_pgg.localization.clips import clip_boxes, detect_actions, evaluate_actions, tubes_of_maps
from hf_pgg.metrics.tubes import ClipError

SIZE, FRAMES = 32, 4


def tiny_videomae(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=SIZE,
        patch_size=8,
        num_frames=FRAMES,
        tubelet_size=2,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        num_labels=len(MOTIONS),
    )
    return VideoMAEForVideoClassification(config).to(dtype)


@pytest.fixture(scope="module")
def clips(monkeypatch_module: pytest.MonkeyPatch) -> Dataset:
    """24 embedded clips of four frames, with provenance."""
    rows = digits_in_motion(size=SIZE, num_frames=FRAMES)["test"].select(range(24))
    return add_provenance(rows, mask_column="masks", video_column="video")


@pytest.fixture(scope="module")
def monkeypatch_module() -> pytest.MonkeyPatch:
    """The embedded digits, cut to a few: only their number is less."""
    with pytest.MonkeyPatch.context() as patch:
        whole = hf_pgg.demo_data.digits
        patch.setattr(hf_pgg.demo_data, "digits", lambda split: whole(split).select(range(28)))
        yield patch


@pytest.fixture(scope="module")
def processor() -> VideoMAEVideoProcessor:
    return VideoMAEVideoProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False)


# ---------------------------------------------------------------------------------------------- embedded clips


def test_digits_move_as_their_label_says_and_stand_in_their_boxes(monkeypatch_module: pytest.MonkeyPatch) -> None:
    data = digits_in_motion(bias=1.0, size=48, num_frames=8)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 28, "validation": 28, "test": 28}
    assert data["train"]["aligned"] == [1] * 28 and 0 < sum(data["test"]["aligned"]) < 28
    for row in data["test"]:
        masks, boxes = decode_mask(row["masks"], 8) > 127, np.array(row["bboxes"])
        for mask, (x, y, width, height) in zip(masks, boxes.astype(int), strict=True):
            inside = np.zeros_like(mask)
            inside[y : y + height, x : x + width] = True
            assert mask.any() and not (mask & ~inside).any()
            assert mask[y].any() and mask[:, x].any() and mask[y + height - 1].any() and mask[:, x + width - 1].any()
        way = boxes[-1, :2] - boxes[0, :2]
        expected = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[MOTIONS[row["label"]]]
        assert tuple(np.sign(way).astype(int)) == expected
    with pytest.raises(ValueError, match="bias is 2"):
        digits_in_motion(bias=2)


# ---------------------------------------------------------------------------------------------- collator


def test_a_batch_of_clips(clips: Dataset, processor: VideoMAEVideoProcessor) -> None:
    collator = PGGCollator(processor, video_column="video")
    batch = collator([clips[0], {**clips[1], "provenance": None}])
    assert batch["pixel_values"].shape == (2, FRAMES, 3, SIZE, SIZE) and batch["pixel_values"].dtype == torch.float32
    assert batch["provenance"].shape == (2, 1, FRAMES, SIZE, SIZE)
    assert batch["guided"].tolist() == [True, False] and not batch["provenance"][1].any()
    masks = decode_mask(clips[0]["masks"], FRAMES) / 255
    assert torch.equal(batch["provenance"][0, 0], torch.from_numpy(masks).float())
    frame = np.array(clips[0]["video"][2]).astype(np.float32) / 255
    expected = (frame - collator.spec.mean) / collator.spec.std
    np.testing.assert_allclose(batch["pixel_values"][0, 2].permute(1, 2, 0), expected, atol=1e-5)


def test_every_frame_and_its_mask_take_the_same_geometry(clips: Dataset, processor: VideoMAEVideoProcessor) -> None:
    plain = PGGCollator(processor, video_column="video")([clips[0]])
    flipped = PGGCollator(processor, video_column="video", augment=v2.RandomHorizontalFlip(p=1.0))([clips[0]])
    assert torch.equal(flipped["pixel_values"], plain["pixel_values"].flip(-1))
    assert torch.equal(flipped["provenance"], plain["provenance"].flip(-1))


def test_a_sampler_takes_the_frames_and_their_masks(clips: Dataset, processor: VideoMAEVideoProcessor) -> None:
    whole = PGGCollator(processor, video_column="video")([clips[0]])
    half = PGGCollator(processor, video_column="video", sampler=FrameSampler(2))([clips[0]])
    assert torch.equal(half["pixel_values"], whole["pixel_values"][:, [1, 3]])
    assert torch.equal(half["provenance"], whole["provenance"][:, :, [1, 3]])


# ---------------------------------------------------------------------------------------------- guidance


def test_both_modes_agree_on_a_clip() -> None:
    """In float64, with every frame's own mask: tubelets of two frames share weights, not masks."""
    model = tiny_videomae(torch.float64).eval()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, FRAMES, 3, SIZE, SIZE, dtype=torch.float64, generator=generator).requires_grad_()
    provenance = (torch.rand(2, 2, FRAMES, SIZE, SIZE, generator=generator) > 0.5).double()
    labels, guided = torch.tensor([[0, 2], [1, -100]]), torch.tensor([True, True])

    def forward(point: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=point).logits

    state = RandomState(pixels.device)
    with second_derivatives():
        logits = forward(pixels)
        exact = exact_guidance(logits, pixels, labels, provenance, guided, share)
        gradient = torch.autograd.grad(logits[1, 1], pixels, retain_graph=True)[0][1]
        truth = torch.autograd.grad(exact.value.sum(), list(model.parameters()), allow_unused=True)
    outside = ((1 - provenance[1, 0, :, None]) * gradient).square().sum() / gradient.square().sum()
    torch.testing.assert_close(exact.loss[1], outside)
    logits = forward(pixels)
    first = first_order_guidance(
        forward, logits, pixels, labels, provenance, guided, share, random_state=state, step=1e-6
    )
    found = torch.autograd.grad(first.value.sum(), list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(first.loss, exact.loss)
    pairs = [(a.flatten(), b.flatten()) for a, b in zip(truth, found, strict=True) if a is not None and b is not None]
    cosine = torch.cosine_similarity(*(torch.cat(part) for part in zip(*pairs, strict=True)), dim=0)
    assert cosine > 0.9999


@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_the_trainer_guides_videomae(
    mode: str, clips: Dataset, processor: VideoMAEVideoProcessor, tmp_path: Path
) -> None:
    args = PGGConfig(
        output_dir=str(tmp_path),
        video_column="video",
        num_frames=FRAMES,
        guidance_mode=mode,
        max_steps=2,
        per_device_train_batch_size=4,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )
    trainer = PGGTrainer(
        tiny_videomae(), args, train_dataset=clips, eval_dataset=clips.select(range(4)), processing_class=processor
    )
    trainer.train()
    assert 0 < trainer.state.log_history[0]["guidance_loss"] <= 1
    assert 0 < trainer.evaluate()["eval_target_gradient_share"] < 1
    trainer.save_model()
    loaded = VideoMAEForVideoClassification.from_pretrained(tmp_path).eval()
    batch = trainer.data_collator([clips[0]])["pixel_values"]
    torch.testing.assert_close(loaded(pixel_values=batch).logits, trainer.model.eval()(pixel_values=batch).logits)


def test_clips_are_checked_before_the_first_step(
    clips: Dataset, processor: VideoMAEVideoProcessor, tmp_path: Path
) -> None:
    def build(rows: Dataset, **options: object) -> None:
        args = PGGConfig(output_dir=str(tmp_path), video_column="video", report_to=[], use_cpu=True, **options)
        PGGTrainer(tiny_videomae(), args, train_dataset=rows, processing_class=processor)

    with pytest.raises(ValueError, match=r"no column 'video'.*set `video_column`"):
        build(clips.rename_column("video", "film"))
    shorter = clips.map(lambda row: {"video": row["video"][:3]})
    with pytest.raises(ValueError, match=r"row 0 of the training dataset, column 'provenance'.*Resize the mask"):
        build(shorter)
    with pytest.raises(ValueError, match="num_frames is 0"):
        build(clips, num_frames=0)


# ---------------------------------------------------------------------------------------------- localization


def find_the_digit(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A perfect map for clips that are black but for a white square."""
    return pixel_values.mean(2)


def test_a_tube_covers_the_clip_and_follows_the_maps() -> None:
    maps = np.zeros((2, 224, 224), np.float32)
    maps[0, 10:30, 20:60] = 1
    maps[1, 10:30, 60:100] = 1
    (tube,) = tubes_of_maps(maps, [0.5], np.array([2, 6]), 9, (224, 224), label=3, score=0.5)
    assert tube.frames.tolist() == list(range(9)) and (tube.label, tube.score) == (3, 0.5)
    assert tube.boxes[[0, 2, 4, 6, 8], 0].tolist() == [20, 20, 40, 60, 60], "held, interpolated, held"
    assert tube.boxes[2].tolist() == [20, 10, 59, 29], "the last pixels belong to the box"


def test_perfect_maps_of_a_perfect_classifier_score_100_and_of_a_wrong_one_nothing() -> None:
    rows: dict[str, list] = {"video": [], "label": [], "bboxes": []}
    for i in range(4):
        frames = np.zeros((6, SIZE, SIZE, 3), np.uint8)
        boxes = []
        for t in range(6):
            frames[t, 4 + i : 16 + i, 2 * t : 2 * t + 14] = 255
            boxes.append([2 * t, 4 + i, 14, 12])
        rows["video"].append(list(frames))
        rows["label"].append(i % 2)
        rows["bboxes"].append(boxes)
    features = {"video": List(Image()), "label": ClassLabel(names=["a", "b"]), "bboxes": List(List(Value("float32")))}
    dataset = Dataset.from_dict(rows, features=Features(features))
    spec = InputSpec((SIZE, SIZE), (SIZE, SIZE), (0.0,) * 3, (1.0,) * 3)

    class Oracle(nn.Module):
        """Knows the class by the row in which the square begins; `wrong` turns its answers around."""

        def __init__(self, wrong: bool):
            super().__init__()
            self.wrong = wrong
            self.anything = nn.Parameter(torch.zeros(1))

        def forward(self, pixel_values: torch.Tensor) -> object:
            top = (pixel_values[:, 0, 0].amax(2) > 0).float().argmax(1)
            label = (top % 2).bool() ^ self.wrong
            logits = torch.stack([(~label).float(), label.float()], 1) * 4
            return type("Output", (), {"logits": logits})

    def measure(wrong: bool) -> dict[str, float]:
        found = detect_actions(Oracle(wrong), spec, dataset, find_the_digit, sampler=FrameSampler(6))
        return evaluate_actions(found, dataset, [0.5], box_format="xywh")[0.5]

    right = measure(False)
    assert right["accuracy"] == 1 and right["frame_mAP@0.5"] == right["video_mAP@0.5"] == 100
    assert measure(True)["accuracy"] == 0 and measure(True)["frame_mAP@0.5"] < 60
    found = list(detect_actions(Oracle(False), spec, dataset, find_the_digit, sampler=FrameSampler(6)))
    missing = dataset.map(lambda row: {"bboxes": row["bboxes"][:4]})
    with pytest.raises(ClipError, match=r"row 0.*4 boxes for a clip of 6 frames"):
        evaluate_actions(found, missing, [0.5], box_format="xywh")
    some = dataset.map(lambda row, i: {"bboxes": row["bboxes"] if i else []}, with_indices=True)
    assert evaluate_actions(found, some, [0.5], box_format="xywh")[0.5] == right, (
        "a clip without boxes counts for the accuracy alone"
    )
    with pytest.raises(ValueError, match="no clip has boxes in column 'bboxes'"):
        evaluate_actions(found, dataset.map(lambda row: {"bboxes": None}, features=dataset.features), [0.5])


@pytest.mark.parametrize(
    ("boxes", "problem"),
    [
        ([[0, 0, 4, 4], None], "frame 1 has no box, frame 0 has one"),
        ([[0, 0, 4, 4], [0, 0, 4]], "frame 1: boxes .* are not four numbers each"),
        ([[0, 0, 4, 4]] * 3, "3 boxes for a clip of 2 frames"),
        ([[0, 0, 4, 4], [9, 9, -4, 4]], r"frame 1: box \[9.0, 9.0, -4.0, 4.0\] as 'xywh' is empty or inverted"),
        ([[0, 0, 4, float("nan")]] * 2, r"frame 0: box \[0.0, 0.0, 4.0, nan\] holds NaN"),
        ([[0, 0, 4, 4], [9, 9, 14, 14]], r"frame 1: box .* leaves the image of 20x16.*set box_format='xyxy'"),
        ([[0, 0, 4, 4], [[0, 0, 4, 4], [2, 2, 4, 4]]], "frame 1 has 2 boxes, and one actor is measured"),
    ],
)
def test_bad_boxes_name_clip_column_and_frame(boxes: object, problem: str) -> None:
    with pytest.raises(ClipError, match=f"clip 'jump/7', field 'bboxes': {problem}.*on every frame"):
        clip_boxes(boxes, 2, (16, 20), "jump/7", "bboxes")
    assert clip_boxes(None, 2, (16, 20), "jump/7", "bboxes") is None
    assert clip_boxes([], 2, (16, 20), "jump/7", "bboxes") is None
    assert clip_boxes([[8, 8, 12, 10]], 1, (16, 20), "jump/7", "bboxes", "xyxy").tolist() == [[8, 8, 4, 2]]  # type: ignore[union-attr]


def test_corners_include_the_last_pixel() -> None:
    assert corners(np.array([[2, 3, 4, 1]])).tolist() == [[2, 3, 5, 3]]
