"""What the losses of disentangled codes are made of: the networks that they train beside the model, the tokens that
they compare, and sums over targets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, UInt32

from mdrec_jax.models.layers import Linear, fold_seeds, unit_rms
from mdrec_jax.objectives import disentanglement as formulas
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.types import Batch, Scope


class Perceptron(nnx.Module):
    """A map with one hidden layer, in float32."""

    def __init__(self, key: jax.Array, inputs: int, hidden: int, outputs: int, *, scope: Scope = "shared") -> None:
        keys = jax.random.split(key)
        self.up = Linear(keys[0], inputs, hidden, ("embed", "mlp"), scope=scope)
        self.down = Linear(keys[1], hidden, outputs, ("mlp", "embed"), scope=scope)

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N E"]:
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


def adversary(
    classifier: Perceptron, shared: Float[Array, "R T D"], batch: Batch, strength: float
) -> Float[Array, "R T"]:
    """Cross-entropy of the guessed domains of the events; the code's gradient is reversed.

    It is reversed only where the guess is better than chance. Pushed further, codes run ahead of the classifier and
    tell the domain by the answer that it gets wrong.
    """

    def missed(x: Float[Array, "R T D"]) -> Float[Array, "R T"]:
        return unlikely(classifier(unit_rms(x)), jnp.asarray(batch.domain))

    domains = classifier.down.kernel.get_value().shape[1]
    better = missed(jax.lax.stop_gradient(shared)) < jnp.log(jnp.float32(domains))
    return missed(formulas.gradient_reversal(shared, strength * better.astype(jnp.float32)))


def unlikely(logits: Float[Array, "R T G"], domain: Int32[Array, "R T"]) -> Float[Array, "R T"]:
    """-log softmax(logits) at each token's domain."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), domain[..., None], axis=-1)[..., 0]


def club(
    guess: Perceptron,
    shared: Float[Array, "N D"],
    specific: Float[Array, "N D"],
    real: Bool[Array, " N"],
    weight: float,
) -> Float[Array, ""]:
    """The bound moves the codes and leaves the guess alone; the guess learns from codes that it leaves alone."""

    def guessed(guess: Perceptron, x: Float[Array, "N D"]) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
        mean, spread = jnp.split(guess(x), 2, axis=-1)
        return mean, jnp.tanh(spread)

    mean, spread = guessed(jax.tree.map(jax.lax.stop_gradient, guess), shared)
    bound = formulas.club(mean, spread, specific, real)
    fixed_shared, fixed_specific = jax.lax.stop_gradient((shared, specific))
    mean, spread = guessed(guess, fixed_shared)
    fit = formulas.gaussian_log_likelihood(mean, spread, fixed_specific)
    return weight * bound - formulas.mean_over(fit, real)


def sampler(seeds: UInt32[Array, "R 2"], columns: int, number: int) -> Callable[[Array], Array]:
    """A function from [R, T, ...] to [N, ...]: evenly spread columns of every row of the global batch, the first of
    which is drawn."""
    stride = max(1, columns // number)
    drawn = fold_seeds(seeds, jnp.uint32(2002))
    assert drawn is not None
    first = (drawn[:, 0] % jnp.uint32(stride)).astype(jnp.int32)
    column = first[:, None] + stride * jnp.arange(columns // stride, dtype=jnp.int32)[None, :]

    def everywhere(x: Array) -> Array:
        taken = jnp.take_along_axis(x, column.reshape(*column.shape, *(1,) * (x.ndim - 2)), axis=1)
        return jax.lax.all_gather(taken.reshape(-1, *x.shape[2:]), DATA, tiled=True)

    return everywhere


def targets(batch: Batch) -> Bool[Array, "R T"]:
    return jnp.asarray(batch.weight) > 0


def over(value: Float[Array, "R T"], real: Bool[Array, "R T"]) -> Float[Array, ""]:
    return jnp.where(real, value, 0.0).sum()


def crosses(batch: Batch) -> Bool[Array, "R T"]:
    """Where the target's domain is not the last event's, and the user was there before."""
    known = jnp.asarray(batch.previous_in_target_domain) >= 0
    return known & (jnp.asarray(batch.target_domain) != jnp.asarray(batch.domain))


def users(batch: Batch) -> Int32[Array, "R T"]:
    place = jnp.maximum(jnp.asarray(batch.segment) - 1, 0)
    return jnp.take_along_axis(jnp.asarray(batch.segment_user), place, axis=1)
