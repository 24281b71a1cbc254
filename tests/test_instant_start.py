"""Importing the package and asking for help load no heavy library; everything else is there when it is used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hf_pgg

HEAVY = ("torch", "transformers", "datasets", "accelerate", "numpy", "scipy", "PIL", "matplotlib", "pandas", "pyarrow",
         "huggingface_hub", "timm", "captum", "skimage", "sklearn", "evaluate", "diffusers", "yaml")  # fmt: skip


def loaded_by(code):
    """The heavy modules that a fresh interpreter has loaded after some code, and what it printed."""
    code += f"\nimport sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return ast.literal_eval(run.stderr.splitlines()[-1]), run.stdout


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import hf_pgg; print(hf_pgg.__version__)") == ([], f"{hf_pgg.__version__}\n")
    heavy, _ = loaded_by("from hf_pgg import PGGConfig")
    assert {"torch", "transformers"} <= set(heavy), "the test would not see it otherwise"


@pytest.mark.parametrize("command", [(), ("preview",), ("explain",), ("localize",), ("card",)])
def test_help_loads_nothing_heavy(command):
    code = f"from hf_pgg.cli.main import main\ntry: main([*{command}, '--help'])\nexcept SystemExit: pass"
    heavy, printed = loaded_by(code)
    assert heavy == [] and printed.startswith(" ".join(("usage: hf-pgg", *command)))


def test_python_m_is_the_command():
    run = subprocess.run([sys.executable, "-m", "hf_pgg", "--version"], capture_output=True, text=True)
    assert run.stdout == f"{hf_pgg.__version__}\n" and run.returncode == 0


def test_every_public_name_is_there_and_type_checkers_know_it():
    assert {name for name in hf_pgg.__all__ if hasattr(hf_pgg, name)} == set(hf_pgg.__all__) <= set(dir(hf_pgg))
    (block,) = [node for node in ast.parse(inspect.getsource(hf_pgg)).body if isinstance(node, ast.If)]
    typed = {line.names[0].asname: (line.module, line.names[0].name) for line in block.body}
    assert typed == {name: (home, name) for name, home in hf_pgg._HOMES.items()}
    with pytest.raises(AttributeError, match="module 'hf_pgg' has no attribute 'CutMixer'"):
        _ = hf_pgg.CutMixer
