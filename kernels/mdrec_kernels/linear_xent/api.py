"""Public functions of `linear_xent`: the score of a token against an item is the inner product of state and item row.

N tokens (or Q queries) against V items would be a matrix of N x V scores: 33 GB for 8,192 tokens and a million items.
No function here holds more of it than a block. Products are taken in x's type (float32, bfloat16 or float64) and summed
in float32 at least; w may be of another type and is read as x's.

All work under `jax.jit` and inside `jax.shard_map`, are differentiated once and in reverse mode, and give the same
result every time they run on the same device. `implementation` is None for the best on the platform, "pallas_tpu"
(the losses and `top_k`), "xla", "reference", or a sequence of names to try in turn.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels import dispatch, tpu
from mdrec_kernels.dispatch import Implementation
from mdrec_kernels.linear_xent import losses, pallas_top_k, pallas_tpu, reference, xla_ranking, xla_sampled
from mdrec_kernels.linear_xent.blocks import Blocks, choose_blocks
from mdrec_kernels.linear_xent.sampled import Sampled
from mdrec_kernels.linear_xent.xla import XlaScores
from mdrec_kernels.varying import vary_together


def linear_xent_sum(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    weight: Float[Array, " N"],
    *,
    allowed: Bool[Array, "G V"] | None = None,
    group: Int[Array, " N"] | None = None,
    z_loss: float = 0.0,
    axis: str | None = None,
    blocks: Blocks | None = None,
    implementation: Implementation = None,
) -> Float[Array, ""]:
    """sum_n weight_n (log sum_v exp(x_n w_v) - x_n w_target), over the items that token n may choose.

    The gradient is made in the forward pass, where the scores are at hand: three products instead of the four of
    `linear_xent`. That is why the weights have to be known here. Without differentiation no gradient is computed.

    Args:
        x: states of the tokens.
        w: rows of the items.
        target: the item to predict; anything where the weight is 0.
        weight: factor of each token's loss. Tokens of weight 0 are sorted out before any score is computed; whatever
            their states hold has no effect.
        allowed: which items each group may choose; by default all. A target that is not allowed has an infinite loss.
        group: the group of each token; may be left out where there is one.
        z_loss: adds z_loss * (log sum exp)^2 to each token's loss.
        axis: the mesh axis over which the items are spread, inside `jax.shard_map(..., check_vma=False)`: w and
            `allowed` hold this device's items, as many on each, in order; everything else, `target` among it, is the
            same on all of the axis. So are value, dx and dweight; dw is of this device's items. Differentiate inside
            the `shard_map`.
        blocks: the largest block of scores; by default by shape and platform.

    Returns:
        The sum, in float32 (float64 for float64). Differentiable in x, w and weight (of a token of weight 0: by 0).

    Raises:
        ValueError: shapes that do not fit, or several groups and no `group`.
    """
    _check(x, w, allowed, group, target=target, weight=weight)
    x, w, target, weight, allowed, group = vary_together(x, w, target, weight, allowed, group)

    def by(scores: losses.Scores) -> Array:
        return losses.linear_xent_sum(x, w, target, weight, allowed, group, z_loss, scores, axis)

    forms = {
        "reference": lambda: reference.linear_xent_sum(x, w, target, weight, allowed, group, z_loss),
        "xla": lambda: by(XlaScores(blocks or choose_blocks(x.shape[0], w.shape[0]))),
        "pallas_tpu": lambda: by(pallas_tpu.scores_for(x, w, blocks)),
    }
    return dispatch.run("linear_xent_sum", _spread(forms, axis, x, w), implementation)


def linear_xent(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    *,
    allowed: Bool[Array, "G V"] | None = None,
    group: Int[Array, " N"] | None = None,
    z_loss: float = 0.0,
    axis: str | None = None,
    blocks: Blocks | None = None,
    implementation: Implementation = None,
) -> Float[Array, " N"]:
    """The loss of each token, as in `linear_xent_sum`; the backward pass computes the scores a second time.

    For what needs each token's loss before it knows its weight. Differentiable in x and w.
    """
    _check(x, w, allowed, group, target=target)
    x, w, target, allowed, group = vary_together(x, w, target, allowed, group)

    def by(scores: losses.Scores) -> Array:
        return losses.linear_xent(x, w, target, allowed, group, z_loss, scores, axis)

    forms = {
        "reference": lambda: reference.linear_xent(x, w, target, allowed, group, z_loss),
        "xla": lambda: by(XlaScores(blocks or choose_blocks(x.shape[0], w.shape[0]))),
        "pallas_tpu": lambda: by(pallas_tpu.scores_for(x, w, blocks)),
    }
    return dispatch.run("linear_xent", _spread(forms, axis, x, w), implementation)


def sampled_xent_sum(
    x: Float[Array, "N D"],
    positive: Float[Array, "N D"],
    negatives: Float[Array, "S D"],
    weight: Float[Array, " N"],
    *,
    positive_logq: Float[Array, " N"] | None = None,
    negative_logq: Float[Array, " S"] | None = None,
    positive_id: Int[Array, " N"] | None = None,
    negative_id: Int[Array, " S"] | None = None,
    group: Int[Array, " N"] | None = None,
    negative_group: Int[Array, " S"] | None = None,
    tokens: int | None = None,
    implementation: Implementation = None,
) -> Float[Array, ""]:
    """The weighted sum of cross entropies over each token's target and the shared negatives.

    loss_n = log(exp(a_n) + sum_s exp(b_ns)) - a_n,   a_n = x_n positive_n - positive_logq_n,
                                                      b_ns = x_n negatives_s - negative_logq_s

    With logq the log of the probability with which an item is drawn, this estimates the full softmax (Bengio &
    Senecal 2008; for targets of the batch as negatives Yi et al. 2019, equation 3). The gradient is made in the
    forward pass.

    Args:
        x: states of the tokens.
        positive: the row of each token's target.
        negatives: rows of the sampled items, the same for all tokens: scoring them is one matrix product.
        weight: factor of each token's loss; 0 for a token that has none.
        positive_logq, negative_logq: corrections; 0 where left out. They get no gradient.
        positive_id, negative_id: a negative that is the token's own target is left out of its sum.
        group, negative_group: a negative of another group is left out of the token's sum.
        tokens: how many tokens are scored at a time; by default by shape and platform.

    Returns:
        The sum, in float32 (float64 for float64). Differentiable in x, positive, negatives and weight
        (of a token of weight 0: by 0).

    Raises:
        ValueError: shapes that do not fit, or one of a pair of arguments without the other.
    """
    pairs = positive_id, negative_id, group, negative_group
    how = Sampled.of("softmax", x, negatives, pairs, positive_logq, negative_logq, None)
    return _sampled_sum(x, positive, negatives, weight, how, tokens, implementation)


def sampled_bce_sum(
    x: Float[Array, "N D"],
    positive: Float[Array, "N D"],
    negatives: Float[Array, "S D"],
    weight: Float[Array, " N"],
    *,
    beta: float | Float[Array, " N"] = 1.0,
    positive_id: Int[Array, " N"] | None = None,
    negative_id: Int[Array, " S"] | None = None,
    group: Int[Array, " N"] | None = None,
    negative_group: Int[Array, " S"] | None = None,
    tokens: int | None = None,
    implementation: Implementation = None,
) -> Float[Array, ""]:
    """The weighted sum of binary cross entropies of target against shared negatives; gBCE with `beta=gbce_beta(...)`.

    loss_n = -(beta log sigmoid(x_n positive_n) + sum_s log(1 - sigmoid(x_n negatives_s))) / (1 + negatives that count)

    Other arguments, result and errors as in `sampled_xent_sum`. Raw scores are compared: there is no logq.
    """
    pairs = positive_id, negative_id, group, negative_group
    how = Sampled.of("binary", x, negatives, pairs, None, None, beta)
    return _sampled_sum(x, positive, negatives, weight, how, tokens, implementation)


def top_k(
    x: Float[Array, "Q D"],
    w: Float[Array, "V D"],
    k: int,
    *,
    allowed: Bool[Array, "G V"] | None = None,
    group: Int[Array, " Q"] | None = None,
    exclude: Int[Array, "Q E"] | None = None,
    blocks: Blocks | None = None,
    implementation: Implementation = None,
) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """The k items with the highest scores, exactly, highest first; of equal scores the lower id comes first.

    Args:
        x, w, allowed, group, blocks: as in `linear_xent_sum`.
        k: at least 1, at most V.
        exclude: ids that a query leaves out, in any order and number of times; 0 = none.

    Returns:
        Scores and int32 ids. Where a query has fewer than k items left, -inf and id 0.

    Raises:
        ValueError: shapes that do not fit, or k out of range.
    """
    if not 1 <= k <= w.shape[0]:
        raise ValueError(f"k must be between 1 and the {w.shape[0]} items, found {k}")
    _check(x, w, allowed, group, exclude=exclude)
    x, w, allowed, group, exclude = vary_together(x, w, allowed, group, exclude)
    cuts = blocks or choose_blocks(x.shape[0], w.shape[0])
    forms = {
        "reference": lambda: reference.top_k(x, w, k, allowed, group, exclude),
        "xla": lambda: xla_ranking.top_k(x, w, k, allowed, group, exclude, cuts),
        "pallas_tpu": lambda: pallas_top_k.top_k(x, w, k, allowed, group, exclude, blocks),
    }
    return dispatch.run("top_k", forms, implementation)


def target_rank(
    x: Float[Array, "Q D"],
    w: Float[Array, "V D"],
    target: Int[Array, " Q"],
    *,
    allowed: Bool[Array, "G V"] | None = None,
    group: Int[Array, " Q"] | None = None,
    exclude: Int[Array, "Q E"] | None = None,
    blocks: Blocks | None = None,
    implementation: Implementation = None,
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, " Q"]]:
    """How the target stands among the items that its query may choose: rank = 1 + higher + ties / 2.

    Args:
        x, w, allowed, group, exclude, blocks: as in `top_k`. The target itself is never left out.
        target: one id a query.

    Returns:
        higher: int32, items with a higher score, or with a score that is not a number; V if the target's is none.
        ties: int32, other items with exactly the target's score.
        score: the target's.
    """
    _check(x, w, allowed, group, target=target, exclude=exclude)
    blocks = choose_blocks(x.shape[0], w.shape[0]) if blocks is None else blocks
    x, w, target, allowed, group, exclude = vary_together(x, w, target, allowed, group, exclude)
    forms = {
        "reference": lambda: reference.target_rank(x, w, target, allowed, group, exclude),
        "xla": lambda: xla_ranking.target_rank(x, w, target, allowed, group, exclude, blocks),
    }
    return dispatch.run("target_rank", forms, implementation)


def _sampled_sum(
    x: Array,
    positive: Array,
    negatives: Array,
    weight: Array,
    how: Sampled,
    tokens: int | None,
    implementation: Implementation,
) -> Float[Array, ""]:
    """The sum of the losses that `how` describes, by the form asked for."""
    per_token = how.tokens()
    _check(x, negatives, None, per_token.pop("group", None), weight=weight, **per_token)
    if positive.shape != x.shape:
        raise ValueError(f"expected a positive row for each token, {x.shape}, found {positive.shape}")
    if tokens is None:
        tokens = choose_blocks(x.shape[0], negatives.shape[0]).tokens
    x, positive, negatives, weight, how = vary_together(x, positive, negatives, weight, how)
    forms = {
        "reference": lambda: reference.sampled_sum(x, positive, negatives, weight, how),
        "xla": lambda: xla_sampled.sampled_sum(x, positive, negatives, weight, how, tokens),
    }
    return dispatch.run(f"sampled {how.loss}", forms, implementation)


def _spread(forms: dict[str, Callable], axis: str | None, x: Array, w: Array) -> dict[str, Callable]:
    """The forms that can take items spread over devices, where they are."""
    if axis is None:
        return forms
    if tpu.varying(x, w):
        raise ValueError("items spread over devices need jax.shard_map(..., check_vma=False)")
    return {name: form for name, form in forms.items() if name != "reference"}


def _check(x: Array, w: Array, allowed: Array | None, group: Array | None, **per_token: Array | None) -> None:
    """Refuse shapes and types that do not fit."""
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(f"expected states [N, D] and items [V, D], found {x.shape} and {w.shape}")
    if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float64):
        raise ValueError(f"expected float32, bfloat16 or float64 states, found {x.dtype}")
    for name, value in {"group": group, **per_token}.items():
        if value is not None and value.shape[:1] != x.shape[:1]:
            raise ValueError(f"expected a {name} for each of {x.shape[0]} rows, found {value.shape}")
    if allowed is not None and (allowed.ndim != 2 or allowed.shape[1] != w.shape[0]):
        raise ValueError(f"expected allowed [G, {w.shape[0]}], found {allowed.shape}")
    if allowed is not None and group is None and allowed.shape[0] > 1:
        raise ValueError(f"allowed has {allowed.shape[0]} groups, so every row needs a group")
