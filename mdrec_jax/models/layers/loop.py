"""Adaptive depth: a block is applied several times, and each token decides after which of them it stops.

"Adaptive loops and memory in transformers" (arXiv 2603.08391), after PonderNet (arXiv 2107.05407):

    h_1 = h_0 + f(h_0),   h_t = h_{t-1} + softplus(a_t) f(h_{t-1})
    p_t = sigmoid(W [h_t; t/N] + b),   w_t = p_t prod_{i<t} (1 - p_i),   w_N = prod_{i<N} (1 - p_i),   h = sum_t w_t h_t

What a pass may have of its own is a small change of what the block's layers read (relaxed recursion, Bae et al. 2024,
arXiv 2410.20672, whose low-rank changes are those of the layers' weights):

    y -> y (1 + s_t) + v_t + y A_t B_t
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mdrec_jax.models.layers.checks import check
from mdrec_jax.models.layers.linear import Linear, initial_matrix
from mdrec_jax.models.layers.norm import at_least_float32
from mdrec_jax.models.nnx_bridge import parameter

STOP, STEP = -3.0, 0.0
"""What the sigmoid of stopping, and the softplus of a later pass's step size, start at. Where stopping starts at 0 or
above, most runs stop at the first pass for good."""


@dataclass(frozen=True)
class LoopConfig:
    """
    Args:
        max_steps: how often a block is applied at most; 1 has no loop.
        rank: of A_t B_t; with 0, passes have nothing of their own.
    """

    max_steps: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        check("loop.max_steps", self.max_steps, 1 <= self.max_steps <= 8, "1 to 8 passes")
        check("loop.rank", self.rank, self.rank >= 0, "a rank, >= 0")


class PassChange(nnx.Module):
    """What each of N passes does to what a layer reads; nothing when training starts."""

    def __init__(self, key: jax.Array, dim: int, config: LoopConfig) -> None:
        most, rank = config.max_steps, config.rank
        down = jnp.stack([initial_matrix(one, dim, rank) for one in jax.random.split(key, most)])
        self.scale, self.shift = (parameter(jnp.zeros((most, dim)), "pass", "embed", group="vector") for _ in range(2))
        self.down = parameter(down, "pass", "embed", "pass_rank")
        self.up = parameter(jnp.zeros((most, rank, dim)), "pass", "pass_rank", "embed")

    def __call__(self, y: Float[Array, "R T D"], number: int | Array) -> Float[Array, "R T D"]:
        """
        Args:
            number: of the pass, from 0.
        """
        scale, shift, down, up = (
            part.get_value()[number].astype(y.dtype) for part in (self.scale, self.shift, self.down, self.up)
        )
        return y + y * scale[None, None, :] + shift[None, None, :] + (y @ down) @ up


class Halting(nnx.Module):
    """Step sizes and stopping probabilities of one block's passes."""

    def __init__(self, key: jax.Array, dim: int, config: LoopConfig) -> None:
        self.max_steps = config.max_steps
        self.stop = Linear(key, dim, 1, ("embed", "gate"), gain=0.1, bias_value=STOP)
        self.progress = parameter(jnp.zeros((1,)), "gate", group="vector")
        self.step = parameter(jnp.full((config.max_steps - 1,), STEP), "pass", group="vector")

    def __call__(
        self, change: Callable[[Float[Array, "R T D"], int], Float[Array, "R T D"]], x: Float[Array, "R T D"]
    ) -> tuple[Float[Array, "R T D"], Float[Array, "R T"]]:
        """The mixed state, and each token's expected number of passes.

        Args:
            change: f of the state before a pass and the pass's number, from 0: what the block adds.
        """
        most = self.max_steps
        size = jax.nn.softplus(self.step.get_value())
        left = jnp.ones(x.shape[:2], at_least_float32(x[:1, :1]).dtype)
        mixed, passes = jnp.zeros(x.shape, left.dtype), jnp.zeros_like(left)
        for number in range(most):
            factor = 1.0 if number == 0 else size[number - 1]
            x = x + jnp.asarray(factor, x.dtype) * change(x, number)
            last = number == most - 1
            weight = left if last else left * self._stops(x, (number + 1) / most)
            mixed = mixed + weight[..., None] * x.astype(mixed.dtype)
            passes = passes + weight * (number + 1)
            left = left - weight
        return mixed.astype(x.dtype), passes

    def until[Carry](
        self,
        change: Callable[[Float[Array, "R T D"], Array, Bool[Array, "R T"], Carry], tuple[Array, Carry]],
        x: Float[Array, "R T D"],
        real: Bool[Array, "R T"],
        carry: Carry,
        tolerance: float,
    ) -> tuple[Float[Array, "R T D"], Array, Array, Carry]:
        """For serving: passes only while a token of the batch has more than `tolerance` of its weight left.

        A token that has no more stops, and what it has left goes to its last pass; what other tokens do does not change
        its state. With a tolerance of 0 every token takes all passes, as in a call.

        Args:
            change: as in a call, but for the pass's number, which is an array; also told which tokens still run, and
                handing on a carry of its own.
            real: False at padding, which never runs.

        Returns:
            The mixed state, the state as each token stopped, the number of passes, and the last carry.
        """
        most = self.max_steps
        size = jnp.concatenate([jnp.ones((1,)), jax.nn.softplus(self.step.get_value())])
        left = real.astype(at_least_float32(x[:1, :1]).dtype)

        def one(passed: tuple) -> tuple:
            number, x, mixed, left, carry = passed
            runs = left > 0
            step, carry = change(x, number, runs, carry)
            x = jnp.where(runs[..., None], x + size[number].astype(x.dtype) * step, x)
            weight = left * self._stops(x, (number + 1).astype(left.dtype) / most)
            weight = jnp.where((number == most - 1) | (left - weight <= tolerance), left, weight)
            return number + 1, x, mixed + weight[..., None] * x.astype(mixed.dtype), left - weight, carry

        def goes_on(passed: tuple) -> Array:
            return (passed[0] < most) & jnp.any(passed[3] > 0)

        start = jnp.int32(0), x, jnp.zeros(x.shape, left.dtype), left, carry
        number, stopped, mixed, _, carry = jax.lax.while_loop(goes_on, one, start)
        return mixed.astype(x.dtype), stopped, number, carry

    def _stops(self, x: Float[Array, "R T D"], share: float | Array) -> Float[Array, "R T"]:
        logit = at_least_float32(self.stop(x)[..., 0])
        return jax.nn.sigmoid(logit + share * self.progress.get_value().astype(logit.dtype)[None])
