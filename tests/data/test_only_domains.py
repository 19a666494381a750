"""A domain by itself is asked for what it is asked for beside the others."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.prepare import PrepareOptions
from mdrec_jax.errors import InputError
from tests.data.make import make_dataset, numbered

EVENTS = numbered(30, 12, 40, ("books", "films", "games"))


def by_role(dataset: Dataset, domain: str, role: int) -> set[tuple[str, str]]:
    """(user, item) of the events of a role in a domain."""
    number = dataset.manifest.domains.index(domain)
    raw = dict(dataset.items(domain).select("id", "raw").iter_rows())
    users = dataset.users()["raw"].to_list()
    user = np.repeat(np.asarray(dataset.sequence_user), np.diff(dataset.sequence_offsets))
    which = (np.asarray(dataset.domain) == number) & (np.asarray(dataset.role) == role)
    return {(users[u], raw[i]) for u, i in zip(user[which], np.asarray(dataset.item)[which], strict=True)}


@pytest.mark.parametrize("rule", ["loo", "loo-mixed"])
def test_the_targets_stay_and_the_other_domains_go(rule: str, tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole", EVENTS, PrepareOptions(split=rule))
    some = make_dataset(tmp_path / "some", EVENTS, PrepareOptions(split=rule, only_domains=("games", "films")))
    assert some.manifest.domains == ("films", "games")
    for domain in some.manifest.domains:
        for role in range(3):
            assert by_role(some, domain, role) == by_role(whole, domain, role)
    counts = some.manifest.counts
    assert counts.events + counts.dropped["other domains"] == whole.manifest.counts.events
    assert counts.domains == {name: whole.manifest.counts.domains[name] for name in ("films", "games")}


def test_metadata_of_other_domains_goes_too(tmp_path: Path) -> None:
    items = {name: pl.DataFrame({"item": ["i0"], "title": [name]}) for name in ("books", "films")}
    options = PrepareOptions(only_domains=("books",))
    dataset = make_dataset(tmp_path / "some", EVENTS, options, items=items)
    assert dataset.items("books").filter(pl.col("raw") == "i0")["title"].to_list() == ["books"]


def test_an_unknown_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)--only-domains.*unknown domain.*shoes.*books, films, games"):
        make_dataset(tmp_path / "some", EVENTS, PrepareOptions(only_domains=("books", "shoes")))
    assert not (tmp_path / "some").exists()
