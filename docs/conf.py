"""Sphinx configuration: `make docs` builds the site strictly into out/docs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import docstrings  # noqa: E402
import reference  # noqa: E402

import hf_pgg  # noqa: E402

project = "hf_pgg"
author = "The hf_pgg authors"
copyright = "the hf_pgg authors, Apache-2.0"
release = version = hf_pgg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "hf_pgg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # docstrings of transformers are not ours to check
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Links to other projects are not fetched, so their names cannot be checked; those of hf_pgg are.
nitpicky = True
nitpick_ignore = [("py:class", name) for name in reference.type_variables()]
nitpick_ignore_regex = [("py:.*", r"(?!hf_pgg\.).*"), ("py:class", r"hf_pgg\.[\w.]+\._\w+")]


def mark_results(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Pages of results have wide tables, for which the style sheet makes room."""
    if page.startswith("results/"):
        context["body"] = f'<div class="results">{context["body"]}</div>'


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", mark_results)
    app.connect("builder-inited", reference.write_pages)
    app.connect("autodoc-process-docstring", docstrings.process_docstring, priority=400)  # before Napoleon
    app.connect("autodoc-process-bases", docstrings.drop_private_bases)
