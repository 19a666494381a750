"""A sweep tries what it is told to, by validation alone, and refuses before it trains."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mdrec_jax.cli.main import parse
from mdrec_jax.cli.train import configure
from mdrec_jax.config import RunConfig, load_preset
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_BAD_INPUT, ConfigError, NonFiniteError
from mdrec_jax.experiments import runs
from mdrec_jax.experiments.config_fields import value_of, with_fields
from mdrec_jax.experiments.sweep import flags, make_trials, parse_field, sweep
from tests.command import mdrec

PRESET = """
import json
from mdrec_jax.config import RunConfig

def config():
    return RunConfig.from_plain(json.loads({text!r}))
"""


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("model.dim=64,128", "model.dim", [64, 128]),
        ("optim.dense.learning-rate=1e-3, 2e-3", "optim.dense.learning_rate", [1e-3, 2e-3]),
        ("optim.schedule.kind=linear,cosine", "optim.schedule.kind", ["linear", "cosine"]),
        ("model.experts.multiples=(1.0,2.0),[4.0]", "model.experts.multiples", [(1.0, 2.0), [4.0]]),
        ("model.remat=true,False,none", "model.remat", [True, False, None]),
    ],
)
def test_a_field_and_its_values_are_read(text: str, name: str, values: list[Any]) -> None:
    assert parse_field(text) == (name, values)


@pytest.mark.parametrize("text", ["model.dim", "=3", "model.dim=", "model.dim=3,,4"])
def test_what_is_no_field_with_values_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        parse_field(text)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("modle.dim", 3, "one of: batching"),
        ("model.dimm", 3, "model.dimm"),
        ("model.dim.more", 3, "model.dim has no fields"),
        ("model.loop", 3, "model.loop.max_steps"),
        ("model.class", "RecommenderConfig", "no such field"),
        ("model.dim", "wide", "a whole number"),
        ("model.dim", -3, ">= 1"),
        ("model.positions", "relative", "rotary"),
        ("optim.dense.learning_rate", True, "a number"),
    ],
)
def test_a_wrong_name_or_value_is_named(name: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_fields(load_preset("mdrec"), {name: value})


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("model.dimm=8,16", "model.dimm"),
        ("model.dim=8,wide", "whole number"),
        ("model.dim=8,9", "heads"),
        ("seed=1,2", "--seeds"),
        ("train.metric=mrr,hr@10", "one metric"),
    ],
)
def test_a_sweep_with_one_wrong_value_does_not_begin(
    field: str, said: str, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, two_heads = tmp_path / "out", ("--model.heads", "2")
    given = ("sweep", "quickstart", "--data", small_world, "--out", out, "--field", field, *two_heads)
    assert mdrec(*given) == EXIT_BAD_INPUT
    assert said in capsys.readouterr().err
    assert mdrec(*given[:-4], "--field", "model.dim=8,16", "--trials", "some") == EXIT_BAD_INPUT
    assert "--trials" in capsys.readouterr().err
    assert not out.exists()


def test_trials_are_all_combinations_or_some_of_them(short_run: RunConfig, small_world: Path) -> None:
    fields = {"model.dim": [8, 16], "optim.dense.learning_rate": [1, 2e-3, 3e-3]}
    dataset = open_dataset(small_world)
    grid = make_trials(short_run, fields, dataset)
    assert [tuple(trial.values.values()) for trial in grid] == [(d, r) for d in (8, 16) for r in (1.0, 2e-3, 3e-3)]
    assert all(value_of(t.config, name) == v for t in grid for name, v in t.values.items())
    some = make_trials(short_run, fields, dataset, number=4)
    assert len({trial.folder for trial in some}) == 4
    assert {trial.folder for trial in some} < {trial.folder for trial in grid}
    assert some == make_trials(short_run, fields, dataset, number=4)


def test_flags_say_what_the_values_say() -> None:
    values = {"model.dim": 32, "model.remat": True, "model.views.in_domain": True}
    values |= {"model.experts.multiples": [1.0, 2.0], "optim.schedule.kind": "cosine"}
    args = parse(["train", "mdrec", *flags(values)])
    assert args is not None
    assert configure(args) == with_fields(load_preset("mdrec"), values)


def test_the_best_by_validation_comes_first_and_the_test_split_is_never_asked(
    short_run: RunConfig,
    small_world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preset, out = tmp_path / "mine.py", tmp_path / "out"
    preset.write_text(PRESET.format(text=json.dumps(short_run.to_plain())))
    given = ("sweep", preset, "--data", small_world, "--out", out, "--field", "optim.dense.learning_rate=1e38,1e-3")
    assert mdrec(*given) == 0
    shown = capsys.readouterr().out
    record = json.loads((out / "sweep.json").read_text())
    good, bad = record["trials"]
    assert good["values"] == {"optim.dense.learning_rate": 1e-3}
    assert [row["domain"] for row in good["validation"]][-2:] == ["all", "macro"]
    assert "nan" in bad["failure"]
    assert "not finite" in shown
    assert {path.name for path in out.glob("trial-*/seed-0/evaluation/*.json")} == {"validation-full.json"}
    command = shown.strip().splitlines()[-1]
    assert command == record["command"]
    args = parse(shlex.split(command)[1:])
    assert args is not None
    assert configure(args) == with_fields(short_run, good["values"])

    def fit(config: RunConfig, *given: Any, **named: Any) -> None:
        assert config.optim.dense.learning_rate > 1, "trained again"
        raise NonFiniteError("the loss is nan")

    monkeypatch.setattr(runs, "fit", fit)
    assert mdrec(*given) == 0
    assert capsys.readouterr().out == shown
    trials = make_trials(short_run, {"optim.dense.learning_rate": [1e38]}, open_dataset(small_world))
    with pytest.raises(NonFiniteError, match="no trial"):
        sweep(trials, open_dataset(small_world), out, (0,))
