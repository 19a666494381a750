"""Serving from a file of states: what several calls answer is what one call on everyone's whole history answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.scorer import Scorer, make_scorer
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.parallel.mesh import MeshConfig, make_mesh
from mdrec_jax.serve import stream as streaming
from mdrec_jax.serve.recommend import NO_HISTORY
from mdrec_jax.serve.recommendations import recommend_files
from mdrec_jax.serve.stream import stream_files
from tests.evaluate.worlds import two_domains

ENCODER = RecommenderConfig(dim=8, layers=1, attention_window=4, init_scale=0.5, positions="rotary")
type Event = tuple[str, str, str, int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("stream") / "world")


@pytest.fixture(scope="module")
def scorer(world: Dataset) -> Scorer:
    config = replace(ENCODER, views=ViewsConfig(in_domain=True), user_memory=True)
    model = make_model(config, world.spec)
    batching = BatchingConfig(rows=4, row_length=48, max_length=24)
    return make_scorer(model, model.init(jax.random.key(0)), batching, mesh=make_mesh(MeshConfig(data=2)))


def log(world: Dataset, lengths: Sequence[int], seed: int = 0) -> list[Event]:
    """Events of as many users, in the order of their times; one item in twenty is unknown."""
    rng, rows = np.random.default_rng(seed), []
    raw = [world.items(domain)["raw"].to_list() for domain in (0, 1)]
    for person, length in enumerate(lengths):
        for time in rng.choice(10_000, length, replace=False):
            domain = int(rng.integers(2))
            item = "lost" if rng.random() < 0.05 else str(rng.choice(raw[domain][:20]))
            rows.append((f"p{person}", item, world.manifest.domains[domain], int(time)))
    return sorted(rows, key=lambda row: row[3])


def written(path: Path, rows: Sequence[Event]) -> Path:
    pl.DataFrame(rows, schema=["user", "item", "domain", "time"], orient="row").write_csv(path)
    return path


def answers(path: Path) -> dict[tuple[str, str], list[tuple]]:
    """By person and domain: items, scores, and why they are the popular ones."""
    table = pl.read_csv(path, schema_overrides={"fallback": pl.String})
    return {
        (row[0], row[1]): sorted(zip(row[2], row[3], row[4], strict=True))
        for row in table.group_by("user", "domain").agg("rank", "item", "fallback").iter_rows()
    }


def test_calls_with_a_file_of_states_answer_as_one_call_with_everything(
    world: Dataset, scorer: Scorer, tmp_path: Path
) -> None:
    rows = log(world, [20, 15, 12, 3, 1])
    states, out = tmp_path / "states.npz", tmp_path / "out.csv"
    found = {}
    for number, part in enumerate((rows[:16], rows[16:20], rows[20:])):
        file = written(tmp_path / f"{number}.csv", part)
        stream_files(scorer, world, "a run", file, out, state=states, k=5)
        found |= answers(out)
    recommend_files(scorer, world, tmp_path / "all.csv", histories=written(tmp_path / "all-in.csv", rows), k=5)
    assert found == answers(tmp_path / "all.csv")


def test_without_a_file_of_states_everyone_starts_afresh(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    events = written(tmp_path / "events.csv", log(world, [9, 5], seed=1))
    counts = stream_files(scorer, world, "a run", events, tmp_path / "a.csv", domain="films", k=3, keep_seen=True)
    assert counts["new users"] == 2
    assert stream_files(scorer, world, "b", events, tmp_path / "b.csv", domain="films", k=3, keep_seen=True) == counts
    recommend_files(scorer, world, tmp_path / "c.csv", histories=events, domain="films", k=3, keep_seen=True)
    assert answers(tmp_path / "a.csv") == answers(tmp_path / "b.csv") == answers(tmp_path / "c.csv")
    assert not list(tmp_path.glob("*.npz"))


def test_a_person_may_be_asked_about_without_a_new_event(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    states, out = tmp_path / "states.npz", tmp_path / "out.csv"
    stream_files(scorer, world, "a run", written(tmp_path / "a.csv", log(world, [9, 5])), out, state=states)
    before = answers(out)
    asked = written(tmp_path / "b.csv", [("p1", "", "", 0), ("nobody", "", "", 0)])
    counts = stream_files(scorer, world, "a run", asked, out, state=states)
    popular = {f"popularity lists in {name}: {NO_HISTORY}": 1 for name in ("books", "films")}
    assert counts == {"new users": 1} | popular | {what: n for what, n in counts.items() if "seen" in what}
    after = answers(out)
    assert all(after["p1", domain] == before["p1", domain] for domain in world.manifest.domains)


def test_the_file_of_states_holds_plain_arrays_of_one_size(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    rows, sizes = log(world, [20, 20]), []
    for number, part in enumerate((rows[:10], rows[10:])):
        stream_files(
            scorer, world, "a run", written(tmp_path / "e.csv", part), tmp_path / "o.csv", state=tmp_path / "s.npz"
        )
        with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
            sizes.append({name: file[name].shape for name in file.files if not name.startswith(("seen", "read"))})
            assert file["names"].tobytes() == b"p0p1", number
    assert sizes[0] == sizes[1]


def test_a_state_has_read_the_events_of_its_own_person_alone(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    """Read side by side, in blocks as long as the longest history."""
    rows, states = log(world, [40, 3, 17, 1], seed=2), tmp_path / "s.npz"
    stream_files(scorer, world, "a run", written(tmp_path / "e.csv", rows), tmp_path / "o.jsonl", state=states)
    with np.load(states, allow_pickle=False) as file:
        arrays = dict(file)
    domains = list(world.manifest.domains)
    names = sorted({row[0] for row in rows}, key=[row[0] for row in rows].index)
    assert arrays["names"].tobytes().decode() == "".join(names)
    for name, events, time in zip(names, arrays[".events"], arrays["time"], strict=True):
        mine = [row for row in rows if row[0] == name]
        assert events.tolist() == [sum(row[2] == domain for row in mine) for domain in domains]
        assert time == max(row[3] for row in mine)
    assert states.stat().st_mode & 0o077 == 0


def test_the_tolerance_of_loops_reaches_the_model(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    events = written(tmp_path / "e.csv", log(world, [3]))
    with pytest.raises(ValueError, match="tolerance"):
        stream_files(scorer, world, "a run", events, tmp_path / "o.jsonl", tolerance=1.0)


def test_states_that_do_not_fit_are_refused(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    rows, states, out = log(world, [9, 5]), tmp_path / "states.npz", tmp_path / "out.csv"
    events = written(tmp_path / "a.csv", rows)
    stream_files(scorer, world, "a run", events, out, state=states)
    late = written(tmp_path / "b.csv", [(*rows[-1][:3], 20_000)])
    with pytest.raises(InputError, match="another model"):
        stream_files(scorer, world, "another run", late, out, state=states)
    arrays = dict(np.load(states))
    np.savez(states, **(arrays | {".mixed": arrays[".mixed"][:, :3]}))
    with pytest.raises(InputError, match=r"not the states of this model[\s\S]*float32 \(2, 8\)"):
        stream_files(scorer, world, "a run", late, out, state=states)
    for content, message in ((b"no archive", "cannot be read"), (b"", "cannot be read")):
        states.write_bytes(content)
        with pytest.raises(InputError, match=message):
            stream_files(scorer, world, "a run", late, out, state=states)
    np.savez(states, a=np.zeros(1))
    with pytest.raises(InputError, match="not the states of this model"):
        stream_files(scorer, world, "a run", late, out, state=states)


def test_a_model_with_learned_positions_is_refused(world: Dataset, tmp_path: Path) -> None:
    model = make_model(RecommenderConfig(dim=8, layers=1, attention_window=4), world.spec)
    scorer = make_scorer(model, model.init(jax.random.key(0)), BatchingConfig(rows=4, row_length=24, max_length=10))
    with pytest.raises(ConfigError, match=r"model\.positions.*\n.*learned"):
        stream_files(scorer, world, "a run", written(tmp_path / "a.csv", log(world, [3])), tmp_path / "out.csv")


def test_a_models_times_begin_with_the_data_set(
    world: Dataset, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, read = replace(world, manifest=replace(world.manifest, time_origin=50)), []
    update = lambda *_: lambda params, now, events: read.append(jax.device_get(events)) or now  # noqa: E731
    monkeypatch.setattr(streaming, "_update", update)
    raw = world.items(0)["raw"].to_list()
    rows = [("a", raw[0], "books", 70), ("b", raw[1], "books", 60), ("a", raw[2], "books", 95)]
    stream_files(scorer, later, "run", written(tmp_path / "e.csv", rows), tmp_path / "out.csv")
    (events,) = read
    ids = world.lookup_items([raw[0], raw[2], raw[1]], ["books"] * 3)
    np.testing.assert_array_equal(events.item[:2], [ids[:2], [ids[2], 0]])
    np.testing.assert_array_equal(events.time[:2], [[20, 45], [10, 0]])
