"""The contrast of items over the tree of categories, against its formula one pair at a time."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from jax.test_util import check_grads

from mdrec_jax.data.dataset import category_numbers
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.objectives import taxonomy
from mdrec_jax.objectives.taxonomy import TaxonomyConfig, items_of, taxonomy_loss
from mdrec_jax.parallel.mesh import DATA, MeshConfig, make_mesh
from mdrec_jax.types import Batch
from tests.data.make import make_dataset, numbered
from tests.objectives.spread import DEVICES, make_batch, spread

PATHS = np.asarray(
    [(1, 4, 9), (1, 4, 9), (1, 4, 10), (1, 4, 10), (1, 5, 11), (2, 6, 12), (2, 6, 0), (2, 0, 0), (0, 0, 0), (1, 4, 9)],
    np.int32,
)
REAL = np.arange(len(PATHS)) != 9
VECTORS = np.random.default_rng(0).standard_normal((len(PATHS), 5)).astype(np.float32)


def expected_loss(config: TaxonomyConfig) -> float:
    paths, z = PATHS[:, : config.levels], VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    items = [i for i in range(len(paths)) if REAL[i] and paths[i, 0]]
    total, finest = 0.0, 0.0
    for level in range(config.levels, 0, -1):
        losses = []
        for i in items:
            scores = {a: float(z[i] @ z[a]) / taxonomy.TEMPERATURE for a in items if a != i}
            partners = [a for a in scores if ((paths[i] == paths[a]) & (paths[i] > 0)).sum() == level]
            if partners:
                whole = math.log(sum(math.exp(score) for score in scores.values()))
                losses.append(np.mean([whole - scores[a] for a in partners]))
        loss = finest = max(float(np.mean(losses)), finest)
        total += math.exp(1 / (config.levels - level + 1)) * loss
    return total / config.levels


def loss_of(config: TaxonomyConfig, vectors: Any) -> jax.Array:
    return taxonomy_loss(config, vectors, jnp.asarray(PATHS[:, : config.levels]), jnp.asarray(REAL))


@pytest.mark.parametrize("levels", [3, 2])
def test_the_loss_is_its_formula(levels: int) -> None:
    config = TaxonomyConfig(levels=levels)
    np.testing.assert_allclose(loss_of(config, VECTORS), expected_loss(config), rtol=1e-5)


def test_gradients_are_those_of_differences_in_float64() -> None:
    with jax.enable_x64(True):
        vectors = jnp.asarray(VECTORS, jnp.float64)
        config = TaxonomyConfig()
        check_grads(jax.jit(lambda vectors: loss_of(config, vectors)), (vectors,), order=1, modes=["rev"], rtol=1e-4)


def test_what_does_not_count_gets_no_gradient() -> None:
    moved = jnp.any(jax.grad(lambda v: loss_of(TaxonomyConfig(), v))(VECTORS) != 0, axis=-1)
    np.testing.assert_array_equal(moved, REAL & (PATHS[:, 0] > 0))


def test_items_without_partners_cost_nothing() -> None:
    alone = jnp.asarray(np.arange(30).reshape(10, 3) + 1, jnp.int32)
    value, gradient = jax.value_and_grad(
        lambda v: taxonomy_loss(TaxonomyConfig(), v, alone, jnp.asarray(REAL))
    )(VECTORS)  # fmt: skip
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("most", [12, 500])
def test_the_first_different_targets_are_compared_on_any_number_of_devices(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taxonomy, "ITEMS", most)
    batch = make_batch()
    targets = batch.target[batch.weight > 0].tolist()
    expected = list(dict.fromkeys(targets))[:most]

    def marked(scale: jax.Array, batch: Batch) -> jax.Array:
        items = items_of(batch, DEVICES)
        return jnp.sum(items * jnp.arange(1, len(items) + 1)) / jax.lax.axis_size(DATA) + 0.0 * scale.sum()

    for devices in (1, 4):
        found, _ = spread(marked, np.zeros((8, 1), np.float32), batch, devices=devices)
        assert found == sum(item * place for place, item in enumerate(expected, start=1))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([7] * 6, [7, 0, 0, 0]),
        ([9, 4, 9, 4, 2, 2], [9, 4, 2, 0]),
        ([5, 6, 7, 8, 9, 3], [5, 6, 7, 8]),
        ([0] * 6, [0] * 4),
    ],
)
def test_a_batch_may_hold_nothing_but_targets_or_one_again_and_again(
    targets: list[int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taxonomy, "ITEMS", 4)
    target = np.asarray(targets, np.int32).reshape(2, 3)
    batch = dataclasses.replace(make_batch(), target=target, weight=(target > 0).astype(np.float32))
    whole = jax.shard_map(
        lambda target, weight: items_of(dataclasses.replace(batch, target=target, weight=weight), DEVICES),
        mesh=make_mesh(MeshConfig(1)), in_specs=jax.P(), out_specs=jax.P(), check_vma=False,
    )  # fmt: skip
    assert jax.jit(whole)(batch.target, batch.weight).tolist() == expected


def test_categories_are_numbered_by_their_whole_path(tmp_path: Path) -> None:
    rows = [(user, item, domain, time) for user, item, domain, time in numbered(6, 6, 6, ("a", "b"))]
    paths = {
        "i0": ["x", "y", "z"],
        "i2": ["x", "y"],
        "i4": ["w", "y", "z"],
        "i1": ["x", "y", "z"],
        "i3": [],
        "i5": None,
    }
    items = {
        domain: pl.DataFrame(
            {"item": names, "category": [paths[name] for name in names]},
            schema={"item": pl.String, "category": pl.List(pl.String)},
        )
        for domain, names in (("a", ["i0", "i2", "i4"]), ("b", ["i1", "i3", "i5"]))
    }
    dataset = make_dataset(tmp_path / "data", rows, items=items)
    found = category_numbers(dataset, 3)
    i0, i2, i4 = found[dataset.lookup_items(["i0", "i2", "i4"], ["a"] * 3)]
    i1, i3, i5 = found[dataset.lookup_items(["i1", "i3", "i5"], ["b"] * 3)]
    np.testing.assert_array_equal(i0, i1)
    assert i0.all()
    np.testing.assert_array_equal(i2, [i0[0], i0[1], 0])
    assert not (i4 == i0).any()
    assert not np.any([i3, i5, *found[:2]])
    with pytest.raises(InputError, match="no categories"):
        category_numbers(make_dataset(tmp_path / "bare", rows), 3)


@pytest.mark.parametrize(("field", "value"), [("weight", -1.0), ("levels", 0)])
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"objectives\.taxonomy\.{field}"):
        TaxonomyConfig(**{field: value})
