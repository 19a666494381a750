"""Recommendations from files to a file: for users or histories, with titles and scores, everything unknown counted."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.people import People, read_histories, read_item_list, read_users
from mdrec_jax.evaluate.recommend import Choice, Lists, recommend
from mdrec_jax.evaluate.scorer import Scorer
from mdrec_jax.files import check_writable, replacing

ENDINGS = (".csv", ".jsonl", ".parquet")


def recommend_files(
    scorer: Scorer,
    dataset: Dataset,
    out: Path,
    *,
    users: Path | None = None,
    histories: Path | None = None,
    domain: str | None = None,
    allow: Path | None = None,
    deny: Path | None = None,
    k: int = 10,
    keep_seen: bool = False,
    time_unit: str | None = None,
) -> dict[str, int]:
    """Recommends for everyone in a file and writes `out` (.csv, .jsonl or .parquet; see `to_frame`).

    Args:
        scorer: the model.
        dataset: the data set that it was trained on.
        out: the file to write.
        users, histories: exactly one of them (`read_users`, `read_histories`).
        domain: recommend from this one; None = from each in turn.
        allow, deny: at most one of them, a list of items (`read_item_list`).
        k: items a person and domain.
        keep_seen: also recommend what the person had already.
        time_unit: of the histories (`read_histories`).

    Returns:
        What was unknown, and who got the popularity list, counted by reason.

    Raises:
        InputError: files that cannot be read, or options that leave nothing to recommend.
    """
    check_ending(out)
    if (users is None) == (histories is None):
        raise InputError("for whom?", expected="either --users or --histories")
    if allow is not None and deny is not None:
        raise InputError("give at most one list of items", expected="either --allow or --deny")
    if histories is not None:
        people = read_histories(histories, dataset, time_unit=time_unit)
    else:
        people = read_users(_given(users), dataset)
    names = dataset.manifest.domains
    chosen = range(len(names)) if domain is None else [dataset.domain_index(domain)]
    counts, frames = Counter(people.counts), []
    for one in chosen:
        choice = Choice(k=k, keep_seen=keep_seen)
        if allow is not None or deny is not None:
            ids, unknown = read_item_list(_given(allow or deny), dataset, one)
            counts[f"listed items that {names[one]} does not have"] += unknown
            choice = Choice(k, ids, keep_seen=keep_seen) if allow is not None else Choice(k, None, ids, keep_seen)
        lists = recommend(scorer, dataset, people, one, choice)
        counts.update(f"popularity lists in {names[one]}: {reason}" for reason in lists.fallback if reason)
        frames.append(to_frame(dataset, people, one, lists))
    write_recommendations(out, frames)
    return {what: number for what, number in counts.items() if number}


def _given(path: Path | None) -> Path:
    assert path is not None
    return path


def to_frame(dataset: Dataset, people: People, domain: int, lists: Lists) -> pl.DataFrame:
    """A row for each recommended item: user, domain, rank (from 1), item and title as the source has them, score,
    fallback (why it comes from the popularity list; null where the model chose it)."""
    there = lists.item > 0
    person, column = np.nonzero(there)
    names = pl.Series("user", people.names, pl.String)
    reasons = pl.Series("fallback", [reason or None for reason in lists.fallback], pl.String)
    frame = pl.DataFrame(
        {
            "user": names.gather(person),
            "domain": pl.Series([dataset.manifest.domains[domain]] * len(person), dtype=pl.String),
            "rank": (column + 1).astype(np.int32),
            "id": lists.item[there],
            "score": lists.score[there].astype(np.float64),
            "fallback": reasons.gather(person),
        }
    )
    items = dataset.items(domain).select("id", item="raw", title="title")
    frame = frame.join(items, on="id", how="left", maintain_order="left")
    return frame.select("user", "domain", "rank", "item", "title", "score", "fallback")


def write_recommendations(path: Path, frames: Sequence[pl.DataFrame]) -> None:
    """Writes CSV (`without_formulas`), JSONL or Parquet, as the name ends. The file appears whole or not at all.

    Raises:
        InputError: another ending.
    """
    check_ending(path)
    frame = pl.concat(frames)
    with replacing(path) as part:
        if path.suffix == ".csv":
            without_formulas(frame).write_csv(part)
        elif path.suffix == ".jsonl":
            frame.write_ndjson(part)
        else:
            frame.write_parquet(part)


def check_ending(path: Path) -> None:
    """Refuses a file whose format its name does not say, or whose place is taken.

    Raises:
        InputError: an unknown ending, a folder, or a folder that is a file.
    """
    check_writable(path)
    if path.suffix not in ENDINGS:
        raise InputError("unknown format", file=path, found=path.suffix, expected=" ".join(ENDINGS), column="--out")


def without_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with ' before each text that a spreadsheet would take for a formula (OWASP, "CSV injection"): one that
    begins with = + - @, a tab or a line end and is no plain number."""
    text = pl.col(pl.String)
    formula = text.str.contains(r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]") & ~text.str.contains(
        r"^[+-]?[0-9]+(?:\.[0-9]+)?$"
    )
    return frame.with_columns(pl.when(formula).then(pl.concat_str(pl.lit("'"), text)).otherwise(text).name.keep())
