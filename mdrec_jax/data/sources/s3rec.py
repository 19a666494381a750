"""S3-Rec's files: `NAME.txt`, a line a user, `user item item ...` in time order, with `NAME_item2attributes.json`.

Source: Zhou et al., "S3-Rec" (CIKM 2020). A folder holds the two files, or holds them in `s3rec/`. Where it also holds
`gram/NAME/user_sequence.txt` (the same sequences with Amazon's ids, line by line), items take Amazon's ids as raw ids,
and `idgenrec/NAME/item_generative_indexing_phase_0.txt` (a few words an item) gives their titles.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.rawlog import ITEM_SCHEMA, OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import find_in, one_path, parse_int, read_json, read_lines, require_folder
from mdrec_jax.errors import InputError

ATTRIBUTES = "_item2attributes.json"


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads one folder, or the NAME.txt of one.

    Raises:
        InputError: a file is missing or malformed, or two files disagree.
    """
    options.refuse("s3rec", *OPTION_NAMES)
    folder, inner, name = _locate(one_path(paths, "S3-Rec's folder, or NAME.txt in it"))
    events_file = find_in(inner, f"{name}.txt")
    attributes_file = find_in(inner, f"{name}{ATTRIBUTES}", optional=True)
    amazon_file = find_in(folder, f"gram/{name}/user_sequence.txt", optional=True)
    words_file = find_in(folder, f"idgenrec/{name}/item_generative_indexing_phase_0.txt", optional=True)
    rows, users, items = _sequences(events_file)
    raw = {item: item for item in items}
    if amazon_file is not None:
        raw = _amazon_ids(amazon_file, events_file, rows)
    titles = dict(_words(words_file)) if words_file is not None and amazon_file is not None else {}
    attributes = _attributes(attributes_file) if attributes_file is not None else {}
    events = pl.LazyFrame({"user": users, "item": [raw[item] for item in items]}).with_columns(
        domain=pl.lit(name), event=pl.lit("review"), order=pl.int_range(pl.len(), dtype=pl.Int64)
    )
    return RawLog(
        events=events,
        has_time=False,
        ordered=True,
        files=tuple(file for file in (events_file, attributes_file, amazon_file, words_file) if file is not None),
        items={name: _item_table(raw, titles, attributes)},
        domains=(name,),
        event_types=("review",),
    )


def _locate(path: Path) -> tuple[Path, Path, str]:
    """(the folder of everything, the folder of NAME.txt, NAME)."""
    if path.is_file():
        return path.parent, path.parent, path.name.removesuffix(".gz").removesuffix(".txt")
    folder = require_folder(path, "S3-Rec's folder")
    inner = folder / "s3rec" if (folder / "s3rec").is_dir() else folder
    names = sorted({file.name.removesuffix(".gz").removesuffix(ATTRIBUTES) for file in inner.glob(f"*{ATTRIBUTES}*")})
    if len(names) != 1:
        expected = f"one file NAME{ATTRIBUTES}; or name the NAME.txt itself"
        raise InputError("no single data set in the folder", file=inner, found=names, expected=expected)
    return folder, inner, names[0]


def _sequences(path: Path) -> tuple[list[tuple[int, list[str]]], list[str], list[str]]:
    """(row and items of each line; user and item of each event)."""
    rows, users, items, seen = [], [], [], set()
    for row, line in read_lines(path):
        user, *sequence = line.split()
        if user in seen:
            raise InputError("a user has two lines", file=path, row=row, column="user", expected="a line a user")
        if not sequence:
            raise InputError(
                "a user without items", file=path, row=row, column="item", found="no item", expected="an item"
            )
        for item in sequence:
            parse_int(item, file=path, row=row, column="item", minimum=1)
        seen.add(user)
        rows.append((row, sequence))
        users += [user] * len(sequence)
        items += sequence
    return rows, users, items


def _amazon_ids(path: Path, events_file: Path, rows: list[tuple[int, list[str]]]) -> dict[str, str]:
    """Item -> Amazon's id, from the line-by-line equal file."""
    lines = list(read_lines(path))
    if len(lines) != len(rows):
        raise InputError("has another number of users", file=path, found=len(lines), expected=f"{len(rows)} lines")
    raw: dict[str, str] = {}
    back: dict[str, str] = {}
    for (row, line), (_, sequence) in zip(lines, rows, strict=True):
        names = line.split()[1:]
        if len(names) != len(sequence):
            expected = f"{len(sequence)} items, as in {events_file.name}"
            raise InputError("another length of the sequence", file=path, row=row, found=len(names), expected=expected)
        for item, name in zip(sequence, names, strict=True):
            if raw.setdefault(item, name) != name or back.setdefault(name, item) != item:
                expected = f"{raw.get(item)} for item {item} of {events_file.name}"
                raise InputError("item ids do not agree", file=path, row=row, found=name, expected=expected)
    return raw


def _words(path: Path):
    for _, line in read_lines(path):
        item, _, words = line.partition(" ")
        yield item, words.strip()


def _attributes(path: Path) -> dict[str, list[str]]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", file=path, expected="{item: [attribute, ...]}")
    for item, attributes in value.items():
        if not isinstance(attributes, list):
            raise InputError("not a list", file=path, column=item, found=attributes, expected="[attribute, ...]")
    return {item: [str(attribute) for attribute in attributes] for item, attributes in value.items()}


def _item_table(raw: dict[str, str], titles: dict[str, str], attributes: dict[str, list[str]]) -> pl.DataFrame:
    """Items with all their attributes; the category path is the list without the brand.

    The ids are anonymous, but a brand stands first and nowhere else; the path goes from general to special.
    """
    later = {attribute for values in attributes.values() for attribute in values[1:]}
    paths = {item: values if not values or values[0] in later else values[1:] for item, values in attributes.items()}
    return pl.DataFrame(
        {
            "item": list(raw.values()),
            "title": [titles.get(name) for name in raw.values()],
            "category": [paths.get(item) for item in raw],
            "attributes": [attributes.get(item) for item in raw],
        },
        schema=ITEM_SCHEMA,
    )
