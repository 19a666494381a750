"""A file of states that is read and written by many calls: nothing counts twice, and nothing is lost."""

import multiprocessing
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.run import count_training
from mdrec_jax.evaluate.cooccurrence import Cooccurrence, CooccurrenceConfig
from mdrec_jax.evaluate.scorer import Scorer, make_scorer
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.serve import state_file as states_file
from mdrec_jax.serve.recommendations import recommend_files
from mdrec_jax.serve.stream import stream_files
from tests.data.make import DAY, make_dataset
from tests.evaluate.worlds import two_domains

ENCODER = RecommenderConfig(dim=8, layers=1, attention_window=24, init_scale=0.5, positions="rotary")
KNOWN, LATE = "events already known", "late events left out"
type Event = tuple[str, str, str, int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("again") / "world")


def scorer_of(world: Dataset) -> Scorer:
    model = make_model(ENCODER, world.spec)
    return make_scorer(model, model.init(jax.random.key(0)), BatchingConfig(rows=4, row_length=48, max_length=24))


@pytest.fixture(scope="module")
def scorer(world: Dataset) -> Scorer:
    return scorer_of(world)


def log(world: Dataset, people: Sequence[str], length: int, *, start: int = 0, seed: int = 0) -> list[Event]:
    """Events of each person, a day apart."""
    rng = np.random.default_rng(seed)
    raw = [world.items(domain)["raw"].to_list() for domain in (0, 1)]
    rows = []
    for person in people:
        for place in range(length):
            domain = int(rng.integers(2))
            rows.append((person, str(rng.choice(raw[domain])), world.manifest.domains[domain], start + place * DAY))
    return rows


def written(path: Path, rows: Sequence[Event]) -> Path:
    pl.DataFrame(rows, schema=["user", "item", "domain", "time"], orient="row").write_csv(path)
    return path


def without_times(path: Path, rows: Sequence[Event]) -> Path:
    pl.DataFrame([row[:3] for row in rows], schema=["user", "item", "domain"], orient="row").write_csv(path)
    return path


def assert_same(out: Path, other: Path) -> None:
    """The answers agree but for the last digits of scores."""
    ours, theirs = pl.read_csv(out), pl.read_csv(other)
    assert ours.drop("score").equals(theirs.drop("score"))
    np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-4)


def arrays(path: Path) -> dict[str, bytes]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name].tobytes() for name in file.files}


