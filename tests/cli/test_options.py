"""Options of recipes: a file beside flags, choices, grouped help, and errors of one line."""

import json
from dataclasses import dataclass, field

import pytest

from hf_pgg.cli.arguments import CompareArguments, RecipeConfig
from hf_pgg.cli.options import parse_options, run_recipe


@dataclass
class Data:
    name: str | None = field(default=None, metadata={"help": "Which rows."})
    size: int = field(default=32, metadata={"help": "How large.", "choices": (32, 48)})
    keep: bool = field(default=True, metadata={"help": "Keep all."})


GROUPS = {"data": Data, "methods": CompareArguments, "guidance": RecipeConfig}


def refused(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_options(GROUPS, words)
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1
    return message


@pytest.mark.parametrize("named", [["--config"], []])
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_flags_win_over_the_file_and_the_file_over_the_defaults(suffix, named, tmp_path):
    file = tmp_path / f"settings.{suffix}"
    values = {"size": 48, "alpha": 2, "seeds": [1, 2], "learning_rate": "5e-5", "keep": False, "output_dir": None}
    file.write_text(json.dumps(values))  # JSON is YAML
    data, compare, config = parse_options(GROUPS, [*named, str(file), "--alpha", "3", "--use_cpu"])
    assert (data.size, data.keep, data.name) == (48, False, None)
    assert compare.seeds == [1, 2] and not compare.compare
    assert (config.alpha, config.learning_rate, config.weight_decay) == (3.0, 5e-5, 0.01)


def test_a_wrong_option_is_named_with_what_was_probably_meant(tmp_path, capsys):
    assert "did you mean --alpha?" in refused(["--alhpa", "3"], capsys)
    assert "'40' is unknown, choose 32, 48" in refused(["--size", "40"], capsys)
    assert "choose auto, exact, finite_difference" in refused(["--guidance_mode", "twice"], capsys)
    (tmp_path / "a.yaml").write_text("sise: 48\n")
    message = refused(["--config", str(tmp_path / "a.yaml")], capsys)
    assert "a.yaml" in message and "'sise'" in message and "--size" in message
    (tmp_path / "b.yaml").write_text("- size\n")
    assert "b.yaml holds a list" in refused([str(tmp_path / "b.yaml")], capsys)
    assert "none.json cannot be read" in refused([str(tmp_path / "none.json")], capsys)


def listed(word, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_options(GROUPS, [word], "What it does.")
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_help_groups_the_options_and_keeps_the_seldom_ones_for_help_all(capsys):
    short, long = listed("--help", capsys), listed("--help-all", capsys)
    assert short.startswith("What it does.")
    places = [short.index(f"\n{title}:\n") for title in ("data", "methods", "guidance", "training")]
    assert places == sorted(places)
    assert places[0] < short.index("--size {32,48}") < short.index("--image_column") < places[1]
    assert places[2] < short.index("--alpha X") < places[3] < short.index("--learning_rate X")
    assert "--adam_beta1" not in short and "--adam_beta1" in long
    assert len(short.splitlines()) < 150


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError("no file")])
def test_what_a_user_can_mend_ends_a_recipe_with_one_line(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_recipe(main)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_what_a_user_cannot_mend_keeps_its_traceback():
    def main():
        raise TypeError("a mistake in the code")

    with pytest.raises(TypeError):
        run_recipe(main)
