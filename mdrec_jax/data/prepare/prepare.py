"""From raw logs to a prepared dataset on disk."""

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.data.integrity import file_hash
from mdrec_jax.data.manifest import SCHEMA, Manifest, Parent, SourceFile, combined_hash
from mdrec_jax.data.prepare.assemble import Assembled, assemble
from mdrec_jax.data.prepare.extras import write_candidates, write_features
from mdrec_jax.data.prepare.options import PrepareOptions
from mdrec_jax.data.prepare.writer import check_target, stored_files, write_columns, write_tables, writing
from mdrec_jax.data.sources import find_source
from mdrec_jax.data.sources.rawlog import RawLog

__all__ = ["PrepareOptions", "prepare", "write_log"]


def prepare(source: str, paths: Sequence[Path], out: Path, options: PrepareOptions | None = None) -> Dataset:
    """Reads raw logs and writes the prepared dataset `out`.

    Args:
        source: a name of `sources.SOURCES`.
        paths: files or folders, as the source expects them.
        out: a new folder, or a prepared dataset, which is replaced in one step.
        options: filters, ties, split.

    Raises:
        InputError: anything that is wrong with the input, the options or `out`; `out` is then as it was.
    """
    options = options or PrepareOptions()
    options.check()
    check_target(out)
    parent = open_dataset(options.extend, verify=True) if options.extend else None
    return write_log(find_source(source)(paths, options.source), source, out, options, parent=parent)


def write_log(
    log: RawLog,
    source: str,
    out: Path,
    options: PrepareOptions,
    *,
    parent: Dataset | None = None,
    extra: Callable[[Path], None] | None = None,
) -> Dataset:
    """Writes the dataset of a log that was read already; `extra` may add files to the folder before it is sealed.

    Raises:
        InputError: as `prepare`.
    """
    check_target(out)
    made = assemble(log, options, parent)
    sources = tuple(SourceFile(file.name, file_hash(file), file.stat().st_size) for file in log.files)
    with writing(out) as folder:
        dropped = _write_files(folder, made)
        if extra is not None:
            extra(folder)
        _manifest(folder, log, source, options, made, dropped, sources, parent).write(folder)
    return open_dataset(out)


def _write_files(folder: Path, made: Assembled) -> dict[str, int]:
    """Everything but the manifest; returns what could not be placed, by reason."""
    log, domains, catalogue = made.log, made.vocabulary.domains, made.catalogue
    write_columns(folder, made.columns())
    write_tables(folder, made.users, domains, catalogue.tables)
    dropped = write_features(
        folder / "features", log, catalogue.ids, domains, num_items=catalogue.count, items_across=made.items_across
    )
    return dropped | write_candidates(folder / "candidates", log, catalogue.ids, made.sequences, domains)


def _manifest(
    folder: Path,
    log: RawLog,
    source: str,
    options: PrepareOptions,
    made: Assembled,
    dropped: dict[str, int],
    sources: tuple[SourceFile, ...],
    parent: Dataset | None,
) -> Manifest:
    files = stored_files(folder)
    return Manifest(
        schema=SCHEMA,
        source=source,
        created_by=_program(),
        sources=sources,
        files=files,
        domains=made.vocabulary.domains,
        event_types=made.vocabulary.event_types,
        counts=made.counts(dropped),
        split=made.split.to_json(),
        filters=made.filters,
        tie=options.tie if log.has_time or not log.ordered else "file",
        seed=options.seed,
        items_across=made.items_across,
        has_time=log.has_time,
        ordered=log.ordered,
        time_origin=_time_origin(made, parent),
        parents=_parents(parent),
        columns=(parent.manifest.columns if parent else {}) | options.source.named_columns(),
        hash=combined_hash(files),
    )


def _parents(parent: Dataset | None) -> tuple[Parent, ...]:
    """The chain of datasets that this one extends."""
    if parent is None:
        return ()
    return (*parent.manifest.parents, Parent(parent.hash, parent.manifest.counts.items))


def _program() -> str:
    try:
        return f"mdrec-jax {version('mdrec-jax')}"
    except PackageNotFoundError:  # run from a source tree
        return "mdrec-jax"


def _time_origin(made: Assembled, parent: Dataset | None) -> int:
    """Seconds since the epoch of the first event; a parent's stays, so that a model meets the same numbers again."""
    if made.events.time is None:
        return 0
    first = int(made.events.time.min())
    return min(first, parent.manifest.time_origin) if parent is not None and parent.manifest.has_time else first
