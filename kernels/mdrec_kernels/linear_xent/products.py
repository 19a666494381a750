"""Matrix products and the type they are summed in."""

import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array
from mdrec_kernels import dispatch


def sums_in(x: Array) -> jnp.dtype:
    """The type in which products of x are summed: float32, or float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)


def product(a: Array, b: Array, over: tuple[int, int], precision: lax.Precision | None = None) -> Array:
    """Product of two matrices over axis `over[0]` of a and `over[1]` of b."""
    turned = over == (0, 0) and dispatch.platform() == "cpu"
    if turned:
        a, over = _turned(a), (1, 0)
    axes = (((over[0],), (over[1],)), ((), ()))
    found = lax.dot_general(a, b, axes, precision=precision, preferred_element_type=sums_in(a))
    # A transposition behind it stays behind it: XLA folds it into the product, in a form that CPUs refuse in bfloat16.
    return lax.optimization_barrier(found) if turned else found


def _turned(a: Array) -> Array:
    """a.T, stored row by row: XLA on CPUs multiplies bfloat16 at half the speed where the left side is not."""
    return with_layout_constraint(a.T, Layout(major_to_minor=(0, 1)))
