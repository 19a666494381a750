"""The sources of `mdrec prepare`: one reader a format, imported when it is asked for.

A reader is a plain function `read(paths: Sequence[Path], options: SourceOptions) -> RawLog`.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from mdrec_jax.data.sources.rawlog import RawLog, SourceOptions
from mdrec_jax.errors import InputError

type Reader = Callable[[Sequence[Path], SourceOptions], RawLog]

SOURCES: dict[str, tuple[str, str]] = {
    "csv": ("table", "read_csv"),
    "tsv": ("table", "read_tsv"),
    "parquet": ("table", "read_parquet"),
    "jsonl": ("table", "read_jsonl"),
    "amazon": ("amazon", "read"),
    "movielens": ("movielens", "read"),
    "recbole": ("recbole", "read"),
    "s3rec": ("s3rec", "read"),
    "abxi": ("abxi", "read"),
    "fkcb": ("fkcb", "read"),
    "xmarket": ("xmarket", "read"),
    "kuairand": ("kuairand", "read"),
    "ml1m": ("ml1m", "read"),
    "tiktok": ("tiktok", "read"),
}
"""Name -> (module of this package, function in it)."""


def find_source(name: str) -> Reader:
    """The reader of the source `name`.

    Raises:
        InputError: there is no such source.
    """
    if name not in SOURCES:
        raise InputError("unknown source", found=name, expected="one of " + " ".join(SOURCES))
    module, function = SOURCES[name]
    return getattr(import_module(f"{__name__}.{module}"), function)
