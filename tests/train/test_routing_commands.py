"""Routed layers from the command line: what training tells of them, and `mdrec inspect RUN --routing`."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_BAD_INPUT, EXIT_OK
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.models.layers.loop import LoopConfig
from mdrec_jax.models.layers.mixers import MixersConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.fit import fit
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.setup import Setup
from tests.command import mdrec


@pytest.fixture
def routed_run(small_run: RunConfig) -> RunConfig:
    assert isinstance(small_run.model, RecommenderConfig)
    model = dataclasses.replace(
        small_run.model,
        loop=LoopConfig(max_steps=2),
        mixers=MixersConfig(("attention", "convolution")),
        experts=ExpertsConfig(per_width=1, multiples=(1.0, 4.0)),
    )
    return replace(small_run, model=model, train={"epochs": 0.0, "steps": 12, "evaluate_every": 12.0})


def test_a_routed_run_is_inspected(
    routed_run: RunConfig, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, picture, file = tmp_path / "run", tmp_path / "routing.png", tmp_path / "routing.json"
    fit(routed_run, open_dataset(small_world), RunFolder(run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = next(line for line in reversed(lines) if line["kind"] == "train")
    for gate, choices in routed_run.model.gates.items():
        assert sum(told[f"mixed/{gate}/{name}"] for name in choices) == pytest.approx(1.0, rel=1e-5)
        assert 0 < told[f"mixed/{gate}_entropy"] <= 1
    assert 1 < told["mixed/loops"] < 2
    assert mdrec("inspect", run) == EXIT_OK
    assert "mixed/mixers/attention" in capsys.readouterr().out

    assert mdrec("inspect", run, "--routing", "--at-most", "40", "--json", file, "--plot", picture) == EXIT_OK
    out = capsys.readouterr().out
    for text in ("mean loops by history length", "shares of mixers", "shares of experts", "convolution", "4x"):
        assert text in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    routing = json.loads(file.read_text())
    assert routing["queries"] == 40
    rows = routing["rows"]
    for layout in ({"domain"}, {"event"}, {"gap"}, {"history"}, {"domain", "history"}):
        mine = [row for row in rows if set(row["where"]) == layout and row["what"] == "mixers"]
        assert sum(row["events"] for row in mine) == routing["events"]
        assert all(sum(row["mean"].values()) == pytest.approx(1.0, rel=1e-5) for row in mine)
    overall = [
        np.average([row["mean"]["loops"] for row in mine], weights=[row["events"] for row in mine])
        for by in ("domain", "gap")
        if (mine := [row for row in rows if set(row["where"]) == {by} and row["what"] == "loops"])
    ]
    assert overall[0] == pytest.approx(overall[1], rel=1e-6)


def test_what_training_tells_does_not_depend_on_how_the_rows_are_spread(
    routed_run: RunConfig, small_world: Path
) -> None:
    seen = []
    for spread in ({"hardware": MeshConfig(1)}, {"hardware": MeshConfig(8)}):
        setup = Setup.of(replace(routed_run, **spread), open_dataset(small_world))
        _, metrics = setup.train_step(setup.initial_state(), next(setup.batches_from(0)))
        seen.append({name: float(value) for name, value in metrics.items()})
    assert seen[0] == pytest.approx(seen[1], rel=1e-4)
    assert sorted(seen[0]) == [
        "experts_router", "gradient_norm", "loss", "mixed/experts/1x", "mixed/experts/4x",
        "mixed/experts_entropy", "mixed/loops", "mixed/mixers/attention", "mixed/mixers/convolution",
        "mixed/mixers_entropy", "mixers_router", "targets",
    ]  # fmt: skip


def test_nothing_to_inspect_is_refused(
    small_run: RunConfig, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit(replace(small_run, train={"epochs": 0.0, "steps": 2}), open_dataset(small_world), RunFolder(run))
    assert mdrec("inspect", run, "--routing") == EXIT_BAD_INPUT
    assert "neither loops nor routers" in capsys.readouterr().err
    assert mdrec("inspect", run, "--plot", tmp_path / "a.png") == EXIT_BAD_INPUT
    assert "--routing" in capsys.readouterr().err
