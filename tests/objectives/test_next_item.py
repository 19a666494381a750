"""The next-item losses of a batch against their formulas, one target at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.next_item import Candidates, ItemVectors, NextItem, NextItemConfig, corrected, make_objective
from mdrec_jax.parallel.mesh import DATA, MeshConfig, by_row, make_mesh
from mdrec_jax.types import Batch
from tests.models.make import SPEC
from tests.objectives.spread import DEVICES, make_batch

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


def vectors_of(candidates: Candidates) -> ItemVectors:
    """Rows of the table by name."""
    return lambda ids: jnp.asarray(TABLE) if ids is None else jnp.asarray(TABLE)[candidates.all()[ids]]


def made(pools: list[np.ndarray] = OVERLAPPING, **config: Any) -> NextItem:
    return make_objective(NextItemConfig(**config), pools, COUNTS, ROWS)


def computed(objective: NextItem, devices: int = 1) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss of the global batch, each token's, and the negatives: of all, or [R, N] of each row."""
    mesh = make_mesh(MeshConfig(devices))

    def local(states: jax.Array, batch: Batch, weight: jax.Array) -> Any:
        candidates = objective.candidates(batch, jax.random.key(2), DEVICES)
        vectors = vectors_of(candidates)
        loss = objective.loss(vectors, states, batch, weight, candidates)
        negative = candidates.all().get("negative", jnp.zeros(0, jnp.int32))
        return DEVICES.sum(loss), objective.each(vectors, states, batch, candidates), negative

    whole, split = jax.P(), jax.P(DATA)
    out = (whole, split, split if objective.config.kind in ("bce", "gbce") else whole)
    step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(split,) * 3, out_specs=out, check_vma=False))
    loss, each, negatives = jax.device_get(step(*jax.device_put((STATES, BATCH, WEIGHT), by_row(mesh))))
    return float(loss), each.reshape(BATCH.item.shape), negatives


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
    ("kind", "over", "sampler"),
    [
        ("bce", "all", "uniform"),
        ("bce", "target_domain", "in_batch"),
        ("gbce", "target_domain", "popularity"),
        ("gbce", "all", "in_batch"),
    ],
)
def test_binary_losses_count_the_negatives_that_their_row_drew_from_their_pool(
    kind: str, over: str, sampler: str
) -> None:
    objective = made(kind=kind, softmax_over=over, sampler=sampler, negatives=6)
    negatives = computed(objective)[2].reshape(len(BATCH.item), -1, 6)
    assert negatives.shape[1] == (1 if over == "all" else SPEC.num_domains)
    assert len(np.unique(negatives[:, 0], axis=0)) == len(negatives)
    expected = {}
    for place, target, domain, scores in targets():
        pool = 0 if over == "all" else domain
        size = len(np.unique(np.concatenate(OVERLAPPING))) if over == "all" else len(OVERLAPPING[domain])
        rate = 6 / (size - 1)
        beta = rate * (0.75 * (1 - 1 / rate) + 1 / rate) if kind == "gbce" else 1.0
        others = [item for item in negatives[place[0], pool] if item != target]
        total = beta * np.log1p(np.exp(-scores[target])) + np.log1p(np.exp(scores[others])).sum()
        expected[place] = total / (1 + len(others))
    assert_is(objective, expected)
    assert_is(objective, expected, devices=4)


@pytest.mark.parametrize("over", ["all", "target_domain"])
def test_negatives_from_the_batch_are_targets_of_their_pool_and_the_same_everywhere(over: str) -> None:
    objective = made(kind="sampled_softmax", softmax_over=over, sampler="in_batch", negatives=200)
    loss, each, negatives = computed(objective)
    other = computed(objective, devices=4)
    np.testing.assert_array_equal(other[2], negatives)
    np.testing.assert_allclose(other[0], loss, rtol=1e-5)
    np.testing.assert_allclose(other[1], each, rtol=1e-4, atol=1e-5)
    drawn = negatives.reshape(-1, 200)
    for pool, items in enumerate(drawn):
        own = BATCH.weight > 0 if over == "all" else (BATCH.weight > 0) & (BATCH.target_domain == pool)
        assert set(items) == set(BATCH.target[own])
    if over == "target_domain":
        assert (drawn[0] != drawn[1]).mean() > 0.5


def test_a_pool_of_one_item_has_a_calibration_too() -> None:
    """No more than all the others can be negatives, and here there is none."""
    beta = made([np.asarray([2]), np.arange(3, 33)], kind="gbce", softmax_over="target_domain", negatives=3).beta
    np.testing.assert_allclose(beta, [1.0, 0.25 + 0.75 * 3 / 29], rtol=1e-6)


def test_the_whole_softmax_looks_nothing_up_and_samples_look_their_targets_up() -> None:
    batch = jax.tree.map(jnp.asarray, BATCH)
    assert made().candidates(batch, jax.random.key(0), DEVICES) == Candidates({}, {})
    objective = made(kind="sampled_softmax", negatives=4, softmax_over="target_domain")
    found = objective.candidates(batch, jax.random.key(0), DEVICES)
    np.testing.assert_array_equal(found.per_row["target"], BATCH.target)
    assert found.all().keys() == {"target", "negative"}
    assert found.shared["negative"].shape == (4 * SPEC.num_domains,)


