"""Experiments: what was run (`plan`), how (`run`), and the tables of the stored results (`table`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
