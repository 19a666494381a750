"""The public function of `grouped_ffn`."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.dispatch import Implementation
from mdrec_kernels.grouped_ffn import pallas_tpu, reference, xla
from mdrec_kernels.grouped_ffn.blocks import Tiling, choose_tiling
from mdrec_kernels.grouped_ffn.experts import ACTIVATIONS, Experts
from mdrec_kernels.varying import vary_together


def grouped_ffn(
    x: Float[Array, "T d"],
    counts: Int[Array, "E"],
    classes: Sequence[Experts],
    *,
    activation: str = "silu",
    tiling: Tiling | None = None,
    implementation: Implementation = None,
) -> Float[Array, "T d"]:
    """Feed-forward experts, each on the rows that are its own.

    y_t = act(x_t up_e) down_e, or with a gate (act(x_t gate_e) * x_t up_e) down_e, for every row t of expert e.

    Rows are sorted by expert (`sort_by_expert` sorts them), the experts being numbered through the classes. The result
    is exact: there is no capacity, and no row is dropped whatever the counts are. The work follows the counts: rows are
    rounded up to blocks, a few per cent, where a dense or masked form computes every expert for every row.

    Args:
        x: float32, bfloat16 or float64. Products are summed in float32 at least.
        counts: rows of each expert, E being the number of experts of all classes; may be traced. Their sum is at most
            T; rows after it are padding and get zeros.
        classes: experts by hidden width. Weights of another type are read in x's, and their gradient has their own.
        activation: "silu", "gelu" (by tanh) or "relu".
        tiling: of the "xla" form; by default by shape and platform.
        implementation: "xla", "pallas_tpu", "reference", or a sequence of names to try in turn.

    Returns:
        [T, d] in x's type.

    Raises:
        ValueError: shapes that do not fit each other; counts that are known and do not fit T.
    """
    classes = tuple(classes)
    _check(x, counts, classes, activation)
    if x.shape[0] == 0:
        return x
    x, counts, classes = vary_together(x, jnp.asarray(counts, jnp.int32), classes)

    def plain() -> Array:
        largest = max(experts.up[0].size * (len(experts.entries) + 1) for experts in classes)
        cut = tiling or choose_tiling(x.shape[0], counts.size, largest * x.dtype.itemsize)
        return xla.forward(x, counts, classes, activation, cut)

    forms = {
        "reference": lambda: reference.forward(x, counts, classes, activation),
        "xla": plain,
        "pallas_tpu": lambda: pallas_tpu.forward(x, counts, classes, activation),
    }
    return dispatch.run("grouped_ffn", forms, implementation)


def _check(x: Array, counts: Array, classes: tuple[Experts, ...], activation: str) -> None:
    """Refuse what has no meaning."""
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected x [T, d] of a floating type, found {x.dtype}{list(x.shape)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, found {activation!r}")
    for experts in classes:
        number, _, width = experts.up.shape
        entries = all(w.shape == (number, x.shape[1], width) for w in experts.entries)
        if not entries or experts.down.shape != (number, width, x.shape[1]):
            shapes = [w.shape for w in (*experts.entries, experts.down)]
            raise ValueError(f"expected weights [E, {x.shape[1]}, f] and [E, f, {x.shape[1]}], found {shapes}")
    if jnp.shape(counts) != (sum(experts.number for experts in classes),):
        raise ValueError(f"expected a count for each expert, found {jnp.shape(counts)}")
    if not isinstance(counts, Tracer) and (int(jnp.sum(counts)) > x.shape[0] or bool(jnp.any(counts < 0))):
        raise ValueError(f"the experts' rows are {counts}, and there are {x.shape[0]}")
