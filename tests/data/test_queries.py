"""What a query may see, where it stands in its batch, and that every query is asked once."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.batching.batches import BatchingConfig, TrainBatches, grain_loader
from mdrec_jax.data.batching.histories import Histories, history_batches
from mdrec_jax.data.batching.queries import query_batches, query_list, training_ends
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.types import UNKNOWN_ITEM
from tests.data.logs import (
    CONTEXT,
    ORIGIN,
    TEST,
    TRAIN,
    VALIDATION,
    assert_padding_is_empty,
    dataset_of,
    datasets,
    latest_in,
    sequences_of,
    token,
)
from tests.data.make import make_dataset, numbered

CONFIG = BatchingConfig(rows=2, row_length=8, max_length=5)
VISIBLE = {"validation": (TRAIN, CONTEXT), "test": (TRAIN, VALIDATION, CONTEXT)}
ROLE = {"validation": VALIDATION, "test": TEST}


def expected_histories(dataset: Dataset, split: str) -> list[tuple[int, int, list[int]]]:
    """(place of the target, user, places of the visible history) of every query, one event at a time."""
    return [
        (place, user, [other for other in places if other < place and dataset.role[other] in VISIBLE[split]])
        for user, places in sequences_of(dataset)
        for place in places
        if dataset.role[place] == ROLE[split]
    ]


@settings(max_examples=100, deadline=None)
@given(dataset=datasets((TRAIN, TRAIN, VALIDATION, TEST, CONTEXT)))
def test_a_training_end_is_the_whole_of_what_training_reads_of_a_sequence(dataset: Dataset) -> None:
    expected = []
    for user, places in sequences_of(dataset):
        trained = [place for place in places if dataset.role[place] == TRAIN]
        if trained:
            seen = [place for place in places if place <= trained[-1] and dataset.role[place] in (TRAIN, CONTEXT)]
            expected.append((user, dataset.domain[trained[-1]], seen))
    ends = training_ends(dataset)
    offsets, places = ends.history_places(np.arange(len(ends)))
    histories = [places[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert list(zip(ends.user, ends.domain, histories, strict=True)) == expected
    assert not ends.target.any()


@pytest.mark.parametrize("query_time", [False, True])
@settings(max_examples=100, deadline=None)
@given(
    dataset=datasets((TRAIN, TRAIN, VALIDATION, TEST, CONTEXT)),
    split=st.sampled_from(["validation", "test"]),
    rows=st.integers(1, 3),
)
def test_every_query_is_asked_once_and_sees_the_end_of_its_history(
    query_time: bool, dataset: Dataset, split: str, rows: int
) -> None:
    expected = expected_histories(dataset, split)
    if not expected:
        with pytest.raises(InputError, match=f"no {split} targets"):
            query_list(dataset, split)
        return
    queries = query_list(dataset, split)
    assert queries.place.tolist() == [place for place, _, _ in expected]
    assert queries.history_length.tolist() == [len(history) for _, _, history in expected]
    source = query_batches(dataset, queries, CONFIG, rows=rows, query_time=query_time)
    assert source.num_queries == len(expected)
    assert source.empty_histories == sum(not history for _, _, history in expected)
    asked = []
    for i in range(len(source)):
        batch, batch_queries = source[i]
        assert batch.item.shape == (rows, CONFIG.row_length)
        assert batch.segment_user.shape == (rows, source.segments)
        assert batch_queries.row.shape == (source.slots,)
        assert (batch.weight == 0).all()
        assert (batch.target == 0).all()
        assert_padding_is_empty(batch)
        for slot in np.flatnonzero(batch_queries.query >= 0).tolist():
            asked.append(int(batch_queries.query[slot]))
            check_query(dataset, queries, batch, batch_queries, slot, expected[asked[-1]], query_time)
        assert (batch_queries.user[batch_queries.query < 0] == -1).all()
    assert sorted(asked) == list(range(len(expected)))


def check_query(dataset, queries, batch, asked, slot, expected, query_time: bool) -> None:
    """The query at a slot stands at the last token of the end of its own visible history."""
    place, user, history = expected
    domain, shown = int(dataset.domain[place]), history[-CONFIG.max_length :]
    row, column = int(asked.row[slot]), int(asked.column[slot])
    segment = batch.segment[row] == batch.segment[row, column]
    columns = np.flatnonzero(segment)
    first = int(columns[0])
    previous = latest_in(dataset, shown, domain)
    previous = previous + first if previous >= 0 else -1
    origin = dataset.manifest.time_origin
    told = int(dataset.time[place]) - origin if query_time and dataset.manifest.has_time else 0
    assert column == columns[-1]
    assert asked.user[slot] == user == batch.segment_user[row, batch.segment[row, column] - 1]
    assert asked.target[slot] == dataset.item[place]
    assert asked.domain[slot] == domain == batch.target_domain[row, column]
    assert asked.previous[slot] == previous == batch.previous_in_target_domain[row, column]
    assert batch.target_time[row, column] == told
    if history:
        tokens = [token(dataset, shown, position) for position in range(len(shown))]
    else:
        nothing = {"item": UNKNOWN_ITEM, "domain": domain, "event": 0, "time": told}
        tokens = [nothing | {"position": 0, "domain_position": 0}]
    for name in ("item", "domain", "event", "time", "position", "domain_position"):
        assert getattr(batch, name)[row, columns].tolist() == [entry[name] for entry in tokens], name


@settings(max_examples=40, deadline=None)
@given(dataset=datasets(), split=st.sampled_from(["validation", "test"]))
def test_no_query_reads_a_held_out_event_or_one_that_is_not_before_it(dataset: Dataset, split: str) -> None:
    if not (dataset.role == ROLE[split]).any():
        return
    queries = query_list(dataset, split)
    offsets, items = queries.seen_items(np.arange(len(queries)))
    place_of = {item: place for place, item in enumerate(dataset.item.tolist())}
    for query in range(len(queries)):
        for item in items[offsets[query] : offsets[query + 1]].tolist():
            assert dataset.role[place_of[item]] in VISIBLE[split]
            assert dataset.sequence_offsets[queries.sequence[query]] <= place_of[item] < queries.place[query]


def test_seen_items_are_the_whole_visible_history_or_its_training_part() -> None:
    dataset = dataset_of([[TRAIN] * 3 + [CONTEXT, VALIDATION, TEST], [TRAIN, TEST], [VALIDATION, TEST]])
    queries, items = query_list(dataset, "test"), dataset.item.tolist()
    offsets, seen = queries.seen_items(np.array([2, 0, 1]))
    assert np.split(seen, offsets[1:-1])[1].tolist() == items[:5]
    assert [part.tolist() for part in np.split(seen, offsets[1:-1])] == [[items[8]], items[:5], [items[6]]]
    offsets, seen = queries.seen_items(np.array([2, 0, 1]), train_only=True)
    assert [part.tolist() for part in np.split(seen, offsets[1:-1])] == [[], items[:3], [items[6]]]
    offsets, places = queries.history_places(np.array([0, 1]), last=2)
    assert places.tolist() == [3, 4, 6]


def test_queries_with_the_same_visible_history_and_domain_share_a_segment() -> None:
    dataset = dataset_of([[TRAIN] * 3 + [TEST] * 4], domains=[[0, 1, 0, 0, 1, 0, 0]], num_domains=2)
    queries = query_list(dataset, "test")
    together = query_batches(dataset, queries, CONFIG, rows=2)
    assert sum((together[i][0].segment > 0).sum() for i in range(len(together))) == 2 * 3
    apart = query_batches(dataset, queries, CONFIG, rows=2, query_time=True)
    assert sum((apart[i][0].segment > 0).sum() for i in range(len(apart))) == 4 * 3


def test_batches_get_nearly_equal_numbers_of_queries() -> None:
    lengths = np.random.default_rng(0).integers(3, 14, 200)
    dataset = dataset_of([[TRAIN] * int(length) + [TEST] for length in lengths])
    source = query_batches(dataset, query_list(dataset, "test"), CONFIG, rows=4)
    counts = [int((source[i][1].query >= 0).sum()) for i in range(len(source))]
    assert sum(counts) == 200
    assert max(counts) == source.slots
    assert max(counts) - min(counts[:-1]) <= 2


def test_queries_of_a_prepared_dataset_with_two_domains(tmp_path) -> None:
    dataset = make_dataset(tmp_path / "data", numbered(30, 12, 40, ("books", "films")))
    queries = query_list(dataset, "test")
    assert len(queries) == int((np.asarray(dataset.role) == TEST).sum())
    source = query_batches(dataset, queries, CONFIG, rows=3)
    expected = expected_histories(dataset, "test")
    for i in range(len(source)):
        batch, asked = source[i]
        for slot in np.flatnonzero(asked.query >= 0).tolist():
            check_query(dataset, queries, batch, asked, slot, expected[int(asked.query[slot])], False)


def test_an_index_behind_the_last_batch_is_refused() -> None:
    dataset = dataset_of([[TRAIN, TEST]])
    source = query_batches(dataset, query_list(dataset, "test"), CONFIG, rows=2)
    with pytest.raises(IndexError):
        source[len(source)]


def histories_of(dataset: Dataset) -> Histories:
    return Histories(dataset.sequence_offsets, dataset.item, dataset.domain, dataset.event, dataset.time)


@settings(max_examples=40, deadline=None)
@given(dataset=datasets())
def test_raw_histories_are_asked_for_every_domain(dataset: Dataset) -> None:
    sequences = [list(places) for _, places in sequences_of(dataset)]
    domains = dataset.num_domains
    history, domain = np.divmod(np.arange(len(sequences) * domains), domains)
    origin = dataset.manifest.time_origin
    source = history_batches(histories_of(dataset), history, domain, CONFIG, dataset.spec, rows=2, time_origin=origin)
    asked = set()
    for i in range(len(source)):
        batch, queries = source[i]
        for slot in np.flatnonzero(queries.query >= 0).tolist():
            row, column = int(queries.row[slot]), int(queries.column[slot])
            shown = sequences[int(queries.user[slot])][-CONFIG.max_length :]
            items = batch.item[row][batch.segment[row] == batch.segment[row, column]].tolist()
            assert items == ([int(dataset.item[place]) for place in shown] or [UNKNOWN_ITEM])
            assert queries.target[slot] == 0
            asked.add((int(queries.user[slot]), int(queries.domain[slot])))
    assert asked == set(zip(history.tolist(), domain.tolist(), strict=True))


def test_histories_without_any_event_or_without_histories() -> None:
    spec = dataset_of([[TRAIN]]).spec
    nothing = Histories(np.zeros(3, np.int64), np.zeros(0, np.int32), time=np.zeros(0, np.int64))
    batch, queries = history_batches(nothing, np.array([0, 1]), np.array([0, 0]), CONFIG, spec, rows=1)[0]
    assert batch.item[0, :3].tolist() == [UNKNOWN_ITEM, UNKNOWN_ITEM, 0]
    assert queries.previous.tolist() == [-1, -1]
    empty = np.zeros(0, np.int64)
    assert len(history_batches(nothing, empty, empty, CONFIG, spec, rows=1)) == 0


def test_histories_with_columns_that_do_not_fit_are_refused() -> None:
    dataset = dataset_of([[TRAIN] * 3])
    one, ask = np.zeros(1, np.int64), np.zeros(1, np.int64)
    good = histories_of(dataset)
    for bad, message in (
        (Histories(np.array([0, 2]), good.item, time=good.time), "offsets end"),
        (Histories(good.offsets, good.item), "need them"),
        (Histories(good.offsets, good.item, time=good.time[:2]), "differ in length"),
    ):
        with pytest.raises(ValueError, match=message):
            history_batches(bad, one, ask, CONFIG, dataset.spec, rows=1)
    far = Histories(good.offsets, good.item, time=good.time + 2**40)
    with pytest.raises(InputError, match="68 years"):
        history_batches(far, one, ask, CONFIG, dataset.spec, rows=1, time_origin=ORIGIN)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_loader_started_anywhere_gives_the_source_in_order(threads: int) -> None:
    dataset = dataset_of([[TRAIN] * 5 + [TEST]] * 30)
    batches = TrainBatches(dataset, CONFIG, 0)
    wanted = 2 * batches.batches_per_epoch()
    loader = grain_loader(batches, 3, threads=threads, prefetch=2)
    for i in range(3, wanted):
        np.testing.assert_array_equal(next(loader).item, batches[i].item)
    source = query_batches(dataset, query_list(dataset, "test"), CONFIG, rows=2)
    found = defaultdict(int)
    for _, queries in grain_loader(source, threads=threads):
        for query in queries.query[queries.query >= 0].tolist():
            found[query] += 1
    assert found == dict.fromkeys(range(30), 1)
    assert list(grain_loader(source, len(source))) == []
    assert len(list(grain_loader(source, 1, stop=2))) == 1
