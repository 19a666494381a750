"""Fields on a command line: both forms everywhere, what `--show` prints can be given back, near misses are named."""

import shlex
from pathlib import Path

import pytest

from mdrec_jax.cli.fields import apply, describe_fields, show_fields, split_off_fields
from mdrec_jax.codec import flatten, to_plain
from mdrec_jax.config import RunConfig, field_names, load_preset, preset_names, replace
from mdrec_jax.errors import ConfigError
from mdrec_jax.experiments.config_fields import with_fields
from tests.command import mdrec

OWN = {"--data", "--seeds", "--smoke"}


def given(base: RunConfig, *words: str) -> RunConfig:
    rest, fields, raw = split_off_fields(words, OWN)
    assert rest == []
    assert raw == list(words)
    return apply(base, fields)


@pytest.mark.parametrize("name", preset_names())
def test_what_show_prints_can_be_given_back(name: str) -> None:
    config = load_preset(name, smoke=True)
    lines = show_fields(config)
    words = [word for line in lines for word in shlex.split(line)]
    assert to_plain(given(config, *words)) == to_plain(config)
    changed = replace(config, seed=5, logging={"tensorboard": False}, batching={"horizon": 3})
    for line in show_fields(changed):
        config = given(config, *shlex.split(line))
    assert to_plain(config) == to_plain(changed)


@pytest.mark.parametrize(
    "words",
    [
        "beauty --data d --train.epochs 5 --logging.no-tensorboard --model.mixers.kinds a b",
        "beauty --data=d --train.epochs=5 --logging.tensorboard=False --model.mixers.kinds=a,b",
        "--train.epochs 5 beauty --logging.tensorboard false --model.mixers.kinds a,b --data d",
    ],
)
def test_both_forms_mean_the_same_and_leave_the_other_words_alone(words: str) -> None:
    rest, fields, _ = split_off_fields(words.split(), OWN)
    assert " ".join(rest).replace("=", " ") == "beauty --data d"
    assert [(one.name, one.words) for one in fields if one.name != "logging.tensorboard"] == [
        ("train.epochs", ("5",)),
        ("model.mixers.kinds", ("a", "b")),
    ]
    assert not apply(
        load_preset("mdrec"), [one for one in fields if one.name.startswith("logging")]
    ).logging.tensorboard


def test_values_have_the_fields_types() -> None:
    base = load_preset("mdrec")
    changed = given(base, "--train.epochs=5", "--seed=3", "--model.temperature", "0")
    assert (changed.train.epochs, changed.seed) == (5.0, 3)
    assert given(base, "--cooccurrence.weight", "1e-1").cooccurrence.weight == 0.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--train.lr 3", "--optim.dense.learning-rate"),
        ("--lr 3", "--optim.dense.learning-rate"),
        ("--batch-size 3", "--batching.rows"),
        ("--epochs=3", "--train.epochs"),
        ("--model.hidden-size 3", "--model.dim"),
        ("--train.epoch 3", "--train.epochs"),
        ("--optim.dense.learnin-rate 3", "--optim.dense.learning-rate"),
        ("--dat x", "--data"),
        ("--train.epochs", "needs a value"),
        ("--train.epochs --seed 3", "needs a value"),
        ("--train.no-epochs 3", "no such option"),
        ("--logging.no-tensorboard=1", "takes no value"),
    ],
)
def test_an_option_that_is_none_names_what_it_may_have_meant(words: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_off_fields(words.split(), OWN)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "words", "said"),
    [
        ("gru4rec", ("--model.heads", "2"), "no such option"),
        ("quickstart", ("--model.heads", "3"), "'model.heads': out of range"),
        ("quickstart", ("--train.steps", "1e3"), "a whole number"),
        ("quickstart", ("--loss.kind", "hinge"), "softmax | "),
        ("quickstart", ("--logging.tensorboard=maybe",), "True or False"),
    ],
)
def test_an_error_names_the_field_as_it_is_given(preset: str, words: tuple[str, ...], said: str) -> None:
    base = load_preset(preset)
    with pytest.raises(ConfigError) as caught, field_names(base):
        given(base, *words)
    assert said in str(caught.value)


def test_every_field_has_a_sentence_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mdrec", "beauty"):
        lines = describe_fields(load_preset(name))
        options = [at for at, line in enumerate(lines) if line.startswith("  --")]
        without = [lines[at] for at in options if at + 1 == len(lines) or not lines[at + 1].startswith("      ")]
        assert without == []
    assert mdrec("train", "beauty", "--help") == 0
    out = capsys.readouterr().out
    assert "--train.patience 0\n      validations without a better value after which the run stops" in out
    assert "--resume" in out


def test_an_exception_in_a_preset_names_its_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "syntax.py": ("x = (\ndef config():\n    pass\n", "row 1", "SyntaxError"),
        "name.py": ("def config():\n    return 1 / 0\n", "row 2", "ZeroDivisionError: division by zero"),
        "top.py": ("import os\n\nimport nowhere_at_all\n", "row 3", "ModuleNotFoundError"),
        "field.py": (
            "from mdrec_jax.config import RunConfig\nfrom mdrec_jax.train.config import TrainConfig\n\n"
            "def config():\n    return RunConfig(train=TrainConfig(epochs=-1))\n",
            "row 5",
            "'train.epochs': out of range",
        ),
    }
    for name, (text, row, said) in cases.items():
        path = tmp_path / name
        path.write_text(text)
        assert mdrec("train", path) == 2
        err = capsys.readouterr().err
        assert f"{path}, {row}" in err
        assert said in err
        assert "Traceback" not in err


def test_fields_of_a_sweep_are_suggested_too() -> None:
    with pytest.raises(ConfigError, match=r"optim\.dense\.learning_rate"):
        with_fields(load_preset("quickstart"), {"train.lr": 1})
    assert "model.dim" in flatten(to_plain(load_preset("quickstart")))
