"""Three steps and one forward pass of every preset, and of every part that no preset uses, against numbers on file.

A change that is meant to leave the program as it is leaves these. One that is meant to change it writes them anew:
`python tests/train/test_pinned.py`, and says so.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, load_preset, preset_names, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.data.synthetic import SyntheticConfig, write_world
from mdrec_jax.models.api import encode_batch
from mdrec_jax.models.bsarec import BsarecConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.config import PrecisionConfig
from mdrec_jax.train.setup import Setup
from mdrec_jax.types import Rows

FILE = Path(__file__).with_name("pinned.json")
STEPS = 3
TOLERANCE = 2e-5
"""Relative: of another machine's order of sums. On one machine the numbers are equal to the bit."""
QUICK = ("beauty", "mdrec")


def of_preset(name: str) -> RunConfig:
    return small(load_preset(name, smoke=True))


def small(run: RunConfig) -> RunConfig:
    """The run on few and short rows, on one device, in float32."""
    run = replace(
        run,
        batching={"rows": 4, "row_length": 64, "max_length": 24},
        train={"epochs": 0.0, "steps": STEPS},
        cooccurrence={"weight": 0.0},
        precision=PrecisionConfig("float32"),
        hardware=MeshConfig(1),
    )
    return replace(run, model=shrunk(run.model))


def shrunk(model: Any) -> dict[str, Any]:
    match model:
        case RecommenderConfig():
            return {"dim": 16, "attention_window": 8 if model.attention_window < 50 else 24}
        case BsarecConfig():
            return {"dim": 16, "attention_window": 24}
        case _:
            return {"dim": 16}


def parts() -> RunConfig:
    """Everything that adds to the scored state, and the contrasts of it."""
    return replace(
        of_preset("mdrec"),
        model={
            "layers": 1,
            "heads": 2,
            "domain_embedding": True,
            "event_embedding": True,
            "date_days": 30.0,
            "loop": {"max_steps": 3, "rank": 2},
            "learned_memory": {"local": 4, "shared": 3},
            "mixers": {"kinds": ("attention", "convolution", "context")},
            "experts": {"per_width": 1},
        },
        objectives={
            "contrastive": {"intra": 0.1, "inter": 0.1},
            "taxonomy": {"weight": 0.1},
            "transfer": {"weight": 0.2},
        },
    )  # fmt: skip


def codes() -> RunConfig:
    """Every loss of the codes, and the contrast that allows for noise."""
    return replace(
        of_preset("disentangled"),
        objectives={
            "contrastive": {"intra": 0.1, "form": "robust"},
            "disentangle": {"shared_alone": 0.5, "mmd": 3.0, "adversary": 0.2},
        },
    )


def sampled() -> RunConfig:
    """Sampled softmax over noisy targets, in two micro-batches."""
    return replace(
        of_preset("quickstart"),
        model={"layers": 2, "heads": 2, "positions": "rotary", "activation": "swiglu", "temperature": 0.0},
        loss={
            "kind": "sampled_softmax", "softmax_over": "target_domain", "negatives": 32, "sampler": "popularity",
            "noise": 0.3,
        },
        optim={"weight_decay": 0.1, "dense": {"clip_norm": 0.5}},
        train={"accumulate": 2},
    )  # fmt: skip


def hstu() -> RunConfig:
    return replace(of_preset("quickstart"), model=HstuConfig(dim=16, layers=2, heads=2, attention_window=24))


RUNS: dict[str, Callable[[], RunConfig]] = {
    **{name: (lambda name=name: of_preset(name)) for name in preset_names()},
    "parts": parts,
    "codes": codes,
    "sampled": sampled,
    "hstu": hstu,
}


def measure(run: RunConfig, world: Path) -> dict[str, Any]:
    """What the steps report, and what the trained parameters make of the batch behind them."""
    setup = Setup.of(run, open_dataset(world))
    state, batches, metrics = setup.initial_state(), setup.batches_from(0), []
    for _ in range(STEPS):
        state, found = setup.train_step(state, next(batches))
        metrics.append(jax.device_get(found))
    params, batch = jax.device_get(state.params), jax.device_get(next(batches))
    h = np.asarray(jax.jit(lambda params, batch: encode_batch(setup.model, params, batch).h)(params, batch))
    rows = {name: Rows(table, {}) for name, table in params.tables.items()}
    vectors = np.asarray(setup.model.scored_items(setup.model.item_vectors(params.dense, rows, None, None)))
    states = h[np.asarray(batch.segment) > 0]
    scores = states @ vectors.T
    return {
        "loss": numbers(step["loss"] for step in metrics),
        "gradient_norm": numbers(step["gradient_norm"] for step in metrics),
        "states": numbers([np.linalg.norm(states), *states[7, :4]]),
        "scores": numbers([np.linalg.norm(scores), *scores[7, 2:6]]),
    }


def numbers(values: Any) -> list[float]:
    """Each as its float32, written to as many digits as tell it from every other."""
    return [float(np.format_float_positional(np.float32(value), unique=True)) for value in values]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RUNS]
)  # fmt: skip
def test_steps_and_scores_are_those_on_file(name: str, small_world: Path) -> None:
    found, expected = measure(RUNS[name](), small_world), json.loads(FILE.read_text())[name]
    assert found.keys() == expected.keys()
    for what, values in found.items():
        np.testing.assert_allclose(values, expected[what], rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "small"
        write_world(SyntheticConfig(users=150, items=260, domains=2, seed=3), world)
        lines = [f'"{name}": {json.dumps(measure(run(), world))}' for name, run in RUNS.items()]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