@pytest.mark.parametrize("over", ["all", "target_domain"])
@pytest.mark.parametrize("sampler", ["uniform", "popularity", "in_batch"])
def test_a_sampled_softmax_divides_every_item_by_how_often_it_is_drawn(over: str, sampler: str) -> None:
    objective = made(kind="sampled_softmax", softmax_over=over, sampler=sampler, negatives=6)
    negatives = computed(objective)[2].reshape(-1, 6)
    expected = {}
    for place, target, domain, scores in targets():
        pool = 0 if over == "all" else domain
        items = np.unique(np.concatenate(OVERLAPPING)) if over == "all" else OVERLAPPING[domain]
        share = np.full(ROWS, np.nan)
        share[items] = 1.0 if sampler == "uniform" else COUNTS[items] + 1.0
        weight = np.exp(scores) / (share / share[items].sum())
        others = [item for item in negatives[pool] if item != target]
        expected[place] = -np.log(weight[target] / (weight[target] + weight[others].sum()))
    assert_is(objective, expected)


@pytest.mark.parametrize("over", ["all", "target_domain"])
def test_many_corrected_draws_pull_a_state_where_the_full_softmax_does(over: str) -> None:
    """Up to the share that the target has of the full softmax: it is always there, and lost among so many draws."""
    mesh, draws = make_mesh(MeshConfig(1)), 20_000

    def pull(objective: NextItem) -> np.ndarray:
        def local(states: jax.Array, batch: Batch) -> jax.Array:
            candidates = objective.candidates(batch, jax.random.key(2), DEVICES)

            def loss(states: jax.Array) -> jax.Array:
                return objective.loss(vectors_of(candidates), states, batch, jnp.asarray(batch.weight), candidates)

            return jax.grad(loss)(states)

        split = jax.P(DATA)
        step = jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)
        return np.asarray(jax.jit(step)(*jax.device_put((STATES, BATCH), by_row(mesh))))

    full = pull(made(softmax_over=over))
    sampled = pull(made(kind="sampled_softmax", softmax_over=over, sampler="popularity", negatives=draws))
    errors = []
    for place, target, domain, scores in targets():
        items = np.unique(np.concatenate(OVERLAPPING)) if over == "all" else OVERLAPPING[domain]
        missed = 1.0 - np.exp(scores[target]) / np.exp(scores[items]).sum()
        size = np.linalg.norm(full[place])
        errors.append(np.linalg.norm(missed * sampled[place] - full[place]) / size)
    assert np.median(errors) < 0.02


@pytest.mark.parametrize("over", ["all", "target_domain"])
@pytest.mark.parametrize("kind", ["softmax", "sampled_softmax"])
def test_where_the_log_is_noisy_a_share_of_the_targets_may_be_any_candidate(kind: str, over: str) -> None:
    plain = made(kind=kind, softmax_over=over, negatives=8)
    noisy = made(kind=kind, softmax_over=over, negatives=8, noise=0.25)
    everything = np.unique(np.concatenate(OVERLAPPING))
    _, each, _ = computed(plain)
    expected = 0.0
    for place, _, domain, _ in targets():
        number = len(everything if over == "all" else OVERLAPPING[domain]) if kind == "softmax" else 9
        expected += WEIGHT[place] * -np.log(0.75 * np.exp(-each[place]) + 0.25 / number)
    for devices in (1, 4):
        np.testing.assert_allclose(computed(noisy, devices)[0], expected, rtol=1e-5)


def test_allowing_for_noise_has_the_gradient_of_its_value_and_bounds_what_a_hopeless_target_does() -> None:
    with jax.enable_x64(True):
        losses, choices = jnp.linspace(0.01, 8.0, 7), jnp.full(7, 50.0)
        check_grads(lambda loss: corrected(loss, choices, 0.2), (losses,), order=1, modes=["rev"])
    low, high = jax.vmap(jax.grad(lambda loss: corrected(loss[None], jnp.full(1, 50.0), 0.2)[0]))(
        jnp.asarray([0.1, 20.0])
    )
    assert low > 0.9
    assert high < 0.01

    objective = made(noise=0.2)
    candidates, batch = Candidates({}, {}), jax.tree.map(jnp.asarray, BATCH)

    def loss(states: jax.Array) -> jax.Array:
        return objective.loss(vectors_of(candidates), states, batch, jnp.asarray(WEIGHT), candidates)

    def formula(states: jax.Array) -> jax.Array:
        logits = states @ TABLE[np.unique(np.concatenate(OVERLAPPING))].T
        target = jnp.searchsorted(np.unique(np.concatenate(OVERLAPPING)), BATCH.target)
        share = jnp.take_along_axis(jax.nn.softmax(logits), target[..., None], -1)[..., 0]
        return -(WEIGHT * jnp.log(0.8 * share + 0.2 / logits.shape[-1])).sum()

    found, expected = (jax.grad(f)(jnp.asarray(STATES)) for f in (loss, formula))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "noise"), [("gbce", 0.2), ("softmax", 1.0), ("softmax", -0.1)])
def test_noise_that_cannot_be_allowed_for_is_refused(kind: str, noise: float) -> None:
    with pytest.raises(ConfigError, match=r"loss\.noise"):
        NextItemConfig(kind, noise=noise)  # pyright: ignore[reportArgumentType]
