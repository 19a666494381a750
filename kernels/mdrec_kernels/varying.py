"""Between which devices a value differs, inside `jax.shard_map`: what loops' carries and gradient rules have to say."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def zeros(shape: tuple[int, ...], dtype: jnp.dtype, like: Array) -> Array:
    """Zeros that inside `jax.shard_map` differ between the same devices as `like` does: a loop's carry must."""
    return _vary(jnp.zeros(shape, dtype), _varying(like))


def _varying(value: Array) -> frozenset[str]:
    """The mesh axes along which the value differs, as `jax.shard_map` keeps track of them."""
    kind = jax.typeof(value)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying  # jax 0.11, jax 0.12


def _vary(value: Array, axes: frozenset[str]) -> Array:
    missing = tuple(sorted(axes - _varying(value)))
    return lax.pcast(value, missing, to="varying") if missing else value


def vary_together[*T](*values: *T) -> tuple[*T]:
    """The values as JAX arrays, all marked as differing between the devices between which any of them differs.

    So a gradient rule sees one kind of value, and a table that every device holds gets the sum of its gradients over
    the devices, as from any other JAX function.
    """
    values = jax.tree.map(jnp.asarray, values)
    varying = frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves(values)))
    return jax.tree.map(lambda leaf: _vary(leaf, varying), values)
