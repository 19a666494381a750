"""The public function of `packed_attention`."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.dispatch import Implementation
from mdrec_kernels.packed_attention import dropout, pallas_tpu, reference, xla
from mdrec_kernels.packed_attention.plan import Tiling
from mdrec_kernels.packed_attention.spec import Mode, Places, Spec, Weights


def packed_attention(
    q: Float[Array, "R T H K"],
    k: Float[Array, "R T H K"],
    v: Float[Array, "R T H K"],
    segment: Int[Array, "R T"],
    *,
    mode: Mode = "softmax",
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    normalizer: float | None = None,
    position_bias: Float[Array, "h P"] | None = None,
    time_bias: Float[Array, "h B"] | None = None,
    time: Int[Array, "R T"] | None = None,
    query_time: Int[Array, "R T"] | None = None,
    dropout_rate: float = 0.0,
    dropout_keys: Array | None = None,
    tiling: Tiling | None = None,
    implementation: Implementation = None,
) -> Float[Array, "R T H K"]:
    """Attention of every token to the tokens of its own segment.

    softmax: o_t = sum_s softmax_s(scale q_t k_s + bias_ts) v_s
    silu:    o_t = 1/N sum_s silu(scale q_t k_s + bias_ts) v_s      (HSTU, Zhai et al., 2024, equation 2)

    over the s that t may see: same segment, s <= t if `causal`, |t - s| < `window`. A token of segment 0 is padding:
    it is seen by none and gets zeros.

    The work follows the segments: a token meets the keys of its own segment and of those that share its block, whatever
    T is. Pass `window` even where the model has none, as the length of the longest segment: no result changes, and less
    is compiled.

    Args:
        q, k, v: float32, bfloat16 or float64. Scores, softmax and sums are float32 at least.
        segment: which segment a token belongs to; a segment's tokens stand side by side, in order.
        mode: "softmax" or "silu".
        causal: a token sees no later one.
        window: a token sees only tokens fewer than this many columns away.
        scale: factor of q k; by default K ** -0.5. (HSTU's published code has 1.)
        normalizer: N of the silu mode, needed there: a constant such as the longest segment's length, and not the
            row's length T, which says how segments were packed.
        position_bias: bias by distance t - s, the last column for all farther ones; h is H, or 1 for all heads.
        time_bias: bias by `time_bucket(query_time_t - time_s, B)`, of which 63 hold any int32; h is H, or 1 for all
            heads.
        time: seconds at each token, needed with `time_bias`; within a segment it does not fall.
        query_time: the time from which a token looks back: by default `time`. HSTU's published code looks back from the
            time of the event to be predicted; whoever does so lets the model see the target's time.
        dropout_rate: share of the weights set to 0, the rest scaled up, when `dropout_keys` is given.
        dropout_keys: one random key a row [R]. What is dropped in a row depends on its key and on nothing else.
        tiling: how the score matrix is cut; by default by shape and platform.
        implementation: "pallas_tpu", "xla", "reference", or a sequence of names to try in turn.

    Returns:
        [R, T, H, K] in q's type.

    Raises:
        ValueError: shapes or options that do not fit each other.
    """
    spec = Spec(
        mode=mode,
        causal=causal,
        window=window,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        normalizer=1.0 if normalizer is None else float(normalizer),
        dropout_rate=float(dropout_rate),
    )
    _check(q, k, v, segment, spec, normalizer, position_bias, time_bias, time)
    timed = time_bias is not None
    keys = dropout_keys if dropout_rate > 0 else None
    places = Places(
        segment=segment,
        query_time=(time if query_time is None else query_time) if timed else None,
        key_time=time if timed else None,
        seeds=None if keys is None else dropout.row_seeds(keys),
    )
    weights = Weights(q, k, v, *(_on_every_device(table, segment) for table in (position_bias, time_bias)))
    forms = {
        "reference": lambda: reference.attend(spec, weights, places),
        "xla": lambda: xla.attend(spec, weights, places, tiling),
        "pallas_tpu": lambda: pallas_tpu.attend(spec, weights, places, tiling),
    }
    return dispatch.run("packed_attention", forms, implementation)


def _on_every_device(table: Array | None, segment: Array) -> Array | None:
    """The table, marked inside `jax.shard_map` as differing between devices where the rows do.

    Adding a zero made from the rows does so without naming a mesh axis; its transpose sums the table's gradient over
    the devices.
    """
    return None if table is None else table + (0 * segment[:1, 0]).astype(table.dtype)[:, None]


def _check(
    q: Array,
    k: Array,
    v: Array,
    segment: Array,
    spec: Spec,
    normalizer: float | None,
    position_bias: Array | None,
    time_bias: Array | None,
    time: Array | None,
) -> None:
    """Refuse what has no meaning."""
    if q.ndim != 4 or not q.shape == k.shape == v.shape or segment.shape != q.shape[:2]:
        shapes = f"q {q.shape}, k {k.shape}, v {v.shape}, segment {segment.shape}"
        raise ValueError(f"expected q, k, v [R, T, H, K] and segment [R, T], found {shapes}")
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q, k and v must share a floating type, found {q.dtype}, {k.dtype}, {v.dtype}")
    if spec.mode not in ("softmax", "silu"):
        raise ValueError(f"mode must be 'softmax' or 'silu', found {spec.mode!r}")
    if spec.mode == "silu" and (normalizer is None or normalizer <= 0):
        raise ValueError("mode 'silu' needs a positive normalizer, such as the length of the longest segment")
    if spec.window is not None and spec.window < 1:
        raise ValueError(f"window must be at least 1, found {spec.window}")
    if not 0 <= spec.dropout_rate < 1:
        raise ValueError(f"dropout_rate must be in [0, 1), found {spec.dropout_rate}")
    for name, table in (("position_bias", position_bias), ("time_bias", time_bias)):
        if table is not None and (table.ndim != 2 or table.shape[0] not in (1, q.shape[2])):
            raise ValueError(f"{name} must be [1 or {q.shape[2]}, buckets], found {table.shape}")
    if position_bias is not None and not spec.causal:
        raise ValueError("position_bias counts distances back in time: it needs causal attention")
    if time_bias is not None and time is None:
        raise ValueError("time_bias needs the tokens' time")
