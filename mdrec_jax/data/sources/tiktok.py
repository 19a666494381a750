"""TikTok as DiffMM / MMSSL split it: who saw what, without any order, and image and audio features of the items.

`trnMat.pkl`, `valMat.pkl` and `tstMat.pkl` are scipy COO matrices [users, items]; `<modality>_feat.npy` are arrays
[items, width]. Raw ids are the matrices' row and column numbers. Sequence models refuse this source: it has no order.
Source: Jiang et al., "DiffMM" (ACM MM 2024).
"""

import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32

from mdrec_jax.data.sources.rawlog import OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import check_declared, find_in, one_path, require_file, require_folder
from mdrec_jax.data.sources.safe_pickle import CooMatrix, load_coo
from mdrec_jax.errors import InputError

_DOMAIN = "videos"
_ROLES = {"trnMat.pkl": 0, "valMat.pkl": 1, "tstMat.pkl": 2}
_SUFFIX = "_feat.npy"


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads one folder.

    Raises:
        InputError: a matrix is missing, malformed or holds anything but numbers, the matrices differ in shape, or a
            feature array does not fit the items.
    """
    options.refuse("tiktok", *OPTION_NAMES)
    folder = require_folder(one_path(paths, "the folder of trnMat.pkl"), "the folder of trnMat.pkl")
    files = [find_in(folder, name) for name in _ROLES]
    matrices = [load_coo(path) for path in files]
    _check_matrices(files, matrices)
    num_items = matrices[0].shape[1]
    for what, axis in (("users", "row"), ("items", "column")):
        seen = 1 + max(int(getattr(matrix, axis).max(initial=-1)) for matrix in matrices)
        check_declared(matrices[0].shape[axis == "column"], seen, file=files[0], what=what)
    parts = [_events(matrix, role) for matrix, role in zip(matrices, _ROLES.values(), strict=True)]
    events = pl.concat(parts).with_columns(
        pl.lit(_DOMAIN).alias("domain"),
        pl.lit("view").alias("event"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("order"),
    )
    items = [str(item) for item in range(num_items)]
    features = {}
    for path in (find_in(folder, file.name) for file in sorted(folder.glob(f"*{_SUFFIX}"))):
        files.append(path)
        features[path.name.removesuffix(_SUFFIX)] = (items, _features(path, num_items))
    return RawLog(
        events=events.lazy(),
        has_time=False,
        ordered=False,
        files=tuple(files),
        items={_DOMAIN: pl.DataFrame({"item": items})},
        features=features,
        default_split="given",
        domains=(_DOMAIN,),
        event_types=("view",),
        keep_items=True,
    )


def _check_matrices(files: list[Path], matrices: list[CooMatrix]) -> None:
    for path, matrix in zip(files, matrices, strict=True):
        if matrix.shape != matrices[0].shape:
            expected = f"{matrices[0].shape} as in {files[0].name}"
            raise InputError("matrices of different shapes", file=path, found=matrix.shape, expected=expected)
        entries = matrix.data.astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(entries) | (entries <= 0))
        if len(bad):
            row = int(bad[0]) + 1
            raise InputError(
                "value out of range", file=path, row=row, found=entries[bad[0]], expected="a positive number"
            )


def _events(matrix: CooMatrix, role: int) -> pl.DataFrame:
    columns = {"user": matrix.row.astype(np.int64), "item": matrix.column.astype(np.int64)}
    return pl.DataFrame(columns).select(pl.all().cast(pl.String), pl.lit(role, pl.Int8).alias("role"))


def _features(path: Path, num_items: int) -> Float32[np.ndarray, "items width"]:
    """Float32, because sums over the published float16 overflow."""
    require_file(path, "a numpy array")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, tokenize.TokenError) as error:  # of the header
        raise InputError("not a whole numpy array", file=path, found=error, expected="a .npy file of floats") from None
    if values.ndim != 2 or values.shape[0] != num_items or values.dtype.kind != "f":
        expected = f"floats [{num_items}, width]"
        raise InputError(
            "features that do not fit the items", file=path, found=(values.dtype, values.shape), expected=expected
        )
    values = np.asarray(values, np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0].tolist()
        raise InputError("value out of range", file=path, row=row + 1, column=str(column), found=values[row, column])
    return values
