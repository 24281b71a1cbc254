"""The page of an `evaluate` module's Space: its inputs as JSON, its values below. Needs gradio, which Spaces bring.

python hf_pgg/metrics/group_accuracy/app.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
from huggingface_hub import RepoCard

LONGEST_INPUT = 1_000_000  # characters


def page(module: str, example: Mapping[str, Any]) -> gr.Interface:
    """The page; `launch()` serves it, on the loopback interface unless `GRADIO_SERVER_NAME` says otherwise.

    Args:
        module (`str`): Folder of the `evaluate` module, with its card.
        example: Arguments of `compute` that the page shows at first.
    """
    card = RepoCard.load(Path(module) / "README.md", ignore_metadata_errors=True)

    def compute(text: str) -> dict[str, float]:
        if len(text) > LONGEST_INPUT:
            raise gr.Error(f"the input is longer than {LONGEST_INPUT:,} characters: compute it in Python")
        try:
            arguments = json.loads(text)
        except json.JSONDecodeError as error:
            raise gr.Error(f"the input is not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise gr.Error(f'the input is a JSON object such as {{"{next(iter(example))}": [...]}}')
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
