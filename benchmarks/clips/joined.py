"""When an action happens: checkpoints of `train_stal.py` slid over clips that are joined in time.

    python -m benchmarks.clips.joined --checkpoints out/train_stal/plain out/train_stal/actor-guidance

Every test clip stands between two clips of other classes; windows as long as a clip are scored along the whole. The
threshold of the maps and the cost of switching are chosen on joined validation clips. Prints one table and, with
`--output`, writes JSON: the acting clip's IoU in time (its class is known) with what is found, and with the whole
joined clip; and video-mAP over the tubes of all three clips, trimmed and not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from torch import nn
from transformers import AutoConfig, AutoModelForVideoClassification, AutoVideoProcessor

from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.groups import hold_out
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import VIDEO
from hf_pgg.demo_data import digits_in_motion
from hf_pgg.localization.in_time import measure_joined
from hf_pgg.localization.score_maps import with_smoothing
from hf_pgg.reports.record import environment

REPORTED = ("temporal_iou", "temporal_iou_untrimmed", "video_mAP@0.2", "video_mAP@0.2_untrimmed", "video_mAP@0.5",
            "video_mAP@0.5_untrimmed")  # fmt: skip


@dataclass
class JoinedArguments:
    checkpoints: list[str] = field(metadata={"help": "Folders or Hub ids of video classifiers with their processors."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, local folder or parquet file; default: the embedded clips."}
    )
    train_split: str = field(default="train", metadata={"help": "Split that the validation clips are a part of."})
    test_split: str = field(default="test", metadata={"help": "Split to report on, or a part: test[:50]."})
    video_column: str = field(default="video", metadata={"help": "The clips."})
    label_column: str = field(default="label", metadata={"help": "ClassLabel of the clips."})
    box_column: str = field(default="bboxes", metadata={"help": "Boxes of the actor, one on every frame."})
    box_format: str | None = field(default=None, metadata={"help": "What a box's numbers are."})
    validation_share: float = field(default=0.2, metadata={"help": "Of the training clips, as in `train_stal.py`."})
    source_column: str | None = field(default=None, metadata={"help": "As in `train_stal.py`."})
    window: int | None = field(
        default=None, metadata={"help": "Frames of a window; default: the clips' median length."}
    )
    stride: int | None = field(
        default=None, metadata={"help": "Frames between windows; default: an eighth of a window."}
    )
    attribution: str = field(default="grad_cam", metadata={"help": "Map of the boxes."})
    smoothing: float = field(default=0.06, metadata={"help": "Blur of gradient maps, as a share of the side."})
    over_time: float = field(default=0.0, metadata={"help": "Blur of maps over a window, as a share of its frames."})
    seed: int = field(default=0, metadata={"help": "Of the clips that are joined."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})


def main() -> None:
    (task,) = parse_options({"options": JoinedArguments}, description=__doc__)
    data = load_data(task)
    records = []
    for checkpoint in task.checkpoints:
        model = AutoModelForVideoClassification.from_pretrained(checkpoint).eval()
        spec = InputSpec.from_processor(AutoVideoProcessor.from_pretrained(checkpoint))
        results = measure(model, spec, data, task)
        records.append(
            {"model": Path(checkpoint).name, **results, "arguments": asdict(task), "environment": environment()}
        )
    print(f"| model | {' | '.join(REPORTED)} |\n" + "| --- " * (len(REPORTED) + 1) + "|")
    for record in records:
        print(f"| {record['model']} | {' | '.join(f'{record[key]:.3f}' for key in REPORTED)} |")
    if task.output is not None:
        Path(task.output).write_text(json.dumps(records, indent=1) + "\n")


def load_data(task: JoinedArguments) -> DatasetDict:
    """`validation` and `test` clips, those of `train_stal.py`, under its names of the columns."""
    if task.dataset_name is None:
        model = AutoConfig.from_pretrained(task.checkpoints[0])
        return digits_in_motion(size=model.image_size, num_frames=model.num_frames)
    names = {task.video_column: VIDEO, task.label_column: "label"}
    train, test = (
        open_dataset(task.dataset_name, split, columns=names) for split in (task.train_split, task.test_split)
    )
    task.video_column, task.label_column = VIDEO, "label"
    return DatasetDict(validation=hold_out(train, task.validation_share, "label", task.source_column)[1], test=test)


def measure(model: nn.Module, spec: InputSpec, data: DatasetDict, task: JoinedArguments) -> dict[str, float]:
    """The figures of `test`, with what `validation` chose."""
    method = with_smoothing(task.attribution, task.smoothing, task.over_time)
    names = ("window", "stride", "seed", "video_column", "label_column", "box_column", "box_format")
    options: dict[str, Any] = {name: getattr(task, name) for name in names}
    return measure_joined(model, spec, data, method, FrameSampler(model.config.num_frames), **options)


if __name__ == "__main__":
    run_recipe(main)
