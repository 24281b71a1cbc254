"""The Python blocks of the documentation run, from top to bottom of each page, in a folder of their own."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_pgg import demo_data

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^(?P<mark><!-- not run: [^>]+ -->\n)?```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = sorted(path for folder in ("guides", "methods") for path in (ROOT / "docs" / folder).glob("*.md"))
PAGES = [path for path in PAGES if BLOCK.search(path.read_text())]
assert PAGES


@pytest.fixture(scope="module", autouse=True)
def clips_are_drawn_once() -> Iterator[None]:
    """Several pages take the same embedded clips, which take seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_data, "digits_in_motion", functools.cache(demo_data.digits_in_motion))
        yield


@pytest.fixture
def beside_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_python_blocks_of_a_page_run(page: Path, beside_the_checkpoints: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if block["mark"] is None:
            line = text[: block.start("code")].count("\n")
            exec(compile("\n" * line + block["code"], str(page), "exec"), names)
