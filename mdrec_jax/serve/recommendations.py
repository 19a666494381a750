"""Recommendations from files to a file: for users or histories, with titles and scores, everything unknown counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.scorer import Scorer
from mdrec_jax.files import check_writable, replacing
from mdrec_jax.serve.given_files import NO_NAMES, ItemList, read_item_list
from mdrec_jax.serve.recommend import NOTHING_ALLOWED, Choice, Lists, recommend
from mdrec_jax.serve.users import Users, after_known, read_histories, read_users

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
    append: bool = False,
    time_unit: str | None = None,
    columns: Mapping[str, str] = NO_NAMES,
    skip_bad_rows: bool = False,
) -> dict[str, int]:
    """Recommends for all users in a file and writes `out` (.csv, .jsonl or .parquet; see `to_frame`).

    Args:
        scorer: the model.
        dataset: the data set that it was trained on.
        out: the file to write.
        users, histories: exactly one of them (`read_users`, `read_histories`).
        domain: recommend from this one; None = from each in turn.
        allow, deny: lists of the items that may, that may not be recommended (`read_item_list`).
        k: items a user and domain.
        keep_seen: also recommend what the user had already.
        append: what the data set has of its own users comes before what `histories` has; else it is not read.
        time_unit, skip_bad_rows: of the histories (`read_histories`).
        columns: the names of the files' columns that the caller gives (`given_files.read_columns`).

    Returns:
        What was unknown or left out, and who got the popularity list or a short one, counted by reason.

    Raises:
        InputError: files that cannot be read, or options that leave nothing to recommend.
    """
    check_output(out, users, histories, allow, deny)
    if (users is None) == (histories is None):
        found = "neither" if users is None else "both"
        raise InputError("exactly one file of users is read", found=found, expected="either --users or --histories")
    names = dataset.manifest.domains
    chosen = range(len(names)) if domain is None else [dataset.domain_index(domain)]
    if histories is not None:
        recipients = read_histories(
            histories, dataset, time_unit=time_unit, columns=columns, skip_bad_rows=skip_bad_rows
        )
        recipients = after_known(recipients, dataset, histories) if append else _beside_known(recipients, dataset)
    else:
        assert users is not None
        recipients = read_users(users, dataset, columns)
    lists = {
        option: read_item_list(path, dataset, columns)
        for option, path in (("allow", allow), ("deny", deny))
        if path is not None
    }
    counts, frames = Counter(recipients.counts), []
    for option, listed in lists.items():
        counts[f"users of the list who get no recommendations ({option})"] = listed.not_among(recipients.names)
    for one in chosen:
        choice = _choice(lists, dataset, one, recipients.names, counts, Choice(k=k, keep_seen=keep_seen))
        found = recommend(scorer, dataset, recipients, one, choice)
        counts.update(told(found, names[one], k))
        frames.append(to_frame(dataset, recipients, one, found))
    write_recommendations(out, frames)
    return {what: number for what, number in counts.items() if number}


def _beside_known(users: Users, dataset: Dataset) -> Users:
    """Counts the data set's own users among the histories: what they did there is not read."""
    number = int((dataset.lookup_users(users.names) >= 0).sum())
    return replace(
        users, counts=users.counts | {"users of the data set, read from the file alone (--append adds)": number}
    )


def _choice(
    lists: Mapping[str, ItemList], dataset: Dataset, domain: int, names: list[str], counts: Counter[str], choice: Choice
) -> Choice:
    """`choice` with the lists of one domain; what it does not have is counted."""
    for option, listed in lists.items():
        ids, unknown = listed.ids(dataset, domain)
        counts[f"listed items that {dataset.manifest.domains[domain]} does not have"] += unknown
        if listed.users is None:
            choice = replace(choice, **{option: np.unique(ids[ids != UNKNOWN_ITEM])})
        else:
            choice = replace(choice, **{f"{option}_each": listed.by_user(names, ids)})
    return choice


def told(lists: Lists, domain: str, k: int) -> dict[str, int]:
    """What is worth knowing about the lists of a domain, counted."""
    counts = Counter(
        f"{'no list' if reason == NOTHING_ALLOWED else 'popularity lists'} in {domain}: {reason}"
        for reason in lists.fallback
        if reason
    )
    length = (lists.item > 0).sum(1)
    counts[f"lists shorter than {k} in {domain}"] = int(((length > 0) & (length < k)).sum())
    counts[f"items of {domain} left out as seen"] = lists.seen
    return counts


def to_frame(dataset: Dataset, users: Users, domain: int, lists: Lists) -> pl.DataFrame:
    """A row for each recommended item: user, domain, rank (from 1), item and title as the source has them, score,
    fallback (why it comes from the popularity list; null where the model chose it)."""
    there = lists.item > 0
    user, column = np.nonzero(there)
    names = pl.Series("user", users.names, pl.String)
    reasons = pl.Series("fallback", [reason or None for reason in lists.fallback], pl.String)
    frame = pl.DataFrame(
        {
            "user": names.gather(user),
            "domain": pl.Series([dataset.manifest.domains[domain]] * len(user), dtype=pl.String),
            "rank": (column + 1).astype(np.int32),
            "id": lists.item[there],
            "score": lists.score[there].astype(np.float64),
            "fallback": reasons.gather(user),
        }
    )
    items = dataset.items(domain).select("id", item="raw", title="title")
    frame = frame.join(items, on="id", how="left", maintain_order="left")
    return frame.select("user", "domain", "rank", "item", "title", "score", "fallback")


def write_recommendations(path: Path, frames: Sequence[pl.DataFrame]) -> None:
    """Writes CSV (`without_formulas`), JSONL or Parquet, as the name ends. The file appears whole or not at all.

    Raises:
        InputError: another ending, or no room.
    """
    check_ending(path)
    frame = pl.concat(frames)
    with replacing(path) as part:
        if path.suffix == ".csv":
            without_formulas(frame).write_csv(part)
        elif path.suffix == ".jsonl":
            frame.write_ndjson(part)
        else:
            _write_parquet(frame, part)


def _write_parquet(frame: pl.DataFrame, part: Path) -> None:
    try:
        frame.write_parquet(part)
    except pl.exceptions.PolarsError as error:  # what the system says of a full disk comes as this
        raise OSError(str(error).splitlines()[0]) from error


def check_output(path: Path, *inputs: Path | None) -> None:
    """`check_ending`, and refuses a file that is also read.

    Raises:
        InputError: as `check_ending`, or `path` is one of `inputs`.
    """
    check_ending(path)
    for other in inputs:
        if other is not None and other.resolve() == path.resolve():
            raise InputError("would be written over", file=other, column="--out", expected="another file than is read")


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
    formula = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
    columns = []
    for name in frame.columns:
        text = pl.col(name)
        if frame.schema[name] == pl.String:
            marked = text.str.contains(formula) & ~text.str.contains(r"^[+-]?[0-9]+(?:\.[0-9]+)?$")
            text = pl.when(marked).then(pl.concat_str(pl.lit("'"), text)).otherwise(text)
        columns.append(text.alias(name))
    return frame.select(columns)
