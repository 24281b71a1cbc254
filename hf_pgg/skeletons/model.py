"""A classifier of skeletons that also says who acts: actions from the keypoints of the persons in a clip.

After structured keypoint pooling (SKP): R. Hachiuma, F. Sato, T. Sekii, "Unified Keypoint-based Action Recognition
Framework via Structured Keypoint Pooling", CVPR 2023. Keypoints are a set of points with their time; pools gather them
frame by frame and person by person, each beside the pool over the whole clip, so that a person is seen in its context.
Every person has logits of its own, and their maximum is trained with the clip's label. Leaving that maximum out at
inference (the pooling switch) scores each person, and a person's frames one by one.

Ours, since no code is public: layer norm for batch norm (which leaks one sample's gradient into another's), and widths.
This file stands on torch and transformers alone: `save_pretrained` puts it beside the weights, which then load with
`AutoModelForVideoClassification.from_pretrained(..., trust_remote_code=True)` where `hf_pgg` is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class SkeletonConfig(PretrainedConfig):
    r"""
    Configuration of a [`SkeletonClassifier`].

    Args:
        num_keypoints (`int`): J, points of a person in a frame.
        num_channels (`int`): C, numbers of a point: x and y, and a confidence if there is one. A person's features in
            a frame are E = J * C numbers, point by point.
        ordered (`bool`): Whether the j-th point is the same joint everywhere, as a pose estimator's is: then joints are
            told apart. Otherwise a frame's points are a set without order.
        hidden_sizes (`list[int]`): Widths of points, frames and persons; the original's are 256, 512 and 1024.
        kwargs: Those of `PretrainedConfig` (`num_labels`, `id2label`, ...).

    Example:
        >>> SkeletonConfig(num_keypoints=17, num_labels=5).hidden_sizes
        [64, 128, 256]
    """

    model_type = "skeleton_pooling"
    # their number of persons differs from batch to batch
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["person_logits", "frame_logits"]

    def __init__(
        self,
        num_keypoints: int = 13,
        num_channels: int = 2,
        ordered: bool = False,
        hidden_sizes: list[int] | None = None,
        initializer_range: float = 0.1,
        **kwargs: Any,
    ):
        self.num_keypoints = num_keypoints
        self.num_channels = num_channels
        self.ordered = ordered
        self.hidden_sizes = [64, 128, 256] if hidden_sizes is None else hidden_sizes
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


@dataclass
class SkeletonOutput(ModelOutput):
    """What a [`SkeletonClassifier`] returns.

    Args:
        logits (`torch.Tensor`): (B, classes) of the clip: the maximum over its persons.
        person_logits (`torch.Tensor`): (B, P, classes) of each person; the dtype's lowest number for absent persons.
        frame_logits (`torch.Tensor`, *optional*): (B, P, F, classes) of each person in each frame.

    Example:
        >>> SkeletonOutput(logits=torch.zeros(1, 2)).logits.shape
        torch.Size([1, 2])
    """

    logits: torch.Tensor | None = None
    person_logits: torch.Tensor | None = None
    frame_logits: torch.Tensor | None = None


class SkeletonClassifier(PreTrainedModel):
    """Scores a clip, its persons, and their frames; the order of persons does not matter.

    Example:
        >>> model = SkeletonClassifier(SkeletonConfig(num_keypoints=3, hidden_sizes=[4, 4, 4], num_labels=2))
        >>> output = model(torch.zeros(1, 5, 8, 6))
        >>> output.logits.shape, output.person_logits.shape
        (torch.Size([1, 2]), torch.Size([1, 5, 2]))
    """

    config_class = SkeletonConfig
    base_model_prefix = "skeletons"
    main_input_name = "keypoints"

    def __init__(self, config: SkeletonConfig):
        super().__init__(config)
        points, frames, persons = config.hidden_sizes
        num_labels: Any = config.num_labels
        self.joints = nn.Embedding(config.num_keypoints, points) if config.ordered else None
        self.embedding = nn.Linear(config.num_channels + 1, points)  # the last channel is the time
        self.points = _perceptron(points, points)
        self.frames = _perceptron(2 * points, frames)
        self.persons = _perceptron(2 * frames, persons)
        self.classifier = nn.Linear(persons, num_labels)
        self.post_init()

    def forward(
        self, keypoints: torch.Tensor, present: torch.Tensor | None = None, score_frames: bool = False
    ) -> SkeletonOutput:
        """Scores clips, and every frame of a person with `score_frames`.

        Args:
            keypoints (`torch.Tensor`): (B, P, F, E) float, see [`hf_pgg.skeletons.rows.normalize_tracks`] for its unit;
                other shapes are a ValueError.
            present (`torch.Tensor`, *optional*): (B, P, F) bool, False where a person is not seen in a frame; such
                keypoints count for nothing, whatever their value. By default all are seen.
        """
        shape = (self.config.num_keypoints, self.config.num_channels)
        if keypoints.ndim != 4 or keypoints.shape[-1] != shape[0] * shape[1]:
            raise ValueError(
                f"keypoints have shape {tuple(keypoints.shape)}, expected (B, P, F, {shape[0] * shape[1]}):"
                f" {shape[0]} points of {shape[1]} numbers; see `num_keypoints` and `num_channels`"
            )
        if present is None:
            present = torch.ones(keypoints.shape[:3], dtype=torch.bool, device=keypoints.device)
        if present.shape != keypoints.shape[:3]:
            raise ValueError(f"present has shape {tuple(present.shape)}, expected {tuple(keypoints.shape[:3])}")

        points = keypoints.unflatten(-1, shape)
        time = torch.linspace(-1, 1, keypoints.shape[2], device=keypoints.device, dtype=keypoints.dtype)
        time = time[:, None, None].expand(*points.shape[:-1], 1)
        embedded = self.embedding(torch.cat([points, time], -1))
        if self.joints is not None:
            embedded = embedded + self.joints.weight
        by_frame = self.points(embedded).amax(3)  # (B, P, F, d)
        clip = _pool(by_frame.flatten(1, 2), present.flatten(1, 2))[:, None, None]
        by_frame = self.frames(torch.cat([by_frame, clip.expand_as(by_frame)], -1))

        seen = present.any(2)
        by_person = _pool(by_frame, present)  # (B, P, d)
        clip = _pool(by_person, seen)[:, None]
        person_logits = self._scores(by_person, clip, seen)
        return SkeletonOutput(
            logits=person_logits.amax(1),
            person_logits=person_logits,
            frame_logits=self._scores(by_frame, clip[:, None], present) if score_frames else None,
        )

    def _scores(self, instances: torch.Tensor, clip: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(self.persons(torch.cat([instances, clip.expand_as(instances)], -1)))
        return logits.masked_fill(~mask.unsqueeze(-1), torch.finfo(logits.dtype).min)


def _perceptron(width: int, out: int) -> nn.Sequential:
    first = (nn.Linear(width, 2 * out), nn.LayerNorm(2 * out), nn.GELU())
    return nn.Sequential(*first, nn.Linear(2 * out, out), nn.LayerNorm(out), nn.GELU())


def _pool(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Maximum of (..., N, d) over the N where the mask (..., N) holds; 0 where it holds nowhere."""
    lowest = torch.finfo(features.dtype).min
    pooled = features.masked_fill(~mask.unsqueeze(-1), lowest).amax(-2)
    return pooled.masked_fill(~mask.any(-1, keepdim=True), 0)


SkeletonConfig.register_for_auto_class()
SkeletonClassifier.register_for_auto_class("AutoModelForVideoClassification")
