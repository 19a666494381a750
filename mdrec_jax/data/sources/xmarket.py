"""XMarket as FOREC published it: a file a country, `<market>_5core.txt`, with `userId itemId rate date` in a line.

Markets are domains that share their items and hardly a user. Equal user ids in two markets are one user. Repeated
(user, item) pairs are in the files and stay. Dates have no time of day, so the order of a day's events is the tie
rule's affair (`file`: as published). Source: Bonab et al., "Cross-Market Product Recommendation" (CIKM 2021).
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.lines import locate_rows, require_filled, split_lines, to_days, to_floats
from mdrec_jax.data.sources.rawlog import OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import find_in, require_file
from mdrec_jax.errors import InputError

_SUFFIX = "_5core.txt"


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads every market of the given folders, or the given files.

    Raises:
        InputError: no market's file, a market given twice, or a malformed line.
    """
    options.refuse("xmarket", *OPTION_NAMES)
    files = _market_files(paths)
    frames = [_market(path).with_columns(pl.lit(market).alias("domain")) for market, path in files.items()]
    rows = [(path, frame["row"]) for path, frame in zip(files.values(), frames, strict=True)]
    events = pl.concat(frames).select(
        pl.exclude("row"), pl.lit("review").alias("event"), pl.int_range(pl.len(), dtype=pl.Int64).alias("order")
    )
    return RawLog(
        events=events.lazy(),
        has_time=True,
        ordered=True,
        files=tuple(files.values()),
        default_split="loo",
        domains=tuple(files),
        event_types=("review",),
        locate=locate_rows(rows),
    )


def _market_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Market -> its file, sorted by market."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            names = sorted({file.name.removesuffix(".gz") for file in path.glob(f"*{_SUFFIX}*")})
            found += [find_in(path, name) for name in names]
        else:
            found.append(require_file(path, f"a file MARKET{_SUFFIX}"))
    markets: dict[str, Path] = {}
    for path in found:
        market, suffix, rest = path.name.partition(_SUFFIX)
        if not market or not suffix or rest not in ("", ".gz"):
            raise InputError("not a market's file", file=path, found=path.name, expected=f"MARKET{_SUFFIX}")
        if market in markets:
            raise InputError("a market given twice", file=path, found=market, expected=f"only {markets[market]}")
        markets[market] = path
    if not markets:
        where = paths[0] if paths else None
        raise InputError("no market's file", file=where, expected=f"files MARKET{_SUFFIX}, plain or .gz")
    return dict(sorted(markets.items()))


def _market(path: Path) -> pl.DataFrame:
    frame = split_lines(path, " ", ["userId", "itemId", "rate", "date"], header=True)
    require_filled(frame, ["userId", "itemId"], path)
    frame = to_days(to_floats(frame, "rate", path), "date", path)
    return frame.select(
        "row",
        pl.col("userId").alias("user"), pl.col("itemId").alias("item"), pl.col("date").alias("time"),
        pl.col("rate").alias("rating"),
    )  # fmt: skip
