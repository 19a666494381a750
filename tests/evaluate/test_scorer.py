"""What a scorer gives: states, codes and vectors of items, of a model worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.csr import Csr
from mdrec_jax.errors import InputError, NonFiniteError
from mdrec_jax.evaluate.scorer import AHEAD, Scorer, competing, item_matrix, make_scorer, place_items, states
from mdrec_jax.models.api import Model
from mdrec_jax.parallel.mesh import MeshConfig, make_mesh
from mdrec_jax.train.step import initial_params
from mdrec_jax.types import Batch, Queries
from tests.models.make import SPEC
from tests.models.plain import Plain
from tests.objectives.spread import make_batch

MODEL = cast(Model, Plain())
PARAMS = initial_params(MODEL, 0)
BATCHING = BatchingConfig(rows=8, row_length=32, max_length=16)


def scorer_on(devices: int = 1, **fields: Any) -> Scorer:
    return replace(make_scorer(MODEL, PARAMS, BATCHING, mesh=make_mesh(MeshConfig(devices))), **fields)


class Source:
    """Batches that ask for every token, the last one first; every third place for a query is empty."""

    def __init__(self, number: int = 1) -> None:
        self.number, self.taken = number, []

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, number: int) -> tuple[Batch, Queries]:
        self.taken.append(number)
        batch = make_batch(number)
        row, column = (places[::-1] for places in np.nonzero(batch.segment))
        size = 3 * len(row) // 2
        at = np.flatnonzero(np.arange(size) % 3 != 2)
        query = np.full(size, -1, np.int32)
        query[at] = 1000 * number + np.arange(len(row))
        rows, columns = (np.zeros(size, np.int32) for _ in range(2))
        rows[at], columns[at] = row, column
        return batch, Queries(rows, columns, query, rows, rows, rows, query)


def expected(number: int) -> np.ndarray:
    batch = make_batch(number)
    row, column = (places[::-1] for places in np.nonzero(batch.segment))
    return np.asarray(PARAMS.tables["item"])[batch.item[row, column]] * np.asarray(PARAMS.dense["scale"]) + np.asarray(
        PARAMS.statistics["shift"]
    )


@pytest.mark.parametrize("devices", [1, 4])
def test_states_are_those_of_the_tokens_that_are_queried(devices: int) -> None:
    ((query, state),) = states(scorer_on(devices), cast(Any, Source()))
    np.testing.assert_array_equal(query, np.arange(len(expected(0))))
    assert query.dtype == np.int64
    np.testing.assert_allclose(state, expected(0), rtol=1e-5)


def test_a_few_batches_are_packed_ahead_and_none_is_lost() -> None:
    source = Source(AHEAD + 3)
    found = states(scorer_on(), cast(Any, source))
    for number in range(len(source)):
        query, state = next(found)
        assert source.taken == list(range(min(len(source), number + AHEAD + 1)))
        assert query[0] == 1000 * number
        np.testing.assert_allclose(state, expected(number), rtol=1e-5)
    assert next(found, None) is None


def test_codes_are_chosen_by_name() -> None:
    ((_, half),) = states(scorer_on(), cast(Any, Source()), "shared")
    np.testing.assert_allclose(half, expected(0) / 2, rtol=1e-5)
    with pytest.raises(InputError, match="no code 'whitened'") as error:
        next(states(scorer_on(), cast(Any, Source()), "whitened"))
    assert "h, shared, specific" in str(error.value)


def test_activations_have_the_scorers_type_and_states_are_float32() -> None:
    ((_, state),) = states(scorer_on(dtype=jnp.bfloat16), cast(Any, Source()))
    assert state.dtype == np.float32
    np.testing.assert_array_equal(state, jnp.asarray(expected(0)).astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("place", [0, -1])
def test_one_number_that_is_none_is_enough_to_refuse(place: int) -> None:
    params = replace(PARAMS, statistics={"shift": PARAMS.statistics["shift"].at[place].set(jnp.nan)})
    with pytest.raises(NonFiniteError, match="diverged"):
        next(states(scorer_on(params=params), cast(Any, Source())))


def test_a_scorer_is_on_one_device_unless_it_is_given_a_mesh() -> None:
    assert make_scorer(MODEL, PARAMS, BATCHING).mesh.devices.size == 1
    mesh = make_mesh(MeshConfig(2))
    scorer = make_scorer(MODEL, PARAMS, BATCHING, mesh=mesh, dtype=jnp.bfloat16, cooccurrence=cast(Any, "bonus"))
    assert (scorer.mesh, scorer.dtype, scorer.cooccurrence) == (mesh, jnp.bfloat16, "bonus")
    assert scorer.params.tables["item"].sharding.device_set == set(mesh.devices.flat)


@pytest.mark.parametrize(
    ("rows", "length", "devices", "found"), [(400, 100, 1, 24), (3, 100, 1, 3), (400, 5000, 1, 1), (400, 900, 8, 8)]
)
def test_a_batch_on_a_cpu_has_few_tokens(rows: int, length: int, devices: int, found: int) -> None:
    batching = BatchingConfig(rows=rows, row_length=length, max_length=10)
    assert scorer_on(devices, batching=batching).rows == found
    elsewhere = SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu")]), shape={"data": 1})
    assert scorer_on(batching=batching, mesh=elsewhere).rows == rows


def test_whether_the_querys_time_is_seen_is_the_models_own_word() -> None:
    for seen in (True, False):
        model = SimpleNamespace(config=SimpleNamespace(query_time_visible=seen))
        assert scorer_on(model=model).sees_query_time is seen
    assert scorer_on().sees_query_time is False


ITEMS = np.array([3, 4, 9, 17, 38])


def test_a_universe_knows_the_rows_of_its_items() -> None:
    universe = place_items(scorer_on(), ITEMS, SPEC.num_items)
    np.testing.assert_array_equal(universe.ids, [0, *ITEMS])
    np.testing.assert_array_equal(np.flatnonzero(universe.place), ITEMS)
    np.testing.assert_array_equal(universe.ids[universe.place[ITEMS]], ITEMS)
    np.testing.assert_array_equal(universe.vectors, np.asarray(PARAMS.tables["item"])[universe.ids])
    assert int(universe.count) == len(ITEMS)
    np.testing.assert_array_equal(competing(universe.vectors, universe.count), [[False] + [True] * 5])
    lists = Csr(np.array([0, 3, 3, 5]), np.array([9, 2, 3, 38, 39]))
    places = universe.places(lists)
    np.testing.assert_array_equal(places.offsets, [0, 2, 2, 3])
    np.testing.assert_array_equal(places.values, [3, 1, 5])


@pytest.mark.parametrize(
    ("items", "rows"), [(1, 6), (5, 6), (6, 8), (7, 8), (8, 12), (11, 12), (12, 16), (15, 16), (16, 24), (24, 32)]
)
def test_many_universes_share_a_few_lengths(items: int, rows: int) -> None:
    chosen = np.arange(2, 2 + items)
    for domains, length in ((1, items + 1), (4, items + 1), (5, rows)):
        universe = place_items(scorer_on(), chosen, SPEC.num_items, domains=domains)
        assert universe.vectors.shape[0] == length
        np.testing.assert_array_equal(universe.ids[: items + 1], [0, *chosen])
        assert not universe.ids[items + 1 :].any()
        mask = np.asarray(competing(universe.vectors, universe.count))[0]
        np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(1, items + 1))


def test_vectors_of_items_are_the_same_on_every_mesh() -> None:
    one, many = (item_matrix(scorer_on(devices), ITEMS) for devices in (1, 8))
    np.testing.assert_array_equal(one, np.asarray(PARAMS.tables["item"])[ITEMS])
    np.testing.assert_array_equal(one, many)
    assert one.dtype == jnp.float32


def test_two_scorers_of_a_model_share_what_is_compiled() -> None:
    """The parameters are arguments of it: those of the second are used."""
    other = jax.tree.map(lambda array: array + 1, PARAMS)
    np.testing.assert_array_equal(item_matrix(scorer_on(params=other), ITEMS), np.asarray(other.tables["item"])[ITEMS])
