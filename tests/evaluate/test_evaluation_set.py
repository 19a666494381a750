"""What a query sees, leaves out and competes with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.run import baseline_ranks
from mdrec_jax.evaluate.evaluation_set import LEFT_OUT, NOT_LISTED, evaluation_set
from mdrec_jax.evaluate.metrics import question_metrics, slice_groups
from mdrec_jax.evaluate.protocol import Protocol, Split, parse_protocol
from tests.data.make import DAY, make_dataset
from tests.evaluate.worlds import two_domains, without_order


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("evaluation_set") / "world")


def listed(world: Dataset, folder: Path, **columns: object) -> Path:
    path = folder / "mine.parquet"
    pl.DataFrame(columns, schema_overrides={"negatives": pl.List(pl.Int32)}).write_parquet(path)
    return path


@pytest.mark.parametrize("seen", ["none", "train", "history"])
def test_full_ranking_leaves_out_what_the_protocol_says_and_never_the_target(world: Dataset, seen: str) -> None:
    eval_set = evaluation_set(world, Protocol(seen=seen))  # pyright: ignore[reportArgumentType]
    some = np.arange(len(eval_set))
    out = eval_set.seen(some)
    for number in some:
        place, sequence = eval_set.queries.place[number], eval_set.queries.sequence[number]
        before = np.arange(world.sequence_offsets[sequence], place)
        roles = {"none": [], "train": [0], "history": [0, 1, 3]}[seen]
        expected = set(world.item[before[np.isin(world.role[before], roles)]].tolist())
        found = out.values[out.offsets[number] : out.offsets[number + 1]].tolist()
        assert found == sorted(expected - {int(eval_set.queries.target[number])})


@pytest.mark.parametrize("exclude", ["target", "history", "sequence"])
def test_draws_exclude_what_the_protocol_says(world: Dataset, exclude: str) -> None:
    protocol = Protocol(candidates="uniform", negatives=8, exclude=exclude, seen="none")  # pyright: ignore[reportArgumentType]
    eval_set = evaluation_set(world, protocol)
    some = np.arange(len(eval_set))
    drawn = eval_set.candidates(some, 0)
    overlap = 0
    for number in some:
        sequence, place = eval_set.queries.sequence[number], eval_set.queries.place[number]
        own = world.item[world.sequence_offsets[sequence] : world.sequence_offsets[sequence + 1]]
        row = set(drawn[number].tolist())
        assert row <= set(world.domain_items[eval_set.queries.domain[number]].tolist())
        assert int(eval_set.queries.target[number]) not in row
        if exclude == "sequence":
            assert not row & set(own.tolist())
        history = world.item[world.sequence_offsets[sequence] : place]
        history = history[world.role[world.sequence_offsets[sequence] : place] != 2]
        overlap += len(row & set(history.tolist()))
    assert (overlap > 0) == (exclude == "target")


@pytest.mark.parametrize("exclude", ["target", "history", "sequence"])
def test_validation_draws_do_not_hang_on_what_the_test_items_are(world: Dataset, exclude: str) -> None:
    protocol = Protocol(split="validation", candidates="uniform", negatives=8, exclude=exclude, seen="none")  # pyright: ignore[reportArgumentType]
    eval_set, test = evaluation_set(world, protocol), np.asarray(world.role) == 2
    some = np.arange(len(eval_set))
    for shift in (1, 7):  # other test items of the same domains
        item = np.array(world.item)
        for domain, items in enumerate(world.domain_items):
            mine = test & (np.asarray(world.domain) == domain)
            item[mine] = items[(np.searchsorted(items, item[mine]) + shift) % len(items)]
        other = evaluation_set(replace(world, item=item), protocol)
        np.testing.assert_array_equal(eval_set.candidates(some, 0), other.candidates(some, 0))
    drawn = eval_set.candidates(some, 0)
    own = [np.arange(*world.sequence_offsets[s : s + 2]) for s in eval_set.queries.sequence]
    held = [set(world.item[events[test[events]]].tolist()) for events in own]
    assert any(set(row) & items for row, items in zip(drawn.tolist(), held, strict=True)), "they may be drawn"


def test_the_universe_is_the_targets_domain_or_everything(world: Dataset) -> None:
    eval_set, everywhere = evaluation_set(world, Protocol()), evaluation_set(world, Protocol(universe="all"))
    np.testing.assert_array_equal(eval_set.universe(0), world.domain_items[0])
    assert set(everywhere.universe(0).tolist()) == set(np.concatenate(world.domain_items).tolist())


def test_blocks_hold_every_query_once(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    blocks = [block for domain in eval_set.domains() for block in eval_set.blocks(domain, 7)]
    assert max(map(len, blocks)) == 7
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(len(eval_set)))


def test_a_limit_asks_the_same_part_each_time_and_counts_the_rest(world: Dataset) -> None:
    whole, part = evaluation_set(world, Protocol()), evaluation_set(world, Protocol(), at_most=11)
    assert len(part) == 11
    assert part.counts == {LEFT_OUT: len(whole) - 11}
    np.testing.assert_array_equal(part.number, evaluation_set(world, Protocol(), at_most=11).number)
    np.testing.assert_array_equal(part.queries.target, whole.queries.target[part.number])
    ranks, all_ranks = baseline_ranks(part)["popularity"], baseline_ranks(whole)["popularity"]
    np.testing.assert_array_equal(ranks.rank, all_ranks.rank[part.number])


def test_part_of_the_queries_draws_what_the_whole_draws(world: Dataset) -> None:
    protocol = parse_protocol("uniform8")
    whole, part = evaluation_set(world, protocol), evaluation_set(world, protocol, at_most=9)
    np.testing.assert_array_equal(
        part.candidates(np.arange(9), 0), whole.candidates(np.arange(len(whole)), 0)[part.number]
    )


def test_a_file_of_candidates_lists_some_queries_and_the_others_are_counted(world: Dataset, tmp_path: Path) -> None:
    eval_set = evaluation_set(world, Protocol())
    few = np.array([5, 2, 9])
    names = [world.manifest.domains[d] for d in eval_set.queries.domain[few]]
    lists = [
        [int(x) for x in world.domain_items[d][:n]]
        for n, d in zip((3, 1, 4), eval_set.queries.domain[few], strict=True)
    ]
    path = listed(world, tmp_path, sequence=eval_set.queries.sequence[few], domain=names, negatives=lists)
    fixed = evaluation_set(world, parse_protocol(f"fixed:{path}"))
    np.testing.assert_array_equal(fixed.number, [2, 5, 9])
    assert fixed.counts == {NOT_LISTED: len(eval_set) - 3}
    rows = fixed.candidates(np.arange(3), 0)
    assert [[x for x in row if x] for row in rows.tolist()] == [lists[1], lists[0], lists[2]]


def test_the_data_sets_own_candidates_come_first(world: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file of candidates"):
        evaluation_set(world, parse_protocol("fixed:missing"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sequence": [0], "negatives": [[2]]}, "missing column"),
        ({"sequence": [0], "domain": ["songs"], "negatives": [[2]]}, "unknown domain"),
        ({"sequence": [0, 0], "domain": ["books"] * 2, "negatives": [[2], [3]]}, "two rows"),
        ({"sequence": [3, 1], "domain": ["books"] * 2, "negatives": [[2], [3, 9999]]}, "row 2.*not an item"),
        ({"sequence": [3], "domain": ["books"], "negatives": [[1]]}, "not an item"),
        ({"sequence": [99999], "domain": ["books"], "negatives": [[2]]}, "lists candidates for no test query"),
    ],
)
def test_a_bad_file_of_candidates_is_refused(world: Dataset, tmp_path: Path, columns: dict, message: str) -> None:
    path = listed(world, tmp_path, **columns)
    with pytest.raises(InputError, match=message):
        evaluation_set(world, parse_protocol(f"fixed:{path}"))


def test_something_else_than_parquet_is_refused(world: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    path.write_text("sequence,domain,negatives\n")
    with pytest.raises(InputError, match="not a Parquet file"):
        evaluation_set(world, parse_protocol(f"fixed:{path}"))


def test_without_an_order_a_persons_targets_are_one_question(tmp_path: Path) -> None:
    eval_set = evaluation_set(without_order(tmp_path / "world"), Protocol(seen="train"))
    ranks = baseline_ranks(eval_set)
    assert list(ranks) == ["popularity"]
    assert sorted(np.bincount(np.unique(ranks["popularity"].question, return_inverse=True)[1]).tolist()) == [1, 2, 3]


def test_cold_targets_are_those_that_training_never_has(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    ranks = baseline_ranks(eval_set)["popularity"]
    train = set(world.item[np.asarray(world.role) == 0].tolist())
    np.testing.assert_array_equal(ranks.cold, [int(target) not in train for target in eval_set.queries.target])


def test_ranks_know_how_many_days_lie_before_the_target(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    ranks = eval_set.ranks(np.arange(len(eval_set)), np.ones((len(eval_set), 1)))
    time, day = np.asarray(world.time), 24 * 3600
    for number in range(len(eval_set)):
        before = np.arange(world.sequence_offsets[eval_set.queries.sequence[number]], eval_set.queries.place[number])
        before = before[world.role[before] != 2]
        expected = time[eval_set.queries.place[number]] // day - time[before[-1]] // day if len(before) else -1
        assert ranks.days[number] == expected
    groups = {group.slice: int(group.member.sum()) for group in slice_groups(question_metrics(ranks, ["mrr"]))}
    assert groups.get("target on the last event's day", 0) == int((ranks.days == 0).sum())
    assert groups["target on another day"] == int((ranks.days > 0).sum()) > 0


def test_without_times_no_slice_is_of_a_day(tmp_path: Path) -> None:
    eval_set = evaluation_set(without_order(tmp_path / "world"), Protocol())
    ranks = eval_set.ranks(np.arange(len(eval_set)), np.ones((len(eval_set), 1)))
    assert (ranks.days == -1).all()
    assert not any("day" in str(group.slice) for group in slice_groups(question_metrics(ranks, ["mrr"])))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_days_are_counted_from_the_last_visible_event(split: Split, tmp_path: Path) -> None:
    """A validation query sees one event here; for one person that is the data set's first."""
    gaps = [(0, 3, 4), (0, 1, 40), (5, 7, 8)]
    rows = [
        (f"u{user}", f"i{user}-{n}", "one", day * DAY) for user, days in enumerate(gaps) for n, day in enumerate(days)
    ]
    eval_set = evaluation_set(make_dataset(tmp_path / "world", rows), Protocol(split=split))
    expected = [1, 2, 3] if split == "validation" else [1, 1, 39]
    assert sorted(eval_set._days(np.arange(3)).tolist()) == expected
