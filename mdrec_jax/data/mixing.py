"""Mixing: how often an epoch draws each window, so that the domains get the shares of targets that are asked for.

What is drawn is always a whole window; what the shares speak of is targets. With w[g] the wanted share of domain g,

    proportional   every window once: the shares are those of the data
    temperature    w[g] ~ (targets of g) ** (1 / temperature): 1 is proportional, infinity gives all domains the same
    explicit       w[g] ~ domain_weights[g]; a weight of 0 leaves out the windows that have targets in that domain alone

Each domain gets a rate r[g], and a window is drawn, in the mean over epochs, at the mean of its targets' rates. Where
every window has targets in one domain only (its *domain of targets*; inputs may come from anywhere), r[g] is simply
wanted / natural and the shares are exact. A window that has targets in several domains is drawn as a whole, so its
targets come in its own proportions: the rates are then the fixed point of r[g] *= wanted[g] / realised[g], which
meets the wanted shares where any drawing of whole windows can and comes close to them elsewhere. `expected_shares`
says what comes out. An epoch has as many targets, in the mean, as the data.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from mdrec_jax.data.packing import SHARE_BITS
from mdrec_jax.errors import ConfigError

_ITERATIONS = 500
_MIXED_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Mixture:
    """How often each window is drawn, and what that comes to."""

    rate: Int64[np.ndarray, " W"] | None
    """Mean number of times an epoch draws a window, in units of 2^-SHARE_BITS; None: exactly once."""
    wanted_shares: Float64[np.ndarray, " G"]
    expected_shares: Float64[np.ndarray, " G"]
    """The share of each domain among an epoch's targets."""


def wanted_shares(
    natural: Float64[np.ndarray, " G"],
    mixing: Literal["proportional", "temperature", "explicit"],
    temperature: float,
    domain_weights: tuple[float, ...],
    domains: tuple[str, ...],
) -> Float64[np.ndarray, " G"]:
    """The shares that the setting asks for, adding up to 1.

    Raises:
        ConfigError: weights that do not fit the domains, or weight on a domain without training targets.
    """
    if mixing == "proportional":
        return natural / natural.sum()
    if mixing == "temperature":
        with np.errstate(divide="ignore"):
            logits = np.log(natural) / temperature
        shares = np.exp(logits - logits.max())
        return shares / shares.sum()
    if len(domain_weights) != len(domains):
        raise ConfigError(
            "domain weights do not fit the data set",
            column="domain_weights",
            found=f"{len(domain_weights)} weights",
            expected=f"one weight for each of {', '.join(domains)}",
        )
    weights = np.asarray(domain_weights, np.float64)
    for name, weight, targets in zip(domains, weights, natural, strict=True):
        if weight > 0 and targets == 0:
            raise ConfigError(
                f"domain '{name}' has a weight but no training targets",
                column="domain_weights",
                found=float(weight),
                expected="0",
            )
    if weights.sum() <= 0:
        raise ConfigError("no domain has a weight", column="domain_weights", found=domain_weights)
    return weights / weights.sum()


def mix(targets: Int64[np.ndarray, "W G"], wanted: Float64[np.ndarray, " G"]) -> Mixture:
    """Rates of drawing that give the domains their wanted shares (see the module's text for mixed windows).

    Args:
        targets: the number of targets of each domain in each window; no window without any.
        wanted: shares, adding up to 1.
    """
    counts = targets.astype(np.float64)
    size = counts.sum(axis=1)
    total = size.sum()
    # realised[g] = sum over windows of targets[w, g] * mean over w's targets of r = (blend @ r)[g]
    blend = counts.T @ (counts / size[:, None])
    rate = np.ones(len(wanted))
    for _ in range(_ITERATIONS):
        realised = blend @ rate
        step = np.divide(wanted * total, realised, out=np.zeros_like(rate), where=realised > 0)
        rate *= step
        if np.abs(blend @ rate - wanted * total).max() <= _MIXED_TOLERANCE * total:
            break
    windows = (counts / size[:, None]) @ rate
    windows *= total / (windows @ size)
    units = np.rint(windows * (1 << SHARE_BITS)).astype(np.int64)
    units[(units == 0) & (windows > 0)] = 1
    drawn = units @ counts
    return Mixture(rate=units, wanted_shares=wanted, expected_shares=drawn / drawn.sum())
