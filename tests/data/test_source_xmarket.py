"""XMarket: markets share items, dates have ties, repeated pairs stay."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.data.sources.xmarket import read
from mdrec_jax.errors import InputError

HEADER = "userId itemId rate date"


def market(folder: Path, name: str, *lines: str, header: str = HEADER) -> Path:
    path = folder / f"{name}_5core.txt"
    path.write_text("".join(line + "\n" for line in (header, *lines)))
    return path


def test_a_market_is_a_domain_and_a_date_is_its_midnight(tmp_path: Path):
    market(tmp_path, "jp", "u1 B01 4.0 2015-12-27", "u1 B01 5.0 1970-01-01")
    market(tmp_path, "ca", "u2 B01 1.0 2020-02-29")
    log = read([tmp_path], SourceOptions())
    midnight = [int(datetime(*day, tzinfo=UTC).timestamp()) for day in ((2020, 2, 29), (2015, 12, 27), (1970, 1, 1))]
    assert log.events.collect().select("user", "item", "domain", "time", "rating", "order").rows() == [
        ("u2", "B01", "ca", midnight[0], 1.0, 0),
        ("u1", "B01", "jp", midnight[1], 4.0, 1),
        ("u1", "B01", "jp", midnight[2], 5.0, 2),
    ]
    assert (log.domains, log.items_across, log.default_split) == (("ca", "jp"), "shared", "loo")


def test_single_files_are_read_too(tmp_path: Path):
    path = market(tmp_path, "jp", "u1 B01 4.0 2015-12-27")
    assert read([path], SourceOptions()).domains == ("jp",)


@pytest.mark.parametrize(
    ("line", "row", "column"),
    [
        ("u1 B01 4.0", 3, None),
        ("u1 B01 4.0 2015-12-27 x", 3, None),
        ("u1 B01 good 2015-12-27", 3, "rate"),
        ("u1 B01 nan 2015-12-27", 3, "rate"),
        ("u1 B01 -1 2015-12-27", 3, "rate"),
        ("u1 B01 4.0 1451174400", 3, "date"),
        ("u1 B01 4.0 2015-02-30", 3, "date"),
        ("u1 B01 4.0 1969-12-31", 3, "date"),
        ("u1  4.0 2015-12-27", 3, "itemId"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: str, row: int, column: str | None):
    path = market(tmp_path, "jp", "u1 B01 4.0 2015-12-27", line)
    with pytest.raises(InputError) as caught:
        read([tmp_path], SourceOptions())
    assert (caught.value.file, caught.value.row, caught.value.column) == (path, row, column)


def test_a_date_far_from_all_others_is_refused_with_its_place(tmp_path: Path):
    market(tmp_path, "ca", *["u1 B01 4.0 2015-12-27"] * 5)
    path = market(tmp_path, "jp", "u1 B01 4.0 2015-12-27", "u1 B01 4.0 2115-12-27")
    with pytest.raises(InputError, match="68 years") as caught:
        prepare("xmarket", [tmp_path], tmp_path / "out")
    assert (caught.value.file, caught.value.row, caught.value.column) == (path, 3, "time")


def test_another_header_is_refused(tmp_path: Path):
    market(tmp_path, "jp", "u1 B01 4.0 2015-12-27", header="userId itemId itemId date")
    with pytest.raises(InputError, match="wrong header"):
        read([tmp_path], SourceOptions())


def test_missing_empty_and_broken_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no market's file"):
        read([tmp_path], SourceOptions())
    with pytest.raises(InputError, match="no such file"):
        read([tmp_path / "jp_5core.txt"], SourceOptions())
    (tmp_path / "jp.txt").write_text("x")
    with pytest.raises(InputError, match="not a market's file"):
        read([tmp_path / "jp.txt"], SourceOptions())
    market(tmp_path, "jp")
    with pytest.raises(InputError, match="no line of data"):
        read([tmp_path], SourceOptions())
    (tmp_path / "uk").mkdir()
    (tmp_path / "uk" / "jp_5core.txt.gz").write_bytes(gzip.compress(f"{HEADER}\nu B 1 2015-01-01\n".encode())[:-8])
    with pytest.raises(InputError, match="truncated"):
        read([tmp_path / "uk"], SourceOptions())
    with pytest.raises(InputError, match="given twice"):
        read([tmp_path, tmp_path / "uk"], SourceOptions())


# SOURCE.md says 2,180 items for de; its file, byte for byte the published one, holds 2,179.
PUBLISHED = {
    "ca": (4668, 5735, 44_779),
    "uk": (3352, 3251, 31_547),
    "fr": (1838, 1879, 17_624),
    "de": (1851, 2179, 17_300),
    "mx": (1878, 1645, 17_095),
    "jp": (487, 955, 4_485),
    "in": (239, 470, 2_015),
}


def test_the_published_counts_hold(shared_data: Path, tmp_path: Path):
    dataset = prepare("xmarket", [shared_data / "forec_xmarket7"], tmp_path / "out", PrepareOptions(tie="file"))
    manifest = dataset.manifest
    counts = manifest.counts
    found = {name: (market.users, market.items, market.events) for name, market in counts.domains.items()}
    assert found == PUBLISHED
    assert (counts.users, counts.items, counts.events) == (14_311, 8304, 134_845)
    ca, uk = (dataset.domain_items[manifest.domains.index(name)] for name in ("ca", "uk"))
    assert len(np.intersect1d(ca, uk)) == 1718
    years = [datetime.fromtimestamp(int(time), UTC).year for time in (dataset.time.min(), dataset.time.max())]
    assert years == [2004, 2020]


def test_one_test_and_one_validation_target_a_user_and_market(shared_data: Path, tmp_path: Path):
    dataset = prepare("xmarket", [shared_data / "forec_xmarket7"], tmp_path / "out", PrepareOptions(tie="file"))
    for role in (1, 2):
        found = np.bincount(dataset.domain[dataset.role == role], minlength=7)
        assert found.tolist() == [PUBLISHED[name][0] for name in dataset.manifest.domains]


def test_repeated_pairs_stay(shared_data: Path):
    events = read([shared_data / "forec_xmarket7"], SourceOptions()).events.collect()
    sizes = events.group_by("domain").agg(pl.len(), pl.struct("user", "item").n_unique().alias("pairs"))
    repeated = (sizes["len"] - sizes["pairs"]).sort().to_list()
    assert (repeated[0], repeated[-1]) == (42, 888)
