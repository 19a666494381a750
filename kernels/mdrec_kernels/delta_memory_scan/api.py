"""The public function of `delta_memory_scan`."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.delta_memory_scan import pallas_tpu, reference, xla
from mdrec_kernels.delta_memory_scan.places import places
from mdrec_kernels.delta_memory_scan.spec import Inputs, Spec, wide
from mdrec_kernels.dispatch import Implementation

WEAKEST = -64.0
"""Logarithm of the least that a token keeps of the memory."""


def delta_memory_scan(
    q: Float[Array, "R T K"],
    k: Float[Array, "R T K"],
    value: Float[Array, "R T V"],
    segment: Int[Array, "R T"],
    write: Float[Array, "R T"],
    *,
    log_decay: Float[Array, "R T"] | None = None,
    state: Float[Array, "R K V"] | None = None,
    scale: float | None = None,
    chunk: int = 64,
    implementation: Implementation = None,
) -> tuple[Float[Array, "R T V"], Float[Array, "R K V"]]:
    """Read and write a memory S along the tokens of each segment, token by token.

    The gated delta rule (Yang et al. 2024, "Gated delta networks", equation 10):

        S <- a_t S + write_t k_t (value_t - a_t S^T k_t)^T,  a_t = exp(log_decay_t);  o_t = scale S^T q_t

    The chunk does not change the result, but for rounding. A segment starts at a column that is a multiple of the
    chunk; so a chunk holds one segment (of several, the one of the lowest number counts and the others are padding).
    Every segment of row r starts from state[r]. A token of segment 0 is padding: it gets zeros and writes nothing; its
    inputs have to be finite.

    To go on with a user later, give one user a row and hand in the state that came out.

    Args:
        q, k, value: float32, bfloat16 or float64. Scores, sums and the state are float32 at least. Keys have length 1
            or less.
        segment: which segment a token belongs to; a segment's tokens stand side by side, in order.
        write: how strongly a token writes, in [0, 1].
        log_decay: logarithm of the share of the whole memory that a token keeps, at most 0 (less than -64 counts as
            -64); by default 0.
        state: what segments start from; by default zeros.
        scale: factor of the output; by default K ** -0.5.
        chunk: tokens a chunk.
        implementation: "xla", "pallas_tpu", "reference", or a sequence of names to try in turn.

    Returns:
        outputs [R, T, V] in q's type, and the state after each row's last token [R, K, V], float32 or float64.

    Raises:
        ValueError: shapes or options that do not fit each other.
    """
    _check(q, k, value, segment, write, log_decay, state, chunk)
    rows, length, width = q.shape
    fade = jnp.zeros_like(write) if log_decay is None else jnp.clip(log_decay, WEAKEST, 0)
    if state is None:
        state = jnp.zeros((rows, width, value.shape[2]))
    q, k, value, segment, write, fade = (_whole_chunks(x, chunk) for x in (q, k, value, segment, write, fade))
    dtype = wide(q.dtype)
    inputs = Inputs(q, k, value, write.astype(dtype), fade.astype(dtype), state.astype(dtype))
    spec = Spec(chunk, width**-0.5 if scale is None else float(scale))
    forms = {
        "reference": lambda: reference.scan(spec, inputs, places(segment, chunk)),
        "xla": lambda: xla.scan(spec, inputs, places(segment, chunk)),
        "pallas_tpu": lambda: pallas_tpu.scan(spec, inputs, segment),
    }
    out, state = dispatch.run("delta_memory_scan", forms, implementation)
    return out[:, :length], state


def _whole_chunks(x: Array, chunk: int) -> Array:
    """Padding at the end of rows."""
    missing = -x.shape[1] % chunk
    return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2))) if missing else x


def _check(
    q: Array,
    k: Array,
    value: Array,
    segment: Array,
    write: Array,
    log_decay: Array | None,
    state: Array | None,
    chunk: int,
) -> None:
    """Refuse what has no meaning."""
    if q.ndim != 3 or q.shape != k.shape or value.ndim != 3 or value.shape[:2] != q.shape[:2]:
        shapes = f"q {q.shape}, k {k.shape}, value {value.shape}"
        raise ValueError(f"expected q, k [R, T, K] and value [R, T, V], found {shapes}")
    if not q.dtype == k.dtype == value.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q, k and value must share a floating type, found {q.dtype}, {k.dtype}, {value.dtype}")
    gates = {"segment": segment, "write": write, "log_decay": log_decay}
    for name, gate in gates.items():
        if gate is not None and gate.shape != q.shape[:2]:
            raise ValueError(f"{name} must be [R, T] = {q.shape[:2]}, found {gate.shape}")
    expected = q.shape[0], q.shape[2], value.shape[2]
    if state is not None and state.shape != expected:
        raise ValueError(f"state must be [R, K, V] = {expected}, found {state.shape}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, found {chunk}")
