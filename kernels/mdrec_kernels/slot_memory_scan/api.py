"""The public function of `slot_memory_scan`."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.dispatch import Implementation
from mdrec_kernels.slot_memory_scan import pallas_tpu, reference, xla
from mdrec_kernels.slot_memory_scan.places import places
from mdrec_kernels.slot_memory_scan.spec import Inputs, Mode, Spec, wide

WEAKEST = -64.0
"""Logarithm of the least that a token keeps of the memory in delta mode."""


def slot_memory_scan(
    q: Float[Array, "R T K"],
    k: Float[Array, "R T K"],
    value: Float[Array, "R T V"],
    segment: Int[Array, "R T"],
    write: Float[Array, "R T"],
    *,
    slots: Float[Array, "M K"] | None = None,
    erase: Float[Array, "R T"] | None = None,
    log_decay: Float[Array, "R T"] | None = None,
    state: Float[Array, "R M V"] | None = None,
    mode: Mode = "erase",
    scale: float | None = None,
    chunk: int = 64,
    implementation: Implementation = None,
) -> tuple[Float[Array, "R T V"], Float[Array, "R M V"]]:
    """Read and write a memory S of M slots along the tokens of each segment.

    erase (reads and writes of the Neural Turing Machine, Graves et al. 2014, equations 2 to 4, committed by chunks).
    With r_t = softmax(scale slots q_t) and w_t = write_t softmax(scale slots k_t), for a chunk's tokens t:

        o_t = r_t^T S                  every token reads the memory as it was at the chunk's start
        S <- S * prod_t (1 - erase_t w_t) + sum_t w_t value_t^T

    delta (gated delta rule, Yang et al. 2024, "Gated delta networks", equation 10), token by token; M is K:

        S <- a_t S + write_t k_t (value_t - a_t S^T k_t)^T,  a_t = exp(log_decay_t);  o_t = scale S^T q_t

    The chunk changes the result of erase mode, where it says when writes are committed, and not that of delta mode,
    but for rounding. A segment starts at a column that is a multiple of the chunk; so a chunk holds one segment (of
    several, the one of the lowest number counts and the others are padding). Every segment of row r starts from
    state[r]. A token of segment 0 is padding: it gets zeros and writes nothing; its inputs have to be finite.

    To go on with a user later, give one user a row and hand in the state that came out; in erase mode after a whole
    number of chunks, else the last chunk's tokens are committed early.

    Args:
        q, k, value: float32, bfloat16 or float64. Scores, sums and the state are float32 at least. Delta mode expects
            keys of length 1 or less.
        segment: which segment a token belongs to; a segment's tokens stand side by side, in order.
        write: how strongly a token writes, in [0, 1].
        slots: addresses of the slots; in erase mode.
        erase: the share of a written slot's content that a write of strength 1 erases, in [0, 1]; by default 1.
        log_decay: logarithm of the share of the whole memory that a token keeps, at most 0 (less than -64 counts as
            -64); in delta mode; by default 0.
        state: what segments start from; by default zeros.
        mode: "erase" or "delta".
        scale: factor of the scores (erase) or of the output (delta); by default K ** -0.5.
        chunk: tokens a chunk.
        implementation: "xla", "pallas_tpu", "reference", or a sequence of names to try in turn.

    Returns:
        outputs [R, T, V] in q's type, and the state after each row's last token [R, M, V], float32 or float64.

    Raises:
        ValueError: shapes or options that do not fit each other.
    """
    _check(q, k, value, segment, write, slots, erase, log_decay, state, mode, chunk)
    rows, length, width = q.shape
    fade = log_decay if mode == "delta" else erase
    if fade is None:
        fade = jnp.full_like(write, 0 if mode == "delta" else 1)
    if mode == "delta":
        fade = jnp.clip(fade, WEAKEST, 0)
    size = width if slots is None else slots.shape[0]
    if state is None:
        state = jnp.zeros((rows, size, value.shape[2]))
    q, k, value, segment, write, fade = (_whole_chunks(x, chunk) for x in (q, k, value, segment, write, fade))
    dtype = wide(q.dtype)
    if slots is None:
        slots = jnp.zeros((0, width), q.dtype)
    inputs = Inputs(q, k, value, write.astype(dtype), fade.astype(dtype), slots, state.astype(dtype))
    spec = Spec(mode, chunk, width**-0.5 if scale is None else float(scale))
    forms = {
        "reference": lambda: reference.scan(spec, inputs, places(segment, chunk)),
        "xla": lambda: xla.scan(spec, inputs, places(segment, chunk)),
        "pallas_tpu": lambda: pallas_tpu.scan(spec, inputs, segment),
    }
    out, state = dispatch.run("slot_memory_scan", forms, implementation)
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
    slots: Array | None,
    erase: Array | None,
    log_decay: Array | None,
    state: Array | None,
    mode: Mode,
    chunk: int,
) -> None:
    """Refuse what has no meaning."""
    if q.ndim != 3 or q.shape != k.shape or value.ndim != 3 or value.shape[:2] != q.shape[:2]:
        shapes = f"q {q.shape}, k {k.shape}, value {value.shape}"
        raise ValueError(f"expected q, k [R, T, K] and value [R, T, V], found {shapes}")
    if not q.dtype == k.dtype == value.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q, k and value must share a floating type, found {q.dtype}, {k.dtype}, {value.dtype}")
    gates = {"segment": segment, "write": write, "erase": erase, "log_decay": log_decay}
    for name, gate in gates.items():
        if gate is not None and gate.shape != q.shape[:2]:
            raise ValueError(f"{name} must be [R, T] = {q.shape[:2]}, found {gate.shape}")
    if mode not in ("erase", "delta"):
        raise ValueError(f"mode must be 'erase' or 'delta', found {mode!r}")
    if mode == "erase" and (slots is None or slots.ndim != 2 or slots.shape[1] != q.shape[2]):
        raise ValueError(f"mode 'erase' needs slots [M, {q.shape[2]}], found {None if slots is None else slots.shape}")
    if mode == "erase" and log_decay is not None:
        raise ValueError("log_decay belongs to mode 'delta'")
    if mode == "delta" and (slots is not None or erase is not None):
        raise ValueError("slots and erase belong to mode 'erase'")
    size = q.shape[2] if slots is None else slots.shape[0]
    expected = q.shape[0], size, value.shape[2]
    if state is not None and state.shape != expected:
        raise ValueError(f"state must be [R, M, V] = {expected}, found {state.shape}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, found {chunk}")
