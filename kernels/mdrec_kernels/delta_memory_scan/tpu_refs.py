"""The buffers of the kernels for TPUs, by name."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Forward:
    """A block of G rows and W columns; `state` stays in VMEM from the first block of the rows to the last."""

    q: Any  # [G, W, K]
    k: Any  # [G, W, K]
    value: Any  # [G, W, V]
    segment: Any  # [G, W]
    write: Any  # [G, W]
    fade: Any  # [G, W]
    start: Any  # [G, K, V]
    out: Any  # [G, W, V]
    state: Any  # [G, K, V]
    place: Any  # [G, W]; None where nothing is kept for a backward pass, as `states`
    states: Any  # [G, K, V]: the state before the block
    last: Any  # [G, 128]: the segment of the last chunk that holds one


@dataclass(frozen=True)
class Backward:
    """The same block on the way back."""

    q: Any
    k: Any
    value: Any
    place: Any
    write: Any
    fade: Any
    start: Any
    before: Any  # [G, K, V]: the state before the block
    d_out: Any  # [G, W, V]
    d_end: Any  # [G, K, V]: of the state that was returned
    d_q: Any
    d_k: Any
    d_value: Any
    d_write: Any
    d_fade: Any
    d_start: Any  # [G, K, V]
    d_state: Any  # [G, K, V]: of the state after the piece at hand
    carry: Any  # [K, V]: the state on the way through a row's block
    states: Any  # [chunks, K, V]: the states that the chunks of a row's block start with
