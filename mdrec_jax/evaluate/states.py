"""A file of people's states between two calls: arrays by name in a .npz, without pickle."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int64

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.ragged import Ragged, from_lengths
from mdrec_jax.files import replacing
from mdrec_jax.models.api import Model
from mdrec_jax.models.streaming import StreamState, initial_state

FORMAT = 1


@dataclass(frozen=True)
class States:
    """U people."""

    names: list[str]
    """As the files of events have them."""
    state: StreamState
    """Of numpy arrays, float32."""
    time: Int64[np.ndarray, "U"]
    """Of the last event, seconds since the epoch; the least int64 where none had a time."""
    seen: Ragged
    """The items of the catalogue that each has had, ascending: the only part that grows with a history, and no part of
    what the model reads."""

    @classmethod
    def none(cls, model: Model) -> "States":
        return cls([], _fresh(model, 0), _never(0), Ragged(np.zeros(1, np.int64), np.zeros(0, np.int32)))

    def including(self, names: list[str], model: Model) -> tuple[Int64[np.ndarray, "P"], "States"]:
        """(the places of these people, all states); those who were not there are added."""
        place = {name: number for number, name in enumerate(self.names)}
        for name in names:
            place.setdefault(name, len(place))
        new = len(place) - len(self.names)
        state = jax.tree.map(lambda *parts: np.concatenate(parts), self.state, _fresh(model, new))
        offsets = np.concatenate([self.seen.offsets, np.full(new, self.seen.offsets[-1])])
        time = np.concatenate([self.time, _never(new)])
        states = States(list(place), state, time, Ragged(offsets, self.seen.values))
        return np.array([place[name] for name in names], np.int64), states

    def seen_with(self, person: Int64[np.ndarray, "P"], items: Ragged) -> Ragged:
        """What each has had when list p is added to what person `person[p]` had."""
        owner = np.concatenate([self.seen.owner, person[items.owner]])
        values = np.concatenate([self.seen.values, items.values])
        order = np.argsort(owner, kind="stable")
        lengths = np.bincount(owner, minlength=len(self.seen))
        return Ragged(from_lengths(lengths), values[order]).unique()


def _fresh(model: Model, people: int) -> StreamState:
    return jax.tree.map(np.asarray, initial_state(model, people))


def _never(people: int) -> Int64[np.ndarray, "U"]:
    return np.full(people, np.iinfo(np.int64).min)


def write_states(path: Path, states: States, run: str) -> None:
    """Writes the file; it appears whole or not at all."""
    arrays = {
        "format": np.int64(FORMAT),
        "run": np.str_(run),
        "names": np.array(states.names, np.str_),
        "time": states.time,
        "seen_offsets": states.seen.offsets,
        "seen_items": states.seen.values,
    }
    leaves = {jax.tree_util.keystr(name): leaf for name, leaf in jax.tree_util.tree_leaves_with_path(states.state)}
    with replacing(path, private=True) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays, **leaves)


def read_states(path: Path, model: Model, run: str) -> States:
    """The states of a file; none where there is no such file.

    Raises:
        InputError: not a file of states, or one of another run.
    """
    if not path.exists():
        return States.none(model)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError("cannot be read", file=path, found=error, expected="a file of states") from None
    found = arrays.get("format")
    if found is None or found != FORMAT:
        raise InputError("not a file of states", file=path, column="format", found=found, expected=str(FORMAT))
    if str(arrays["run"]) != run:
        hint = "start without the file, from everyone's whole history"
        raise InputError(
            "the states are of another model", file=path, column="run", found=arrays["run"], expected=run, hint=hint
        )
    names = arrays["names"].tolist()
    wanted, tree = jax.tree_util.tree_flatten_with_path(_fresh(model, 0))
    leaves = []
    for name, like in wanted:
        leaf = arrays.get(jax.tree_util.keystr(name))
        expected = (len(names), *like.shape[1:])
        if leaf is None or leaf.shape != expected or leaf.dtype != like.dtype:
            found = None if leaf is None else f"{leaf.dtype} {leaf.shape}"
            raise InputError(
                "the states do not fit the model",
                file=path,
                column=jax.tree_util.keystr(name),
                found=found,
                expected=f"{like.dtype} {expected}",
            )
        leaves.append(leaf)
    seen = Ragged(arrays["seen_offsets"], arrays["seen_items"])
    return States(names, jax.tree.unflatten(tree, leaves), arrays["time"], seen)
