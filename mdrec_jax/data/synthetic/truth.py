"""The truth beside the data: `truth/` of a dataset that was made from a planted world."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int

from mdrec_jax.codec import from_plain, to_plain
from mdrec_jax.data.dataset import Dataset, items_file
from mdrec_jax.data.synthetic.config import SyntheticConfig
from mdrec_jax.data.synthetic.events import Events
from mdrec_jax.data.synthetic.factors import Factors
from mdrec_jax.data.synthetic.oracle import History, make_history, next_item_odds
from mdrec_jax.data.synthetic.rawlog import item_names, user_names
from mdrec_jax.errors import InputError

EVENT_FIELDS = ("session", "intent", "noise", "channel", "value", "gap")
_EMPTY = {"item_home": -1, "item_theme": -1, "item_group": -1, "item_leaf": -1, "item_channel": -1, "item_value": -1}
_FORMULA = (
    "logit(item) = (preference * user_shared + intent_strength * intent_shared + transition * "
    "item_shared[previous] @ shared_rotation) . item_shared[item] + (the same with the specific factors of the event's "
    "domain and the previous item of that domain) + item_bias[item]; only genuine ordinary items count as previous; "
    "with probability routine, the item of the domain that came next when the user last met the domain's previous item"
)


@dataclass(frozen=True)
class Truth:
    """What a planted world knows of a dataset: factors by internal id, and facts of every event.

    Args:
        config: what the world was made from.
        factors: rows are users and item ids of the dataset (rows 0 and 1 of items are empty).
        session: [N] number of the event's session within its user.
        intent: [N] the session's short-term intent.
        noise: [N] whether the event was drawn by popularity alone.
        channel, value: [N] the long intent that decided the event, -1 = none.
        gap: [N] how many events back the key of that intent lies, 0 = none.
    """

    config: SyntheticConfig
    factors: Factors
    session: Int[np.ndarray, " N"]
    intent: Int[np.ndarray, " N"]
    noise: Bool[np.ndarray, " N"]
    channel: Int[np.ndarray, " N"]
    value: Int[np.ndarray, " N"]
    gap: Int[np.ndarray, " N"]


def write_truth(folder: Path, config: SyntheticConfig, factors: Factors, events: Events) -> None:
    """Writes `folder`/truth for a dataset whose columns and tables stand in `folder` already."""
    users = _numbers(user_names(config), pl.read_parquet(folder / "users.parquet")["raw"], np.arange(config.users))
    tables = [pl.read_parquet(folder / items_file(name)) for name in config.domain_names]
    known = pl.concat([table.select("raw", "id") for table in tables]).unique("raw")
    items = _numbers(item_names(factors), known["raw"], known["id"].to_numpy())
    order = np.argsort(users[events.user], kind="stable")
    if not np.array_equal(items[events.item[order]], np.load(folder / "columns" / "item.npy")):
        raise AssertionError("the prepared events are not the planted ones in their order")
    place = folder / "truth"
    place.mkdir()
    values = factor_arrays(_renumber(factors, users, items))
    values |= {f"event_{name}": getattr(events, name)[order] for name in EVENT_FIELDS}
    for name, array in values.items():
        np.save(place / f"{name}.npy", _compact(array))
    note = {"config": to_plain(config), "formula": _FORMULA, "arrays": {n: list(a.shape) for n, a in values.items()}}
    (place / "truth.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def load_truth(dataset: Dataset) -> Truth:
    """The truth of a dataset that `write_world` wrote.

    Raises:
        InputError: the dataset has none.
    """
    place = dataset.path / "truth"
    if not (place / "truth.json").is_file():
        raise InputError("no planted truth", file=dataset.path, expected="a dataset made by `mdrec synthetic`")
    note = json.loads((place / "truth.json").read_text(encoding="utf-8"))
    arrays = {name: np.load(place / f"{name}.npy") for name in note["arrays"]}
    events = {name: arrays.pop(f"event_{name}") for name in EVENT_FIELDS}
    ids = tuple(np.asarray(ids, np.int64) for ids in dataset.domain_items)
    return Truth(
        config=from_plain(SyntheticConfig, note["config"]), factors=Factors(**arrays, domain_items=ids), **events
    )


def truth_history(truth: Truth, dataset: Dataset) -> History:
    """What lies before each event of the dataset (all of it, whatever the roles)."""
    return make_history(
        user=np.repeat(dataset.sequence_user, np.diff(dataset.sequence_offsets)),
        item=np.asarray(dataset.item, np.int64),
        domain=np.asarray(dataset.domain, np.int64),
        intent=truth.intent,
        noise=truth.noise,
        channel=truth.channel,
        value=truth.value,
        item_kind=truth.factors.item_kind,
    )


def oracle_scores(
    truth: Truth,
    history: History,
    events: Int[np.ndarray, " Q"],
    domain: int,
    *,
    knows_intent: bool = False,
    block: int = 256,
) -> Float64[np.ndarray, "Q I"]:
    """Scores of the best possible ranking: the probability that event e of the dataset is each item of `domain`.

    Args:
        history: of `truth_history`.
        events: indices of events of `domain`; columns follow `dataset.domain_items[domain]`.
        knows_intent: also tell it the intent of the session that the event itself belongs to.
        block: events worked on at once.
    """
    parts = [events[start : start + block] for start in range(0, len(events), block)]
    return np.concatenate(
        [next_item_odds(truth.config, truth.factors, history, p, domain, knows_intent=knows_intent) for p in parts]
    )


def factor_arrays(factors: Factors) -> dict[str, np.ndarray]:
    """The arrays of the factors by name; `domain_items` is left out, the dataset has it."""
    return {f.name: getattr(factors, f.name) for f in dataclasses.fields(factors) if f.name != "domain_items"}


def _numbers(names: list[str], known: pl.Series, numbers: np.ndarray) -> Int[np.ndarray, " n"]:
    """The dataset's number of each name."""
    table = dict(zip(known.to_list(), numbers.tolist(), strict=True))
    return np.array([table[name] for name in names])


def _renumber(factors: Factors, users: np.ndarray, items: np.ndarray) -> Factors:
    """The factors with the dataset's numbers; rows of item ids that hold no item are zero (-1 for labels)."""
    changed: dict[str, np.ndarray] = {"long_sets": items[factors.long_sets]}
    for name, array in factor_arrays(factors).items():
        if name.startswith("user_"):
            changed[name] = array[np.argsort(users)]
        elif name.startswith("item_"):
            changed[name] = np.full((int(items.max()) + 1, *array.shape[1:]), _EMPTY.get(name, 0), array.dtype)
            changed[name][items] = array
    ids = tuple(np.sort(items[own]) for own in factors.domain_items)
    return dataclasses.replace(factors, domain_items=ids, **changed)


def _compact(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32) if array.dtype == np.int64 else array
