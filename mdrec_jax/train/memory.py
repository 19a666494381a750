"""Whether a model's parameters fit at all, asked before they are made."""

import math
import os

import jax

from mdrec_jax.errors import DoesNotFitError
from mdrec_jax.models.api import Model

COPIES = 3
"""A parameter stands there with the optimiser's two moments."""


def check_fits(model: Model, activations: int) -> None:
    """Refuses a model that is larger than this machine's memory (of an accelerator: its own).

    Args:
        model: whose parameters, with their moments, have to fit.
        activations: numbers in one layer's activations of a batch, which have to fit beside them.

    Raises:
        DoesNotFitError: with both sizes.
    """
    try:
        params = jax.eval_shape(model.init, jax.random.key(0))
    except (OverflowError, MemoryError) as error:  # sizes that no array can have
        raise DoesNotFitError(f"the model does not fit into memory: {error}") from error
    # Sizes are Python's numbers: products of a billion and a billion do not wrap around.
    needed = COPIES * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    needed += 4 * activations
    room = _room()
    if room is not None and needed > room:
        raise DoesNotFitError(
            "the model does not fit into memory\n"
            f"  found:    parameters, moments and a batch of {needed / 2**30:,.1f} GiB\n"
            f"  expected: at most {room / 2**30:,.1f} GiB\n"
            "  hint:     a smaller model, or smaller batches (--batching.rows)"
        )


def _room() -> int | None:
    """Bytes of memory of all devices; None where it is not known."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
        return math.prod(map(os.sysconf, names)) if set(names) <= os.sysconf_names.keys() else None
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None
