"""The README's table: one row for each question that was asked of guidance, from the stored results."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks.clips.plan import Run as ClipRun
from benchmarks.localization.plan import Run as PhotoRun
from benchmarks.pets.plan import Run as PetRun
from benchmarks.tables import RESULTS, Record, load, paired
from hf_pgg.reports.comparison import mean_and_spread

Chosen = Callable[[Record], bool]


def _line(
    title: str, measure: str, value: Callable[[Record], float], guided: list[Record], plain: list[Record], digits: int
) -> str:
    """A row of the table: guided records beside their unguided twins, paired by seed."""
    ours, twins = ({_seed(record): value(record) for record in some} for some in (guided, plain))
    cells = [title, measure, mean_and_spread(twins.values(), digits), mean_and_spread(ours.values(), digits)]
    return f"| {' | '.join([*cells, paired(ours, twins, digits)])} |"


def _seed(record: Record) -> int:
    return record["run"]["seed"] if "run" in record else record["method"]["seed"]


def _digits() -> str:
    records = json.loads((RESULTS / "digits.json").read_text())
    plain, guided = ([r for r in records if r["method"]["name"] == name] for name in ("synthesis", "guided"))
    return _line("digits, from scratch", "accuracy", lambda r: r["results"]["accuracy"], guided, plain, 3)


def _pets(title: str, setting: str, guided: str, plain: str) -> str:
    def chosen(method: str) -> list[Record]:
        alpha = 10.0 if "guided" in method else 0.0
        wanted = {"method": method, "alpha": alpha, "form": "share", "masks": "true", "extra": {}}
        return [r for r in records if all(r["run"][name] == value for name, value in wanted.items())]

    records = [r for r in load(RESULTS / "pets.jsonl", PetRun) if r["run"]["backbone"] == "cnn"]
    records = [r for r in records if r["run"]["setting"] in setting]
    measure = "worst group"
    return _line(title, measure, lambda r: r["test_worst_group_accuracy"], chosen(guided), chosen(plain), 3)


def _photos(title: str, synthesis: str, automatic: bool) -> str:
    rows = [run for run in load(RESULTS / "wsol.jsonl", PhotoRun) if run["run"]["synthesis"] == synthesis]
    usual = PhotoRun()
    same = ("backbone", "masks", "labels", "keep_originals", "steps", "learning_rate")
    rows = [r for r in rows if all(r["run"][name] == getattr(usual, name) for name in same)]
    plain = [r for r in rows if r["run"]["alpha"] == 0]
    guided = [r for r in rows if r["run"]["alpha"] == 1 and r["run"]["form"] == "share"]
    guided = [r for r in guided if r["run"]["automatic"] == automatic]
    return _line(title, "MaxBoxAccV2", lambda r: 100 * r["results"]["max_box_acc_v2"], guided, plain, 1)


def _clips() -> str:
    rows = [run for run in load(RESULTS / "stal.jsonl", ClipRun) if run["run"]["synthesis"] == "actor"]
    same = ("masks", "epochs", "learning_rate")
    rows = [r for r in rows if all(r["run"][name] == getattr(ClipRun, name) for name in same)]
    plain = [r for r in rows if r["run"]["alpha"] == 0]
    guided = [r for r in rows if r["run"]["alpha"] == 1 and r["run"]["form"] == "share"]
    title = "action tubes on JHMDB-21, actors on other scenes"
    return _line(title, "frame-mAP@0.5", lambda r: r["results"]["frame_mAP@0.5"], guided, plain, 1)


def summary_table() -> str:
    """Rows of synthesis with guidance beside the same synthesis without, mean and spread over seeds."""
    return "\n".join(
        [
            "| task | measure | without guidance | with guidance | difference by seed (95 %) |",
            "| --- | --- | --- | --- | --- |",
            _digits(),
            _pets("pets (a), scenes tied in nine rows of ten", "a", "guided", "plain"),
            _pets("pets (b), always tied, some edits", "b", "guided", "plain"),
            _pets("pets (b), backgrounds exchanged", "b", "exchange+guided", "exchange"),
            _pets("pets (c), 37 breeds, cat against dog", "c", "guided", "plain"),
            _pets("pets, no bias in training", "ab", "unbiased+guided", "unbiased"),
            _photos("boxes of pets from labels, a saliency model's masks", "none", True),
            _photos("boxes of pets from labels, CutMix's parts", "cutmix", False),
            _clips(),
        ]
    )
