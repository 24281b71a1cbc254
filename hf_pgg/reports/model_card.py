"""The model card, written from one run record and nothing else; `model_card_template.md` stands beside.

The record is described in `hf_pgg.reports.record`. `model`, `data`, `method` and `environment` must be there; what else
it lacks, the card does not mention.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_pgg.metrics.groups import current_names
from hf_pgg.reports.record import hub_id

TEMPLATE = Path(__file__).with_name("model_card_template.md")
MOST_GROUPS = 30
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "worst_group_accuracy": "Worst-group accuracy",
    "mean_group_accuracy": "Mean accuracy of the groups",
    "balanced_accuracy": "Balanced accuracy",
    "group_gap": "Gap between best and worst group",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "max_box_acc_v2_30": "MaxBoxAccV2 at IoU 0.3",
    "max_box_acc_v2_50": "MaxBoxAccV2 at IoU 0.5",
    "max_box_acc_v2_70": "MaxBoxAccV2 at IoU 0.7",
    "box_acc_v2": "BoxAccV2 at the threshold of the selection split",
    "top1_localization": "Top-1 localization",
    "pixel_average_precision": "PxAP",
    "frame_mAP@0.5": "Frame-mAP at IoU 0.5",
    "temporal_iou": "IoU in time, on joined clips",
    "temporal_iou_untrimmed": "IoU in time of the whole joined clip",
    "video_mAP@0.2": "Video-mAP at IoU 0.2",
    "video_mAP@0.5": "Video-mAP at IoU 0.5",
    "video_mAP@0.75": "Video-mAP at IoU 0.75",
    "video_mAP@0.5:0.95": "Video-mAP at IoU 0.5 to 0.95",
    "target_gradient_share": "Target gradient share",
}


def model_card(record: Mapping[str, Any]) -> ModelCard:
    """Writes the card of a run record, with metadata that the Hub understands.

    A part that every card states is not left out: that is a KeyError.

    Example:
        >>> record = {"model": {"name": "mine", "base_model": None}, "data": {"name": "photos of mine"},
        ...           "method": {"alpha": 0.0}, "results": {"accuracy": 0.75}, "environment": {"versions": {}}}
        >>> "| Accuracy | 0.750 |" in model_card(record).text
        True
    """
    task, model, data = record.get("task", "image-classification"), record["model"], record["data"]
    comparison = [current_names(row) for row in record.get("comparison", [])]
    groups = sorted(record.get("groups", {}).get("rows", []), key=lambda row: row["accuracy"])
    return ModelCard.from_template(
        _metadata(record),
        template_path=str(TEMPLATE),
        record=record,
        task=task,
        video=task == "video-classification",
        name=model.get("repo") or model["name"],
        base=_shown_name(model["base_model"], _base_repo(model)),
        data_name=_shown_name(data["name"], _data_repo(data)),
        data_repo=_data_repo(data),
        arguments={
            key: value
            for key, value in data.get("arguments", {}).items()
            if value not in (None, [], "") and key != "dataset_name"  # told above, without the folders above it
        },
        results=_named_results(record),
        names=METRIC_NAMES,
        number=_number,
        comparison=comparison,
        columns=[name for name in METRIC_NAMES if any(name in row for row in comparison)],
        seeds=max((len(row.get("seeds", [])) for row in comparison), default=1),
        groups=groups[:MOST_GROUPS],
        group_count=len(groups),
        environment=record["environment"],
        method=record["method"],
    )


def _metadata(record: Mapping[str, Any]) -> ModelCardData:
    """The card's head: what the Hub files the model under, and its results."""
    task, data, results = record.get("task", "image-classification"), record["data"], _named_results(record)
    repo, base_repo = _data_repo(data), _base_repo(record["model"])
    shown = _shown_name(data["name"], repo)
    evaluated = [
        EvalResult(
            task_type=task,
            dataset_type=repo or shown,
            dataset_name=shown,
            dataset_split=data.get("arguments", {}).get("test_split", "test"),
            dataset_revision=data.get("revision") if repo else None,
            metric_type=name,
            metric_name=METRIC_NAMES[name],
            metric_value=round(value, 4),
        )
        for name, value in results.items()
        if shown
    ]
    own = ["hf_pgg", task, "input-gradient-guidance", *(["localization"] if "localization" in record else [])]
    return ModelCardData(
        language=record["model"].get("language"),
        license=record["model"].get("license"),
        library_name="transformers",
        pipeline_tag=task,
        base_model=base_repo,
        datasets=[repo] if repo else None,
        tags=list(dict.fromkeys([*own, *record.get("tags", [])])),
        metrics=list(results) or None,
        model_name=record["model"].get("title") or record["model"]["name"],
        eval_results=evaluated or None,
    )


def _named_results(record: Mapping[str, Any]) -> dict[str, float]:
    """The results that have a name on cards."""
    return {name: value for name, value in current_names(record.get("results", {})).items() if name in METRIC_NAMES}


def _data_repo(data: Mapping[str, Any]) -> str | None:
    return data["repo"] if "repo" in data else hub_id(data["name"])


def _base_repo(model: Mapping[str, Any]) -> str | None:
    return model["base_repo"] if "base_repo" in model else hub_id(model["base_model"])


def _shown_name(name: str | None, repo: str | None) -> str | None:
    """A Hub id or words as they are; the last part of a local path."""
    return name if repo or not name or "/" not in name else Path(name).name


def _number(metric: str, value: float) -> str:
    """Mean average precisions in per cent with one decimal, fractions with three."""
    return f"{value:.1f} %" if "mAP@" in metric else f"{value:.3f}"
