"""The next-item losses of a batch against their formulas, one target at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.denoise import DenoiseConfig
from mdrec_jax.objectives.next_item import Candidates, NextItem, NextItemConfig, make_objective
from mdrec_jax.parallel.mesh import DATA, MeshConfig, by_row, make_mesh
from mdrec_jax.types import Batch, Encoded
from tests.models.make import SPEC
from tests.objectives.spread import make_batch

BATCH = make_batch()
ROWS = 48
"""Of the table: more than there are items."""
TABLE = np.random.default_rng(3).standard_normal((ROWS, 5)).astype(np.float32)
STATES = np.random.default_rng(4).standard_normal((*BATCH.item.shape, 5)).astype(np.float32)
WEIGHT = BATCH.weight * np.random.default_rng(5).random(BATCH.weight.shape).astype(np.float32)
COUNTS = np.random.default_rng(6).integers(0, 30, SPEC.num_items)
DOMAINS = [np.arange(2 + domain, SPEC.num_items, SPEC.num_domains) for domain in range(SPEC.num_domains)]
# Targets of any domain are asked for, so every domain has every item that a target of the batch is.
OVERLAPPING = [np.union1d(items, np.unique(BATCH.target[BATCH.weight > 0])) for items in DOMAINS]


class Table:
    """The part of a model that the loss calls; its rows are ids."""

    def item_vectors(self, dense: Any, rows: Any, name: str | None) -> jax.Array:
        del dense
        return jnp.asarray(TABLE) if name is None else jnp.asarray(TABLE)[rows[name]]


def made(pools: list[np.ndarray] = OVERLAPPING, **config: Any) -> NextItem:
    return make_objective(NextItemConfig(**config), pools, COUNTS, ROWS)


def computed(objective: NextItem, devices: int = 1) -> tuple[float, np.ndarray, dict[str, np.ndarray]]:
    """The loss of the global batch, each token's, and the negatives."""
    mesh = make_mesh(MeshConfig(devices))

    def local(states: jax.Array, batch: Batch, weight: jax.Array) -> Any:
        candidates = objective.candidates(batch, jax.random.key(2), DATA)
        rows, encoded = candidates.all(), Encoded(states, {}, {})
        step = jnp.asarray(3, jnp.int32)
        loss = objective.loss(Table(), None, rows, encoded, batch, weight, candidates, step, DATA)
        return (
            jax.lax.psum(loss, DATA),
            objective.each(Table(), None, rows, encoded, batch, candidates),
            candidates.shared,
        )

    whole, split = jax.P(), jax.P(DATA)
    out = (whole, split, whole)
    step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(split,) * 3, out_specs=out, check_vma=False))
    loss, each, shared = jax.device_get(step(*jax.device_put((STATES, BATCH, WEIGHT), by_row(mesh))))
    return float(loss), each.reshape(BATCH.item.shape), shared


def targets() -> list[tuple[tuple[int, int], int, int, np.ndarray]]:
    """Place, target, domain asked for, and the scores of all rows."""
    places = [tuple(place) for place in np.argwhere(BATCH.weight > 0)]
    return [(place, BATCH.target[place], BATCH.target_domain[place], TABLE @ STATES[place]) for place in places]


