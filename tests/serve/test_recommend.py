"""Recommendations: the best unseen items of a domain, popularity where a model has nothing to go by."""

from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.scorer import Scorer, make_scorer
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.serve.given_files import read_item_list
from mdrec_jax.serve.recommend import NO_HISTORY, NOTHING_LEFT, Choice, recommend
from mdrec_jax.serve.recommendations import recommend_files, to_frame, write_recommendations
from mdrec_jax.serve.users import read_histories, read_users
from tests.evaluate.worlds import two_domains

BOOKS, FILMS = 0, 1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("recommend") / "world")


@pytest.fixture(scope="module")
def scorer(world: Dataset) -> Scorer:
    model = make_model(RecommenderConfig(dim=16, layers=1, attention_window=10, init_scale=0.5), world.spec)
    return make_scorer(model, model.init(jax.random.key(0)), BatchingConfig(rows=4, row_length=24, max_length=10))


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def raw_items(world: Dataset, domain: int) -> list[str]:
    return world.items(domain)["raw"].to_list()


def test_users_get_unseen_items_of_the_domain_best_first(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    users = read_users(written(tmp_path, "users.txt", "u3\nu1\nu3\n\nu7\n"), world)
    assert users.names == ["u3", "u1", "u7"]
    lists = recommend(scorer, world, users, FILMS, Choice(k=5))
    assert lists.item.shape == (3, 5)
    assert lists.fallback == [""] * 3
    assert (np.diff(lists.score, axis=1) <= 0).all()
    raw = world.users()["raw"].to_list()
    for name, items in zip(users.names, lists.item, strict=True):
        sequence = np.flatnonzero(np.asarray(world.sequence_user) == raw.index(name))[0]
        seen = world.item[world.sequence_offsets[sequence] : world.sequence_offsets[sequence + 1]]
        assert set(items.tolist()) <= set(world.domain_items[FILMS].tolist()) - set(seen.tolist())


def test_a_history_from_a_file_gets_what_the_same_user_gets(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    known = read_users(written(tmp_path, "users.txt", "u3\n"), world)
    names = {int(i): raw for d in (0, 1) for i, raw in world.items(d).select("id", "raw").iter_rows()}
    domains = world.manifest.domains
    lines = ["user,item,domain,time"] + [
        f"someone,{names[int(i)]},{domains[d]},{t}"
        for i, d, t in zip(known.histories.item, known.histories.domain, known.histories.time, strict=True)
    ]
    users = read_histories(written(tmp_path, "h.csv", "\n".join(lines) + "\n"), world)
    theirs, ours = (recommend(scorer, world, one, BOOKS, Choice(k=4)) for one in (users, known))
    np.testing.assert_array_equal(theirs.item, ours.item)
    np.testing.assert_allclose(theirs.score, ours.score, rtol=1e-5)


def test_events_are_ordered_by_time_and_else_as_they_stand(world: Dataset, tmp_path: Path) -> None:
    a, b, c = raw_items(world, BOOKS)[:3]
    timed = f"user,item,domain,time\nx,{a},books,30\ny,{c},books,5\nx,{b},books,10\nx,{c},books,30\n"
    users = read_histories(written(tmp_path, "timed.csv", timed), world)
    ids = world.lookup_items([b, a, c, c], ["books"] * 4)
    np.testing.assert_array_equal(users.histories.item, ids)
    np.testing.assert_array_equal(users.histories.offsets, [0, 3, 4])
    plain = f'{{"user": "x", "item": "{c}", "domain": "books"}}\n{{"user": "x", "item": "{a}", "domain": "books"}}\n'
    users = read_histories(written(tmp_path, "plain.jsonl", plain), world)
    np.testing.assert_array_equal(users.histories.item, world.lookup_items([c, a], ["books"] * 2))


def test_unknown_items_become_item_1_and_are_counted(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    book = raw_items(world, BOOKS)[0]
    text = f"user,item,domain,time\nx,{book},books,1\nx,lost,books,2\ny,gone,films,3\n"
    users = read_histories(written(tmp_path, "h.csv", text), world)
    np.testing.assert_array_equal(users.histories.item[1:], [1, 1])
    assert users.counts == {"unknown items": 2}
    assert recommend(scorer, world, users, BOOKS, Choice(k=3)).fallback == ["", NO_HISTORY]


def popular(world: Dataset, domain: int) -> list[int]:
    mine = (np.asarray(world.role) == 0) & (np.asarray(world.domain) == domain)
    counts = np.bincount(world.item[mine], minlength=world.num_items)
    return sorted(world.domain_items[domain].tolist(), key=lambda item: (-counts[item], item))


def test_a_person_without_a_known_item_gets_what_is_popular(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    users = read_users(written(tmp_path, "users.txt", "nobody\nu1\n"), world)
    assert users.counts["unknown users"] == 1
    lists = recommend(scorer, world, users, BOOKS, Choice(k=4))
    assert lists.fallback == [NO_HISTORY, ""]
    assert lists.item[0].tolist() == popular(world, BOOKS)[:4]
    empty = read_histories(written(tmp_path, "h.csv", "user,item,domain\nx,,\n"), world)
    assert recommend(scorer, world, empty, BOOKS, Choice(k=4)).item.tolist() == [popular(world, BOOKS)[:4]]


def test_a_person_who_has_everything_gets_what_is_popular_and_a_flag(
    world: Dataset, scorer: Scorer, tmp_path: Path
) -> None:
    rows = "".join(f"x,{raw},books,{place}\n" for place, raw in enumerate(raw_items(world, BOOKS)))
    users = read_histories(written(tmp_path, "h.csv", "user,item,domain,time\n" + rows), world)
    lists = recommend(scorer, world, users, BOOKS, Choice(k=3))
    assert lists.fallback == [NOTHING_LEFT]
    assert lists.item[0].tolist() == popular(world, BOOKS)[:3]
    assert recommend(scorer, world, users, BOOKS, Choice(k=3, keep_seen=True)).fallback == [""]


def test_a_person_with_little_left_gets_a_shorter_list(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    raw = raw_items(world, BOOKS)
    rows = "".join(f"x,{name},books,{place}\n" for place, name in enumerate(raw[2:]))
    users = read_histories(written(tmp_path, "h.csv", "user,item,domain,time\n" + rows), world)
    lists = recommend(scorer, world, users, BOOKS, Choice(k=5))
    frame = to_frame(world, users, BOOKS, lists)
    assert sorted(frame["item"].to_list()) == sorted(raw[:2])
    assert frame["rank"].to_list() == [1, 2]


def test_lists_of_items_allow_and_deny(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    raw = raw_items(world, FILMS)
    listed = read_item_list(written(tmp_path, "list.csv", "item\n" + "\n".join([*raw[:6], "lost"]) + "\n"), world)
    ids, unknown = listed.ids(world, FILMS)
    assert (len(ids), unknown) == (7, 1)
    ids = ids[ids > 1]
    users = read_users(written(tmp_path, "users.txt", "u1\nu2\nu5\n"), world)
    allowed = recommend(scorer, world, users, FILMS, Choice(k=3, allow=ids, keep_seen=True)).item
    denied = recommend(scorer, world, users, FILMS, Choice(k=3, deny=ids, keep_seen=True)).item
    assert set(allowed.ravel().tolist()) <= set(ids.tolist())
    assert not set(denied.ravel().tolist()) & set(ids.tolist())


def test_k_beyond_the_catalogue_gives_what_there_is(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    users = read_users(written(tmp_path, "users.txt", "u1\n"), world)
    lists = recommend(scorer, world, users, FILMS, Choice(k=500, keep_seen=True))
    assert sorted(lists.item[0].tolist()) == sorted(world.domain_items[FILMS].tolist())


@pytest.mark.parametrize("choice", [Choice(k=0), Choice(allow=np.array([1], np.int32))])
def test_a_choice_that_leaves_nothing_is_refused(
    world: Dataset, scorer: Scorer, tmp_path: Path, choice: Choice
) -> None:
    users = read_users(written(tmp_path, "users.txt", "u1\n"), world)
    with pytest.raises(InputError):
        recommend(scorer, world, users, FILMS, choice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,domain\nx,books\n", "missing column"),
        ("user,item\nx,a\n", "missing column"),
        ("user,item,domain\nx,a,books\nx,b,songs\n", "row 3, column 'domain': unknown domain"),
        ("user,item,domain,time\nx,a,books,1\nx,b,books,soon\n", "row 3, column 'time': unparsable time"),
        ("user,item,domain,time\nx,a,books,1\nx,b,books,-1\n", "row 3, column 'time': a negative time"),
        ("user,item,domain,time\nx,a,books,1\nx,b,books,nan\n", "row 3, column 'time': a time that is not a number"),
        ("user,item,domain,time\nx,a,books,1600000000000\n", "looks like milliseconds: use --time-unit ms"),
        ("user,item,domain,time\nx,a,books,2020-09-13\n", "use --time-unit iso"),
        ("user,item,domain,time\nx,a,books,\n", "row 2, column 'time': missing time"),
        ("user,item,domain\nx,a,books\n,b,books\n", "row 3, column 'user': missing user"),
        ("user,item,item,domain\nx,a,b,books\n", "duplicate column"),
        ("", "empty"),
        ("user,item,domain\n", "names no user"),
    ],
)
def test_a_bad_file_of_histories_is_refused_with_its_row(
    world: Dataset, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_histories(written(tmp_path, "h.csv", text), world)


def test_times_of_histories_may_be_of_another_unit(world: Dataset, tmp_path: Path) -> None:
    for time, unit in (("1600000000000", "ms"), ("2020-09-13T12:26:40Z", "iso"), ("1600000000", "s")):
        file = written(tmp_path, "h.csv", f"user,item,domain,time\nx,a,books,{time}\n")
        assert read_histories(file, world, time_unit=unit).histories.time == 1_600_000_000
    with pytest.raises(InputError, match="looks like seconds: use --time-unit s"):
        read_histories(file, world, time_unit="ms")


def test_events_of_one_second_of_a_history_keep_their_order(world: Dataset, tmp_path: Path) -> None:
    items = world.items("books")["raw"].to_list()[:5]
    rows = "".join(f"x,{item},books,{1_600_000_000_009 - n}\n" for n, item in enumerate(items))
    found = read_histories(written(tmp_path, "h.csv", "user,item,domain,time\n" + rows), world, time_unit="ms")
    assert found.histories.item.tolist() == world.lookup_items(items[::-1], ["books"] * 5).tolist()


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_histories_in_two_units_are_refused(world: Dataset, tmp_path: Path, unit: str) -> None:
    rows = "".join(f"x,a,books,{time}\n" for time in (1_600_000_000_000, 1_600_000_000_001, 1_600_000_000))
    with pytest.raises(InputError, match=r"row [24], column 'time'") as error:
        read_histories(written(tmp_path, "h.csv", "user,item,domain,time\n" + rows), world, time_unit=unit)
    assert "use --time-unit" not in str(error.value)


def test_a_missing_column_of_histories_names_the_option_that_says_it(world: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_histories(written(tmp_path, "h.csv", "user,domain\nx,books\n"), world)
    assert error.value.expected == "a column item, or --item-column NAME"


@pytest.mark.parametrize(("name", "text"), [("users.csv", "user\n"), ("users.txt", ""), ("users.txt", "\n\n")])
def test_a_file_of_no_users_is_refused(world: Dataset, tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InputError, match=r"names no user|empty"):
        read_users(written(tmp_path, name, text), world)


def test_files_of_unknown_formats_are_refused(world: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown format"):
        read_users(written(tmp_path, "users.xlsx", "u1"), world)
    with pytest.raises(InputError, match="no such file"):
        read_users(tmp_path / "missing.txt", world)
    with pytest.raises(InputError, match="unknown format"):
        write_recommendations(tmp_path / "out.xlsx", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"found: +a file"):
        write_recommendations(tmp_path / "file" / "out.csv", [])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_output_has_titles_scores_and_flags(world: Dataset, scorer: Scorer, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"out.{ending}"
    counts = recommend_files(scorer, world, out, users=written(tmp_path, "users.txt", "u1\nnobody\n"), k=2)
    lists = {f"popularity lists in {domain}: {NO_HISTORY}": 1 for domain in world.manifest.domains}
    seen = {
        f"items of {domain} left out as seen": counts.get(f"items of {domain} left out as seen")
        for domain in world.manifest.domains
    }
    assert counts == {"unknown users": 1, **lists, **seen}
    assert all(seen.values())
    reader = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[ending]
    table = reader(out)
    assert table.columns == ["user", "domain", "rank", "item", "title", "score", "fallback"]
    assert table["user"].to_list() == ["u1", "u1", "nobody", "nobody"] * 2
    assert table["domain"].to_list() == ["books"] * 4 + ["films"] * 4
    assert table["rank"].to_list() == [1, 2] * 4
    assert table["fallback"].to_list() == [None, None, NO_HISTORY, NO_HISTORY] * 2


def test_one_domain_and_a_list_of_items_from_files(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    out, raw = tmp_path / "out.csv", raw_items(world, FILMS)
    users = written(tmp_path, "users.csv", "user\nu1\nu2\n")
    allow = written(tmp_path, "allow.txt", "\n".join([*raw[:5], "lost"]))
    counts = recommend_files(scorer, world, out, users=users, domain="films", allow=allow, k=3, keep_seen=True)
    assert counts == {"listed items that films does not have": 1}
    assert set(pl.read_csv(out)["item"].to_list()) <= set(raw[:5])


def test_unclear_options_are_refused(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    users, out = written(tmp_path, "users.txt", "u1\n"), tmp_path / "out.csv"
    for options, message in (
        ({}, "one file of users"),
        ({"users": users, "histories": users}, "one file of users"),
        ({"users": users, "domain": "songs"}, "unknown domain"),
        ({"users": users, "deny": written(tmp_path, "all.txt", "\n".join(raw_items(world, FILMS))), "domain": "films"},
         "leave no item"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            recommend_files(scorer, world, out, **options)
    assert not out.exists()


def test_of_several_sequences_the_last_with_the_domains_events_is_read(tmp_path: Path) -> None:
    from tests.data.make import make_dataset

    rows = [("a", f"i{n}", domain, n) for n, domain in enumerate("xxxyyyxxxzzz")]
    sequence = ["1"] * 3 + ["2"] * 3 + ["3"] * 3 + ["4"] * 3
    dataset = make_dataset(tmp_path / "world", rows, sequence=sequence)
    users = read_users(written(tmp_path, "users.txt", "a\n"), dataset)
    for domain in range(3):
        history = users.history[0, domain]
        part = slice(users.histories.offsets[history], users.histories.offsets[history + 1])
        assert set(np.asarray(users.histories.domain)[part].tolist()) == {domain}
