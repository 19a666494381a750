"""Training batches: shuffled, mixed over domains, packed; a random-access source of finished batches.

Batch i is a pure function of (dataset, config, seed, i). Nothing is kept between batches but the plan of the epoch,
which is itself such a function: batches may be asked for in any order, from any number of threads or processes.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from mdrec_jax.data.batching.horizon import draw_distances, look_ahead
from mdrec_jax.data.batching.layout import (
    BatchBuffer,
    fill_inputs,
    fill_targets,
    lay_out,
    segment_table,
    segment_users,
    slots_of,
)
from mdrec_jax.data.batching.noise import NoiseConfig, noisy_stream
from mdrec_jax.data.batching.packing_plan import EpochPlan, make_pool, pack, plan_epoch, slot_lengths
from mdrec_jax.data.batching.streams import train_stream
from mdrec_jax.data.batching.windows import MAX_LENGTH, count_targets, cut_windows, domain_geometry
from mdrec_jax.errors import ConfigError

if TYPE_CHECKING:
    from mdrec_jax.data.dataset import Dataset
    from mdrec_jax.types import Batch

_PLANS_KEPT = 2
"""Plans in memory: at the end of an epoch some threads already prefetch from the next one."""


@dataclass(frozen=True)
class BatchingConfig:
    """How sequences become batches.

    Args:
        rows: R, rows of a global batch.
        row_length: T, tokens of a row. Twice `max_length` or more packs best.
        max_length: the most tokens of one segment.
        window: "last": the last `max_length` tokens of a sequence; "all": as many windows as cover its targets once.
        horizon: events ahead that each target is drawn from, nearer ones more often (`horizon.py`); 1: the next.
        noise: put into training events on purpose.

    Raises:
        ConfigError: a value out of its range.
    """

    rows: int = 64
    row_length: int = 128
    max_length: int = 50
    window: Literal["last", "all"] = "last"
    horizon: int = 1
    noise: NoiseConfig = field(default_factory=NoiseConfig)

    def __post_init__(self) -> None:
        _require(self.rows >= 1, "rows", self.rows, "at least 1")
        _require(1 <= self.max_length <= MAX_LENGTH, "max_length", self.max_length, f"1 to {MAX_LENGTH}")
        _require(
            self.row_length >= self.max_length,
            "row_length",
            self.row_length,
            f"at least max_length = {self.max_length}",
        )
        _require(self.window in ("last", "all"), "window", self.window, "last or all")
        _require(self.horizon >= 1, "horizon", self.horizon, "at least 1")


def _require(good: bool, field: str, found: object, expected: str) -> None:
    if not good:
        raise ConfigError("value out of range", column=f"batching.{field}", found=found, expected=expected)


class TrainBatches:
    """Endless batches; `batches[i]` is finished and its arrays belong to the caller.

    Every epoch has the same number of batches, the last one filled up with empty rows, so batch i belongs to epoch
    i // batches_per_epoch(). Every target is in every epoch exactly once.

    Args:
        dataset: see `streams.train_stream` for what of it is read.
        seed: of shuffling and drawing, 0 or more.
        local_rows: build only the rows [begin, end) of every batch: the part of one process.

    Attributes:
        segments: S, the same for every batch.
        sequences_left_out: sequences with training events of which none can be predicted.
        targets_per_epoch: of every epoch.
        fill: tokens over slots of an epoch's rows, its last batch's empty rows not counted.

    Raises:
        InputError: nothing to predict, or times that do not fit.
    """

    def __init__(
        self, dataset: "Dataset", config: BatchingConfig, seed: int, *, local_rows: tuple[int, int] | None = None
    ) -> None:
        self.config, self.seed = config, seed
        self.local_rows = local_rows or (0, config.rows)
        if not 0 <= self.local_rows[0] < self.local_rows[1] <= config.rows:
            raise ValueError(f"local_rows {local_rows} is no part of {config.rows} rows")
        stream, self.sequences_left_out = train_stream(dataset)
        self.stream = noisy_stream(stream, dataset.domain_items, config.noise)
        self.windows = cut_windows(self.stream, window=config.window, max_length=config.max_length)
        self._geometry = domain_geometry(self.stream, self.windows)
        self._table = segment_table(self.stream, self.windows, self._geometry)
        self.targets_per_epoch = int(count_targets(self.stream, self.windows).sum())
        self._pool = make_pool(self.windows.length)
        self._template = pack(slot_lengths(self._pool, self.windows.length), config.row_length)
        self.segments = self._template.segments
        self.fill = float(self.windows.length.sum()) / (self._template.rows * config.row_length)
        self._plans: dict[int, EpochPlan] = {}
        self._lock = threading.Lock()

    def batches_per_epoch(self) -> int:
        """The same for every epoch."""
        return -(-self._template.rows // self.config.rows)

    def plan(self, epoch: int) -> EpochPlan:
        """The epoch's plan, from memory where it was the last or last but one to be asked for."""
        with self._lock:
            plan = self._plans.pop(epoch, None)
            if plan is None:
                plan = plan_epoch(self._pool, self._template, self.seed, epoch)
            self._plans[epoch] = plan
            while len(self._plans) > _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
        return plan

    def __getitem__(self, i: int) -> "Batch":
        """Batch i, of numpy arrays.

        Raises:
            IndexError: a negative index.
        """
        if i < 0:
            raise IndexError(i)
        epoch, number = divmod(i, self.batches_per_epoch())
        plan, config = self.plan(epoch), self.config
        begin, end = (number * config.rows + row for row in self.local_rows)
        window, count = self._windows_of(plan, begin, end)
        segments = self._table.take(window)
        layout = lay_out(count, segments.length, config.row_length)
        buffer = BatchBuffer(end - begin, config.row_length)
        tokens = fill_inputs(buffer, self.stream, self._geometry, layout, segments)
        fill_targets(buffer, self.stream, self._geometry, tokens)
        if config.horizon > 1:
            slots = slice(self.local_rows[0] * config.row_length, self.local_rows[1] * config.row_length)
            distance = draw_distances(self.seed, i, config.rows * config.row_length, config.horizon)[slots]
            look_ahead(buffer, self.stream, self._geometry, layout, tokens, distance)
        buffer.wipe(tokens.empty)
        return buffer.batch(segment_users((end - begin, self.segments), layout, segments.user))

    def _windows_of(self, plan: EpochPlan, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The windows in rows begin .. end of the epoch, row by row, and how many each row has."""
        slot, count = slots_of(self._template.row_offsets, plan.row_order[begin:end])
        rank = self._template.slot_rank[slot]
        missing = end - begin - len(count)  # rows behind the epoch's end
        return plan.draw[rank], np.pad(count, (0, missing)) if missing else count


ENDLESS = 2**62
"""The length that Grain is told of a source without an end."""


class Source[Element](Protocol):
    """Anything whose element i can be asked for at any time, from any thread."""

    def __getitem__(self, i: int) -> Element: ...


class _Part:
    """Elements start, start + 1, ... of a source, as Grain wants them."""

    def __init__(self, source: Source[Any], start: int, stop: int) -> None:
        self._source, self._start, self._stop = source, start, stop

    def __len__(self) -> int:
        return max(0, self._stop - self._start)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._start + index]


def grain_loader[Element](
    source: Source[Element], start: int = 0, *, stop: int | None = None, threads: int = 1, prefetch: int = 4
) -> Iterator[Element]:
    """Elements start, start + 1, ... of the source in order, made ahead by threads.

    The position is a number that the caller knows (the step); nothing of the iterator is ever saved. No worker
    processes: a finished batch is large and quick to make, so sending it between processes costs many times what making
    it does.

    Args:
        stop: the first element that is not wanted; None: the end of the source, if it has one.
        threads: that make elements; 0 makes each when it is asked for.
        prefetch: elements made ahead, at most.
    """
    import grain  # half a second that commands without batches do without

    if stop is None:
        stop = len(source) if hasattr(source, "__len__") else ENDLESS  # type: ignore[arg-type]
    if stop <= start:
        return iter(())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0)
    return iter(grain.MapDataset.source(_Part(source, start, stop)).to_iter_dataset(options))