def assert_is(objective: NextItem, expected: dict[tuple[int, int], float], devices: int = 1) -> None:
    loss, each, _ = computed(objective, devices)
    np.testing.assert_allclose(loss, sum(WEIGHT[place] * value for place, value in expected.items()), rtol=2e-5)
    for place, value in np.ndenumerate(each):
        np.testing.assert_allclose(value, expected.get(place, 0.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("over", ["all", "target_domain"])
@pytest.mark.parametrize("domains", [3, 20], ids=["few pools", "a mask"])
def test_the_softmax_runs_over_the_catalogue_or_the_targets_domain(over: str, domains: int) -> None:
    pools = OVERLAPPING + [np.asarray([5, 7])] * (domains - 3)
    everything = np.unique(np.concatenate(pools))
    expected = {
        place: np.log(np.exp(scores[everything if over == "all" else pools[domain]]).sum()) - scores[target]
        for place, target, domain, scores in targets()
    }
    assert_is(made(pools, softmax_over=over), expected)


@pytest.mark.parametrize(
    ("kind", "calibration", "over", "sampler"),
    [
        ("bce", 0.75, "all", "uniform"), ("bce", 0.75, "target_domain", "in_batch"),
        ("gbce", 0.75, "target_domain", "popularity"), ("gbce", 1.0, "all", "in_batch"),
        ("gbce", 0.0, "all", "uniform"),
    ],
)  # fmt: skip
def test_binary_losses_count_the_negatives_of_their_pool(
    kind: str, calibration: float, over: str, sampler: str
) -> None:
    objective = made(kind=kind, softmax_over=over, sampler=sampler, negatives=6, calibration=calibration)
    negatives = computed(objective)[2]["negative"].reshape(-1, 6)
    assert len(negatives) == (1 if over == "all" else SPEC.num_domains)
    expected = {}
    for place, target, domain, scores in targets():
        pool = 0 if over == "all" else domain
        size = len(np.unique(np.concatenate(OVERLAPPING))) if over == "all" else len(OVERLAPPING[domain])
        rate = 6 / (size - 1)
        beta = rate * (calibration * (1 - 1 / rate) + 1 / rate) if kind == "gbce" else 1.0
        others = [item for item in negatives[pool] if item != target]
        total = beta * np.log1p(np.exp(-scores[target])) + np.log1p(np.exp(scores[others])).sum()
        expected[place] = total / (1 + len(others))
    assert_is(objective, expected)


@pytest.mark.parametrize("over", ["all", "target_domain"])
def test_negatives_from_the_batch_are_targets_of_their_pool_and_the_same_everywhere(over: str) -> None:
    objective = made(kind="sampled_softmax", softmax_over=over, sampler="in_batch", negatives=200)
    loss, each, shared = computed(objective)
    other = computed(objective, devices=4)
    np.testing.assert_array_equal(other[2]["negative"], shared["negative"])
    np.testing.assert_allclose(other[0], loss, rtol=1e-5)
    np.testing.assert_allclose(other[1], each, rtol=1e-4, atol=1e-5)
    drawn = shared["negative"].reshape(-1, 200)
    for pool, items in enumerate(drawn):
        own = BATCH.weight > 0 if over == "all" else (BATCH.weight > 0) & (BATCH.target_domain == pool)
        assert set(items) == set(BATCH.target[own])
    if over == "target_domain":
        assert (drawn[0] != drawn[1]).mean() > 0.5


def test_a_pool_of_one_item_has_a_calibration_too() -> None:
    """No more than all the others can be negatives, and here there is none."""
    beta = made(
        [np.asarray([2]), np.arange(3, 33)], kind="gbce", softmax_over="target_domain", negatives=3, calibration=1.0
    ).beta
    np.testing.assert_allclose(beta, [1.0, 3 / 29], rtol=1e-6)


def test_the_whole_softmax_looks_nothing_up_and_samples_look_their_targets_up() -> None:
    batch = jax.tree.map(jnp.asarray, BATCH)
    assert made().candidates(batch, jax.random.key(0), DATA) == Candidates({}, {})
    found = made(kind="bce", negatives=4, softmax_over="target_domain").candidates(batch, jax.random.key(0), DATA)
    np.testing.assert_array_equal(found.per_row["target"], BATCH.target)
    assert found.all().keys() == {"target", "negative"}
    assert found.shared["negative"].shape == (4 * SPEC.num_domains,)


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("over", ["all", "target_domain"])
@pytest.mark.parametrize("sampler", ["uniform", "popularity", "in_batch"])
def test_a_sampled_softmax_divides_every_item_by_how_often_it_is_drawn(correct: bool, over: str, sampler: str) -> None:
    objective = made(kind="sampled_softmax", softmax_over=over, sampler=sampler, negatives=6, correct=correct)
    negatives = computed(objective)[2]["negative"].reshape(-1, 6)
    expected = {}
    for place, target, domain, scores in targets():
        pool = 0 if over == "all" else domain
        items = np.unique(np.concatenate(OVERLAPPING)) if over == "all" else OVERLAPPING[domain]
        share = np.full(ROWS, np.nan)
        share[items] = 1.0 if sampler == "uniform" else COUNTS[items] + 1.0
        weight = np.exp(scores) / (share / share[items].sum() if correct else 1.0)
        others = [item for item in negatives[pool] if item != target]
        expected[place] = -np.log(weight[target] / (weight[target] + weight[others].sum()))
    assert_is(objective, expected)


@pytest.mark.parametrize("over", ["all", "target_domain"])
def test_many_corrected_draws_pull_a_state_where_the_full_softmax_does(over: str) -> None:
    """Up to the share that the target has of the full softmax: it is always there, and lost among so many draws."""
    mesh, draws = make_mesh(MeshConfig(1)), 20_000

    def pull(objective: NextItem) -> np.ndarray:
        def local(states: jax.Array, batch: Batch) -> jax.Array:
            candidates, step = objective.candidates(batch, jax.random.key(2), DATA), jnp.int32(0)

            def loss(states: jax.Array) -> jax.Array:
                seen = (candidates.all(), Encoded(states, {}, {}), batch, batch.weight, candidates, step, DATA)
                return objective.loss(Table(), None, *seen)

            return jax.grad(loss)(states)

        split = jax.P(DATA)
        step = jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)
        return np.asarray(jax.jit(step)(*jax.device_put((STATES, BATCH), by_row(mesh))))

    full = pull(made(softmax_over=over))
    sampled, raw = (
        pull(made(kind="sampled_softmax", softmax_over=over, sampler="popularity", negatives=draws, correct=correct))
        for correct in (True, False)
    )
    errors = []
    for place, target, domain, scores in targets():
        items = np.unique(np.concatenate(OVERLAPPING)) if over == "all" else OVERLAPPING[domain]
        missed = 1.0 - np.exp(scores[target]) / np.exp(scores[items]).sum()
        size = np.linalg.norm(full[place])
        errors.append([np.linalg.norm(missed * x[place] - full[place]) / size for x in (sampled, raw)])
    corrected, uncorrected = np.median(errors, axis=0)
    assert corrected < 0.02
    assert uncorrected > 5 * corrected


@pytest.mark.parametrize("kind", ["softmax", "sampled_softmax", "bce", "gbce"])
def test_a_mixture_needs_a_softmax(kind: Any) -> None:
    mixture = DenoiseConfig(robust="mixture")
    if "softmax" in kind:
        assert NextItemConfig(kind, denoise=mixture).denoise == mixture
    else:
        with pytest.raises(ConfigError, match=f"mixture with {kind}"):
            NextItemConfig(kind, denoise=mixture)
