"""What a user names in files of their own: columns, lists of items a person, users twice; and what is told of it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from mdrec_jax.cli.stream import run_name
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.run import count_training
from mdrec_jax.evaluate.cooccurrence import Cooccurrence, CooccurrenceConfig
from mdrec_jax.evaluate.scorer import Scorer, make_scorer
from mdrec_jax.files import write_json
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.serve.recommend import NO_HISTORY, NOTHING_ALLOWED
from mdrec_jax.serve.recommendations import recommend_files
from mdrec_jax.serve.users import read_histories, read_users
from tests.command import mdrec
from tests.evaluate.worlds import two_domains


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("files") / "world")


@pytest.fixture(scope="module")
def scorer(world: Dataset) -> Scorer:
    model = make_model(RecommenderConfig(dim=16, layers=1, attention_window=10, init_scale=0.5), world.spec)
    return make_scorer(model, model.init(jax.random.key(0)), BatchingConfig(rows=4, row_length=24, max_length=10))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def pairs(path: Path, rows: list[tuple[str, str]]) -> Path:
    return written(path, "user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))


def films(out: Path) -> dict[str, list[str]]:
    table = pl.read_csv(out).filter(pl.col("domain") == "films")
    return {user[0]: part["item"].to_list() for user, part in table.group_by(["user"], maintain_order=True)}


@pytest.mark.parametrize("cooccurrence", [False, True])
def test_a_list_a_person_allows_and_denies(world: Dataset, scorer: Scorer, tmp_path: Path, cooccurrence: bool) -> None:
    if cooccurrence:
        bonus = Cooccurrence(count_training(world, np.asarray(world.role) == 0), CooccurrenceConfig(weight=2.0))
        scorer = replace(scorer, cooccurrence=bonus)
    raw, out = world.items("films")["raw"].to_list(), tmp_path / "o.csv"
    users = written(tmp_path / "u.txt", "u1\nu2\nu3\nnobody\n")
    options = {"users": users, "domain": "films", "keep_seen": True}
    recommend_files(scorer, world, out, k=len(raw), **options)
    every = films(out)
    listed = [("u1", every["u1"][4]), ("u1", every["u1"][9]), ("u2", every["u2"][0]), ("nobody", raw[3])]
    file = pairs(tmp_path / "allow.csv", [*listed, ("u1", "lost"), ("absent", raw[0])])
    found = recommend_files(scorer, world, out, k=3, allow=file, **options)
    assert films(out) == {
        "u1": [every["u1"][4], every["u1"][9]], "u2": every["u2"][:1], "nobody": [raw[3]]
    }  # fmt: skip
    assert found["users of the list who get no recommendations (allow)"] == 1
    assert found["listed items that films does not have"] == 1
    assert found[f"no list in films: {NOTHING_ALLOWED}"] == 1  # u3, whom the list does not name
    assert found["lists shorter than 3 in films"] == 3
    best = max(raw, key=lambda name: every["nobody"].index(name) == 0)
    file = pairs(tmp_path / "deny.csv", [*((user, every[user][0]) for user in ("u1", "u3")), ("nobody", best)])
    recommend_files(scorer, world, out, k=3, deny=file, **options)
    assert films(out) == {
        "u1": every["u1"][1:4], "u2": every["u2"][:3], "u3": every["u3"][1:4], "nobody": every["nobody"][1:4]
    }  # fmt: skip


def test_lists_for_everybody_and_for_each_go_together(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    raw, out = world.items("films")["raw"].to_list(), tmp_path / "o.csv"
    allow = written(tmp_path / "allow.txt", "\n".join(raw[:4]))
    deny = pairs(tmp_path / "deny.csv", [("u1", raw[0]), ("u1", raw[1])])
    users = written(tmp_path / "u.txt", "u1\nu2\n")
    recommend_files(scorer, world, out, users=users, domain="films", keep_seen=True, allow=allow, deny=deny)
    assert {user: set(items) for user, items in films(out).items()} == {"u1": set(raw[2:4]), "u2": set(raw[:4])}


@pytest.mark.parametrize("text", ["user,item\nu1,\n", "user,item\n,x\n"])
def test_half_a_pair_is_refused_with_its_row(world: Dataset, scorer: Scorer, tmp_path: Path, text: str) -> None:
    users = written(tmp_path / "u.txt", "u1\n")
    with pytest.raises(InputError, match="row 2"):
        recommend_files(scorer, world, tmp_path / "o.csv", users=users, deny=written(tmp_path / "deny.csv", text))


def test_what_was_asked_and_is_not_answered_is_counted(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    users, out = written(tmp_path / "u.csv", "user\nu1\nu2\nu1\nnobody\nu1\n"), tmp_path / "o.csv"
    counts = recommend_files(scorer, world, out, users=users, domain="films", k=500)
    seen = []
    for user in ("u1", "u2"):
        sequence = int(np.flatnonzero(world.sequence_user == world.users()["raw"].to_list().index(user))[0])
        had = np.asarray(world.item)[slice(*world.sequence_offsets[sequence : sequence + 2])]
        seen.append(np.intersect1d(had, world.domain_items[1]))
    assert counts == {
        "rows that name a user again": 2,
        "unknown users": 1,
        f"popularity lists in films: {NO_HISTORY}": 1,
        "items of films left out as seen": sum(map(len, seen)),
        "lists shorter than 500 in films": 3,
    }
    assert pl.read_csv(out).group_by("user").len().filter(pl.col("user") != "nobody")["len"].sum() == (
        2 * len(world.domain_items[1]) - sum(map(len, seen))
    )


@pytest.fixture
def customers(tmp_path: Path) -> Dataset:
    rows = "".join(f"c{n % 7},p{n % 11},{1_500_000_000 + 86_400 * n}\n" for n in range(77))
    log = written(tmp_path / "log.csv", "customer_id,product,at\n" + rows)
    names = ("--user-column", "customer_id", "--item-column", "product", "--time-column", "at")
    assert mdrec("prepare", "csv", log, "--out", tmp_path / "d", "--min-user", 1, "--min-item", 1, *names) == 0
    return open_dataset(tmp_path / "d")


def test_the_names_that_prepare_was_told_are_remembered(customers: Dataset, tmp_path: Path) -> None:
    assert customers.manifest.columns == {"user": "customer_id", "item": "product", "time": "at"}
    log = tmp_path / "log.csv"
    users = read_histories(log, customers)
    assert (len(users.names), len(users.histories.item)) == (7, 77)
    assert len(read_users(log, customers).names) == 7
    usual = written(tmp_path / "usual.csv", "user,item,time\nc1,p1,1500000000\n")
    assert read_histories(usual, customers).names == ["c1"]
    other = written(tmp_path / "other.csv", "who,what\nc1,p1\n")
    assert read_histories(other, customers, columns={"user": "who", "item": "what"}).names == ["c1"]
    with pytest.raises(InputError, match=r"--user-column"):
        read_histories(other, customers)
    with pytest.raises(InputError, match="one column for two things"):
        read_histories(other, customers, columns={"user": "who", "item": "who"})
    with pytest.raises(InputError, match="missing column"):
        read_histories(other, customers, columns={"user": "nobody", "item": "what"})


def test_a_data_set_that_extends_another_knows_its_names_and_goes_on_with_its_states(
    customers: Dataset, tmp_path: Path
) -> None:
    more = written(tmp_path / "more.csv", "customer_id,product,at\n" + "c1,p1,1600000000\n" * 3)
    names = ("--user-column", "customer_id", "--item-column", "product")
    core = ("--min-user", 1, "--min-item", 1)
    assert mdrec("prepare", "csv", more, "--out", tmp_path / "e", "--extend", customers.path, *core, *names,
                 "--time-column", "at") == 0  # fmt: skip
    extended = open_dataset(tmp_path / "e").manifest
    assert extended.columns == customers.manifest.columns
    write_json(tmp_path / "run" / "config.json", {"dataset": {"path": "d", "hash": customers.hash}})
    own, other = (run_name("c", 1, tmp_path / "run", x) for x in (customers.manifest, extended))
    assert own == other  # its states go on
    assert own != run_name("c", 1, tmp_path / "run", replace(extended, parents=()))


FULL_DISK = """
import random, resource, signal, sys
from pathlib import Path
import polars as pl
from mdrec_jax.errors import InputError
from mdrec_jax.serve.recommendations import write_recommendations
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
frame = pl.DataFrame({"score": [random.random() for _ in range(20_000)]})
for ending in ("csv", "jsonl", "parquet"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    out = Path(sys.argv[1]) / f"out.{ending}"
    out.write_text("old")
    try:
        write_recommendations(out, [frame])
    except InputError as error:
        assert "File too large" in str(error), error
        assert out.read_text() == "old"
        print(ending)
"""


def test_a_disk_that_fills_up_leaves_the_old_file_and_one_message(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["csv", "jsonl", "parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.jsonl", "out.parquet"]