def test_the_same_file_again_changes_nothing(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    file, state, out = written(tmp_path / "e.csv", log(world, ["a", "b"], 5)), tmp_path / "s.npz", tmp_path / "o.csv"
    stream_files(scorer, world, "run", file, out, state=state)
    before, answers = arrays(state), out.read_bytes()
    counts = stream_files(scorer, world, "run", file, out, state=state)
    assert counts[KNOWN] == 10
    assert "new users" not in counts
    assert arrays(state) == before
    assert out.read_bytes() == answers


def test_files_that_overlap_are_read_once(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    rows, state, out = log(world, ["a"], 9), tmp_path / "s.npz", tmp_path / "o.csv"
    known = []
    for low, high in ((0, 4), (2, 7), (0, 9)):
        file = written(tmp_path / "e.csv", rows[low:high])
        known.append(stream_files(scorer, world, "run", file, out, state=state).get(KNOWN, 0))
    assert known == [0, 2, 7]
    recommend_files(scorer, world, tmp_path / "all.csv", histories=written(tmp_path / "all-in.csv", rows))
    assert_same(out, tmp_path / "all.csv")


def test_an_event_that_happens_twice_in_a_second_is_read_as_often_as_it_happened(
    world: Dataset, scorer: Scorer, tmp_path: Path
) -> None:
    first, second = log(world, ["a"], 2)
    state, out = tmp_path / "s.npz", tmp_path / "o.csv"
    stream_files(scorer, world, "run", written(tmp_path / "e.csv", [first, second]), out, state=state)
    file = written(tmp_path / "e.csv", [second, second, second])
    assert stream_files(scorer, world, "run", file, out, state=state)[KNOWN] == 1
    assert stream_files(scorer, world, "run", file, out, state=state)[KNOWN] == 3
    with np.load(state) as found:
        assert found[".events"].sum() == 4


def test_late_events_are_refused_or_left_out_and_counted(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    rows, state, out = log(world, ["a", "b"], 6), tmp_path / "s.npz", tmp_path / "o.csv"
    stream_files(scorer, world, "run", written(tmp_path / "e.csv", rows[3:6] + rows[6:8]), out, state=state)
    before, answers = arrays(state), out.read_bytes()
    file = written(tmp_path / "all.csv", rows)
    with pytest.raises(InputError, match=r"3 events of 1 of 2 users[\s\S]*--late skip"):
        stream_files(scorer, world, "run", file, out, state=state)
    assert arrays(state) == before
    assert out.read_bytes() == answers
    counts = stream_files(scorer, world, "run", file, out, state=state, late="skip")
    assert (counts[LATE], counts[KNOWN]) == (3, 5)


def test_without_times_the_persons_last_events_are_known(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    rows, state, out = log(world, ["a"], 6), tmp_path / "s.npz", tmp_path / "o.csv"
    known = []
    for low, high in ((0, 3), (0, 3), (1, 5), (5, 6)):
        file = without_times(tmp_path / "e.csv", rows[low:high])
        known.append(stream_files(scorer, world, "run", file, out, state=state).get(KNOWN, 0))
    assert known == [0, 3, 2, 0]
    with np.load(state) as found:
        assert found[".events"].sum() == 6
    stream_files(scorer, world, "run", written(tmp_path / "timed.csv", rows[:1]), out, state=state)
    with pytest.raises(InputError, match="events without times"):
        stream_files(scorer, world, "run", file, out, state=state)


@pytest.mark.parametrize(
    "seconds", [9_999_999_999, 4_000_000_000, int(time.time()) + 30 * DAY], ids=["far", "2096", "next month"]
)
def test_a_time_that_would_shut_out_all_later_events_is_refused(
    world: Dataset, scorer: Scorer, tmp_path: Path, seconds: int
) -> None:
    rows, state, out = log(world, ["a"], 3, start=1_500_000_000), tmp_path / "s.npz", tmp_path / "o.csv"
    file = written(tmp_path / "e.csv", [*rows, (*rows[0][:3], seconds)])
    with pytest.raises(InputError, match=r"row 5, column 'time'[\s\S]*expected: +between"):
        stream_files(scorer, world, "run", file, out, state=state)
    assert not state.exists()
    assert not out.exists()


def test_a_time_before_what_a_model_can_read_is_refused(tmp_path: Path, world: Dataset, scorer: Scorer) -> None:
    late = make_dataset(
        tmp_path / "late", [(f"u{n % 9}", f"i{n % 7}", "books", 4_000_000_000 + n * DAY) for n in range(90)]
    )
    file = tmp_path / "e.csv"
    file.write_text("user,item,time\nx,i1,10\n")
    with pytest.raises(InputError, match=r"row 2, column 'time'"):
        recommend_files(scorer_of(late), late, tmp_path / "o.csv", histories=file)


def test_calls_at_once_lose_nothing(
    world: Dataset, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, inside, most = tmp_path / "s.npz", [], []
    read, write = states_file.read_states, states_file.write_states

    def slow_read(*args):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.2)
        return read(*args)

    def then_out(*args):
        write(*args)
        inside.pop()

    monkeypatch.setattr("mdrec_jax.serve.stream.read_states", slow_read)
    monkeypatch.setattr("mdrec_jax.serve.stream.write_states", then_out)

    def call(number: int) -> None:
        file = written(tmp_path / f"{number}.csv", log(world, [f"p{number}"], 3))
        stream_files(scorer, world, "run", file, tmp_path / f"{number}-out.csv", state=state)

    calls = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for one in calls:
        one.start()
    for one in calls:
        one.join()
    assert most == [1, 1, 1]
    with np.load(state) as found:
        assert bytes(sorted(found["names"].tobytes())) == bytes(sorted(b"p0p1p2"))
        assert found[".events"].sum() == 9


def _hold(path: Path, held, done) -> None:
    with states_file.lock_state_file(path):
        held.set()
        done.wait()


def test_a_file_of_states_in_use_is_refused_after_a_while_and_free_after_a_kill(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path, held, done = tmp_path / "s.npz", context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, done))
    other.start()
    assert held.wait(60)
    with (
        pytest.raises(InputError, match=rf"in use[\s\S]*process {other.pid}"),
        states_file.lock_state_file(path, wait=0.2),
    ):
        pass
    other.kill()
    other.join()
    with states_file.lock_state_file(path, wait=0.2):
        pass


def test_another_name_of_the_file_is_the_same_file(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    state, link = tmp_path / "s.npz", tmp_path / "link.npz"
    file = written(tmp_path / "e.csv", log(world, ["a"], 3))
    stream_files(scorer, world, "run", file, tmp_path / "o.csv", state=state)
    link.symlink_to(state)
    assert stream_files(scorer, world, "run", file, tmp_path / "o.csv", state=link)[KNOWN] == 3
    assert link.is_symlink()


def test_a_lock_that_is_a_link_writes_over_nothing(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (tmp_path / ".s.npz.lock").symlink_to(other)
    file = written(tmp_path / "e.csv", log(world, ["a"], 3))
    with pytest.raises(InputError, match="a link"):
        stream_files(scorer, world, "run", file, tmp_path / "o.csv", state=tmp_path / "s.npz")
    assert other.read_text() == "mine"


def test_states_are_their_owners_alone(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    state, file = tmp_path / "s.npz", written(tmp_path / "e.csv", log(world, ["a"], 3))
    for _ in range(2):
        stream_files(scorer, world, "run", file, tmp_path / "o.csv", state=state)
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        state.chmod(0o644)


def test_a_call_that_fails_leaves_the_old_state(
    world: Dataset, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, state, out = log(world, ["a"], 6), tmp_path / "s.npz", tmp_path / "o.csv"
    stream_files(scorer, world, "run", written(tmp_path / "e.csv", rows[:3]), out, state=state)
    before = state.read_bytes()
    file = written(tmp_path / "e.csv", rows)
    with monkeypatch.context() as patch:
        patch.setattr("mdrec_jax.serve.stream.write_recommendations", _full)
        with pytest.raises(OSError, match="full"):
            stream_files(scorer, world, "run", file, out, state=state)
    assert state.read_bytes() == before
    assert stream_files(scorer, world, "run", file, out, state=state)[KNOWN] == 3


def _full(*_: object) -> None:
    raise OSError("the disk is full")


def test_users_of_the_data_set_start_with_what_it_has_of_them(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user\nu1\nu2\n")
    recommend_files(scorer, world, tmp_path / "known.csv", users=tmp_path / "users.csv")
    asked = written(tmp_path / "asked.csv", [("u1", "", "", 0), ("u2", "", "", 0)])
    counts = stream_files(
        scorer, world, "run", asked, tmp_path / "o.csv", state=tmp_path / "s.npz", init_from_dataset=True
    )
    assert counts["users who start with their events in the data set"] == 2
    assert_same(tmp_path / "o.csv", tmp_path / "known.csv")
    again = stream_files(
        scorer, world, "run", asked, tmp_path / "o.csv", state=tmp_path / "s.npz", init_from_dataset=True
    )
    assert not any("start" in what for what in again)


def test_a_log_that_the_data_set_holds_is_known(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    raw = {int(i): name for d in (0, 1) for i, name in world.items(d).select("id", "raw").iter_rows()}
    number = world.users()["raw"].to_list().index("u1")
    sequence = np.flatnonzero(world.sequence_user == number)[0]
    mine = range(*world.sequence_offsets[sequence : sequence + 2])
    domains = world.manifest.domains
    old = [("u1", raw[int(world.item[i])], domains[world.domain[i]], int(world.time[i])) for i in mine]
    new = log(world, ["u1"], 2, start=old[-1][3] + DAY)
    file, both = written(tmp_path / "e.csv", old[-3:] + new), written(tmp_path / "both.csv", old + new)
    counts = stream_files(
        scorer, world, "run", file, tmp_path / "o.csv", state=tmp_path / "s.npz", init_from_dataset=True
    )
    assert counts[KNOWN] == 3
    recommend_files(scorer, world, tmp_path / "whole.csv", histories=both)
    recommend_files(scorer, world, tmp_path / "appended.csv", histories=file, append=True)
    assert_same(tmp_path / "o.csv", tmp_path / "whole.csv")
    assert_same(tmp_path / "appended.csv", tmp_path / "whole.csv")


def test_users_of_the_data_set_who_start_with_nothing_are_counted(
    world: Dataset, scorer: Scorer, tmp_path: Path
) -> None:
    file = written(tmp_path / "e.csv", log(world, ["u1", "stranger"], 2, start=40 * DAY))
    counts = stream_files(scorer, world, "run", file, tmp_path / "o.csv")
    assert counts["users who start without their events in the data set (--from reads them)"] == 1
    counts = recommend_files(scorer, world, tmp_path / "o.csv", histories=file)
    assert counts["users of the data set, read from the file alone (--append adds)"] == 1
    counts = recommend_files(scorer, world, tmp_path / "o.csv", histories=file, append=True)
    assert counts["users whose events in the data set were read first"] == 1


def test_a_model_with_cooccurrence_streams_as_it_recommends(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    bonus = Cooccurrence(count_training(world, np.asarray(world.role) == 0), CooccurrenceConfig(weight=2.0))
    scorer, rows = replace(scorer, cooccurrence=bonus), log(world, ["a", "b", "c"], 9)
    state, out = tmp_path / "s.npz", tmp_path / "o.csv"
    for low, high in ((0, 4), (4, 5), (5, 9)):
        some = [row for n, row in enumerate(rows) if low <= n % 9 < high]
        stream_files(scorer, world, "run", written(tmp_path / "e.csv", some), out, state=state)
    recommend_files(scorer, world, tmp_path / "all.csv", histories=written(tmp_path / "all-in.csv", rows))
    assert_same(out, tmp_path / "all.csv")


@pytest.fixture(scope="module")
def whole_state(world: Dataset, scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    file = written(folder / "e.csv", log(world, ["a", "bé"], 3))
    stream_files(scorer, world, "run", file, folder / "o.csv", state=folder / "s.npz")
    return folder / "s.npz"


PARTS = ("format", "run", "names", "names_offsets", "time", "recent", "seen", "seen_offsets", "read", "read_offsets",
         ".events", ".mixed_layers[0][0].key")  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_states_without_a_part_or_with_a_strange_one_are_refused(
    world: Dataset, scorer: Scorer, whole_state: Path, tmp_path: Path, part: str
) -> None:
    state, asked = tmp_path / "s.npz", written(tmp_path / "e.csv", [("a", "", "", 0)])
    found = dict(np.load(whole_state))
    strange = [
        {name: value for name, value in found.items() if name != part},
        found | {part: found[part].astype(bool)},
        found | {part: found[part][None]},
        found | {part: np.concatenate([np.ravel(found[part]), np.ravel(found[part])[:1]])},
    ]
    for content in strange:
        np.savez(state, **content)
        with pytest.raises(InputError, match=r"s\.npz, column"):
            stream_files(scorer, world, "run", asked, tmp_path / "o.csv", state=state)


def test_states_that_contradict_themselves_are_refused(
    world: Dataset, scorer: Scorer, whole_state: Path, tmp_path: Path
) -> None:
    state, asked = tmp_path / "s.npz", written(tmp_path / "e.csv", [("a", "", "", 0)])
    found = dict(np.load(whole_state))
    for change in (
        {"seen": np.full_like(found["seen"], world.num_items)},
        {"recent": np.full_like(found["recent"], -1)},
        {"read_offsets": found["read_offsets"][::-1].copy()},
        {"names": np.full_like(found["names"], 0xFF)},
        {"names_offsets": np.array([0, 1, 1]), "names": found["names"][:1]},
        {"format": np.int64(1)},
    ):
        np.savez(state, **(found | change))
        if "names_offsets" in change:
            stream_files(scorer, world, "run", asked, tmp_path / "o.csv", state=state)
            continue
        with pytest.raises(InputError, match=r"s\.npz, column"):
            stream_files(scorer, world, "run", asked, tmp_path / "o.csv", state=state)


def test_no_flipped_byte_of_a_state_goes_unnoticed(world: Dataset, scorer: Scorer, whole_state: Path) -> None:
    data = whole_state.read_bytes()
    wanted = arrays(whole_state)
    broken = whole_state.with_name("broken.npz")
    for place in np.random.default_rng(0).choice(len(data), 300, replace=False).tolist():
        broken.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            states_file.read_states(broken, scorer.model, "run", world.num_items)
        except InputError:
            continue
        assert arrays(broken) == wanted  # a field of the archive that says nothing about the arrays
    for length in range(0, len(data), 97):
        broken.write_bytes(data[:length])
        with pytest.raises(InputError, match="cannot be read"):
            states_file.read_states(broken, scorer.model, "run", world.num_items)


def test_a_small_file_cannot_declare_a_large_array(
    world: Dataset, scorer: Scorer, whole_state: Path, tmp_path: Path
) -> None:
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("format.npy", header.getvalue())
    with pytest.raises(InputError, match="cannot be read"):
        states_file.read_states(tmp_path / "s.npz", scorer.model, "run", world.num_items)


def test_nothing_is_written_over_what_is_read(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    file = written(tmp_path / "e.csv", log(world, ["a"], 3))
    before = file.read_bytes()
    for call in (
        lambda: stream_files(scorer, world, "run", file, file),
        lambda: stream_files(scorer, world, "run", file, tmp_path / "o.csv", state=file),
        lambda: recommend_files(scorer, world, file, histories=file),
        lambda: recommend_files(scorer, world, file, users=tmp_path / ".." / tmp_path.name / "e.csv"),
    ):
        with pytest.raises(InputError, match="would be written over"):
            call()
    assert file.read_bytes() == before
