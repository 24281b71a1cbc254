"""The page of an `evaluate` module's Space: the arguments of `compute` as JSON, and its result below.

python -m hf_pgg.metrics.modules.page group_accuracy

serves a page on this machine. Needs gradio, which Spaces bring.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
from huggingface_hub import RepoCard

from hf_pgg.metrics import module_path

LONGEST_INPUT = 1_000_000  # characters
_TUBE = {"frames": [0, 1], "boxes": [[0, 0, 9, 9], [1, 0, 10, 9]], "label": 2}
_FOUND = {"frames": [0, 1], "boxes": _TUBE["boxes"], "scores": [0.9, 0.8], "labels": [2, 2]}
_CLIP = {"clips": ["a clip"], "references": [[_TUBE]], "num_classes": 3}
_MASK = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
_MAPS = [[[0, 0, 0, 0], [0, 1, 0.9, 0], [0, 0.8, last, 0], [0, 0, 0, 0]] for last in (1, 0.2)]

EXAMPLES: dict[str, dict[str, Any]] = {
    "group_accuracy": {
        "predictions": [0, 0, 1, 1, 1, 0],
        "references": [0, 0, 1, 0, 1, 1],
        "groups": [0, 0, 1, 1, 2, 2],
    },
    "background_reliance": {
        "references": [0, 1],
        "original": [[2, 0], [0, 1]],
        "same_class": [[2, 0], [0, 1]],
        "random": [[0.5, 1], [0, 1]],
        "random_object": [[0, 2], [1, 0]],
    },
    "box_localization": {
        "predictions": _MAPS[:1],
        "boxes": [[[50, 40, 100, 80]]],
        "sizes": [[200, 160]],
        "correct": [True],
    },
    "pixel_average_precision": {"predictions": _MAPS[1:], "references": [_MASK]},
    "frame_map": {"detections": [_FOUND], **_CLIP},
    "video_map": {"predictions": [[{**_TUBE, "score": 0.9}]], **_CLIP},
}
"""Of each module, the arguments of `compute` that its page shows at first."""

_APP = '''"""The page of this Space."""

from hf_pgg.metrics.modules.page import page

demo = page("{name}")

if __name__ == "__main__":
    demo.launch()
'''


def page(name: str) -> gr.Interface:
    """Returns the page of a module; `launch()` serves it, on this machine alone unless `GRADIO_SERVER_NAME` is set.

    Example:
        >>> page("group_accuracy").title
        'Group accuracy'
    """
    module, example = module_path(name), EXAMPLES[name]
    card = RepoCard.load(Path(module) / "README.md", ignore_metadata_errors=True)

    def compute(text: str) -> dict[str, float]:
        if len(text) > LONGEST_INPUT:
            raise gr.Error(f"the input is longer than {LONGEST_INPUT:,} characters: compute it in Python")
        try:
            arguments = json.loads(text)
        except json.JSONDecodeError as error:
            raise gr.Error(f"the input is not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise gr.Error(f'the input is not a JSON object such as {{"{next(iter(example))}": [...]}}')
        try:
            # loaded anew: a module keeps the rows that it was given before an error
            return evaluate.load(module).compute(**arguments)
        except (ValueError, TypeError, KeyError) as error:
            raise gr.Error(str(error)) from error

    return gr.Interface(
        fn=compute,
        inputs=gr.Code(_readable(example), language="json", label="Arguments of compute"),
        outputs=gr.JSON(label="Result"),
        title=card.data.title,
        article=card.text,
        flagging_mode="never",
        api_name="compute",
    )


def _readable(example: Mapping[str, Any]) -> str:
    """One argument a line."""
    return "{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in example.items()) + "\n}"


def write_space(name: str, folder: str | Path) -> Path:
    """Writes all that a module's Space holds: the module with its card and requirements, and `app.py`, its page.

    `HfApi.upload_folder` pushes it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(file.name for file in write_space("frame_map", folder).iterdir())
        ['README.md', 'app.py', 'frame_map.py', 'requirements.txt']
    """
    shutil.copytree(module_path(name), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (Path(folder) / "app.py").write_text(_APP.format(name=name))
    return Path(folder)


if __name__ == "__main__":
    page(sys.argv[1]).launch()
