"""Mixing: how often an epoch draws each window, so that the domains get the shares of targets that are asked for.

What is drawn is always a whole window; what the shares speak of is targets. With w[g] the wanted share of domain g,

    proportional   every window once: the shares are those of the data
    temperature    w[g] ~ (targets of g) ** (1 / temperature): 1 is proportional, infinity gives all domains the same
    explicit       w[g] ~ domain_weights[g]; 0 leaves out the windows whose targets are in that domain alone

A window whose targets are all in one domain (its inputs may come from anywhere) is drawn w[g] / natural[g] times an
epoch in the mean, and where all windows are like that the shares are exact. A window with targets in several domains
is drawn as a whole, so its targets come in its own proportions f[g]; it is drawn product of r[g] ** f[g] times, with
one rate r a domain. These rates are the ones that change the data least (in relative entropy) while the shares come
out as wanted; they are found by iterative scaling, r[g] *= wanted[g] / realised[g] (Darroch and Ratcliff 1972,
doi:10.1214/aoms/1177692379, where the f of a window add up to 1). No r leaves 1/10 .. 10, or w / natural where that
lies further out: shares that mixed sequences cannot have are approached, not bought by drawing a few windows over and
over; `expected_shares` says what comes out. An epoch has as many targets, in the mean, as the data.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from mdrec_jax.data.packing import SHARE_BITS
from mdrec_jax.errors import ConfigError

_ITERATIONS = 1000
_TOLERANCE = 1e-7
_MIXED_RATE = 10.0


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
    natural = targets.sum(axis=0)
    total = int(natural.sum())
    # Windows of the same composition have the same rate, and there are few compositions.
    kinds, kind, number = np.unique(targets, axis=0, return_inverse=True, return_counts=True)
    parts = kinds / kinds.sum(axis=1, keepdims=True)
    per_kind = kinds * number[:, None]
    asked = (wanted > 0) & (natural > 0)
    ideal = wanted[asked] * total / natural[asked]
    low, high = min(ideal.min(), 1 / _MIXED_RATE), max(ideal.max(), _MIXED_RATE)
    rates = np.full(len(wanted), low)
    rates[asked] = ideal
    drawable = kinds[:, asked].any(axis=1)
    for _ in range(_ITERATIONS):
        drawn = np.where(drawable, np.exp(parts @ np.log(rates)), 0.0)
        drawn *= total / (drawn @ per_kind.sum(axis=1))
        realised = drawn @ per_kind / total
        if np.abs(realised - wanted).max() <= _TOLERANCE:
            break
        rates[asked] = np.clip(rates[asked] * wanted[asked] / realised[asked], low, high)
    units = np.rint(drawn * (1 << SHARE_BITS)).astype(np.int64)
    units[(units == 0) & (drawn > 0)] = 1
    shares = units @ per_kind
    return Mixture(rate=units[kind.reshape(-1)], wanted_shares=wanted, expected_shares=shares / shares.sum())
