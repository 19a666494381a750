"""Prefetching by threads: Grain over a random-access source of finished batches.

The position is a number that the caller knows (the step); nothing of the iterator is ever saved. No worker processes:
a finished batch is large and quick to make, so sending it between processes costs many times what making it does.
"""

from collections.abc import Iterator
from typing import Any, Protocol

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
