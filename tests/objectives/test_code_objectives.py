"""Which losses a disentangled model's codes have, over which tokens, and with what weight; in numpy beside it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.layers.dropout import Fold, fold_seeds
from mdrec_jax.objectives import disentangle
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.disentangle import DisentangleLossConfig, mean_over, mmd, of_tokens, sampler, unlikely
from mdrec_jax.objectives.next_item import CALIBRATION, NextItemConfig
from mdrec_jax.objectives.taxonomy import TaxonomyConfig
from mdrec_jax.objectives.transfer import TransferConfig
from tests.objectives.spread import make_batch

BATCH = make_batch()
R, T = BATCH.item.shape
RNG = np.random.default_rng(3)
CODES = {
    name: RNG.normal(size=(R, T, 4)).astype(np.float32)
    for name in ("shared", "specific", "unwhitened", "whole", "whitened", "cross_domain")
}
REAL = BATCH.weight > 0
DOMAINS = 2 + int(max(BATCH.domain.max(), BATCH.target_domain.max()))
READS = {name: RNG.normal(size=(4, DOMAINS)).astype(np.float32) for name in ("shared", "specific")}
READERS: Any = SimpleNamespace(
    domains=DOMAINS, of_shared=lambda x: x @ READS["shared"], of_specific=lambda x: x @ READS["specific"]
)
ALONE: Any = SimpleNamespace(gather=lambda x: x, sum=lambda x: x, size=1, index=0)


class Erasure:
    def misfit(self, inner: jax.Array, whole: jax.Array, real: jax.Array) -> jax.Array:
        return jnp.where(real[:, None], inner + 2 * whole, 0).sum()


def codes(**changed: Any) -> Any:
    fields = {name: jnp.asarray(value) for name, value in CODES.items() if name not in ("whitened", "cross_domain")}
    return SimpleNamespace(
        **{**fields, "readers": READERS, "whitened": None, "erasure": None, "cross_domain": None, **changed}
    )


def seen(of: Any, **changed: Any) -> Any:
    fields = {
        "batch": BATCH, "encoded": SimpleNamespace(codes=of), "targets": jnp.float32(REAL.sum() * 2), "spread": ALONE,
        "model": SimpleNamespace(scored_states=lambda x: 10 * x), "weight": jnp.asarray(BATCH.weight) / 7,
        "seeds": jnp.asarray(RNG.integers(0, 2**32, (R, 2), dtype=np.uint32)),
        "score": lambda h, weight: (h.sum(-1) * weight).sum(),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changed})


def told(config: DisentangleLossConfig, given: Any) -> dict[str, tuple[float, float]]:
    return {name: (weight, float(value)) for name, (weight, value) in config.losses(given).items()}


def cross_entropy(logits: np.ndarray, domain: np.ndarray) -> np.ndarray:
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log, np.asarray(domain)[..., None], -1)[..., 0]


def test_everything_is_off_by_default() -> None:
    assert DisentangleLossConfig() == DisentangleLossConfig(0.0, 0.0, 0.0, 0.0, 16)
    assert ContrastiveConfig() == ContrastiveConfig(0.0, 0.0, "decoupled", 0.1)
    assert TaxonomyConfig() == TaxonomyConfig(0.0, 3)
    assert TransferConfig() == TransferConfig(0.0, 1.0)
    assert NextItemConfig() == NextItemConfig("softmax", "all", 256, "uniform", 0.0)
    assert not DisentangleLossConfig().used
    assert not ContrastiveConfig().used
    assert (CALIBRATION, disentangle.WIDTHS, disentangle.TINY) == (0.75, (0.25, 0.5, 1.0, 2.0, 4.0), 1e-12)


@pytest.mark.parametrize("name", ["shared_alone", "specific_domain", "mmd", "adversary"])
def test_a_loss_of_codes_is_used_by_its_weight_and_refused_below_zero(name: str) -> None:
    assert replace(DisentangleLossConfig(), **{name: 0.1}).used
    for value in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ConfigError) as error:
            replace(DisentangleLossConfig(), **{name: value})
        assert (error.value.column, error.value.expected) == (f"objectives.disentangle.{name}", ">= 0")


def test_at_least_one_token_of_a_row_is_compared() -> None:
    assert DisentangleLossConfig(sample=1).sample == 1
    with pytest.raises(ConfigError) as error:
        DisentangleLossConfig(sample=0)
    assert (error.value.column, error.value.found, error.value.expected) == ("objectives.disentangle.sample", 0, ">= 1")


def test_a_model_without_codes_has_none_of_their_losses() -> None:
    every = DisentangleLossConfig(1, 1, 1, 1)
    assert every.losses(seen(None)) == {}
    assert DisentangleLossConfig().losses(seen(codes())) == {}


def test_codes_that_score_by_themselves_are_made_ready_for_inner_products() -> None:
    found = told(DisentangleLossConfig(shared_alone=0.3), seen(codes(cross_domain=jnp.asarray(CODES["cross_domain"]))))
    expected = {
        name: float((10 * CODES[code].sum(-1) * BATCH.weight / 7).sum())
        for name, code in (("shared_alone", "shared"), ("cross_domain_alone", "cross_domain"))
    }
    assert {name: weight for name, (weight, _) in found.items()} == {"shared_alone": 0.3, "cross_domain_alone": 1.0}
    assert {name: value for name, (_, value) in found.items()} == pytest.approx(expected, rel=1e-4)


def test_the_specific_code_is_asked_for_its_domain_where_the_user_was_there_before() -> None:
    found = told(DisentangleLossConfig(specific_domain=0.4), seen(codes()))
    missed = cross_entropy(CODES["specific"] @ READS["specific"], BATCH.target_domain)
    known = REAL & (BATCH.previous_in_target_domain >= 0)
    assert (BATCH.previous_in_target_domain[REAL] == 0).sum() > 0
    assert known.sum() < REAL.sum()
    assert list(found) == ["specific_domain"]
    assert found["specific_domain"] == pytest.approx((0.4, missed[known].sum() / REAL.sum() / 2), rel=1e-4)


@pytest.mark.parametrize("whitened", [False, True])
def test_the_adversary_reads_the_shared_code_whitened_where_it_is(whitened: bool) -> None:
    name = "whitened" if whitened else "shared"
    given = codes(whitened=jnp.asarray(CODES["whitened"])) if whitened else codes()
    found = told(DisentangleLossConfig(adversary=0.5), seen(given))
    missed = cross_entropy(CODES[name] @ READS["shared"], BATCH.domain)
    assert list(found) == ["adversary"]
    assert found["adversary"] == pytest.approx((1.0, missed[REAL].sum() / REAL.sum() / 2), rel=1e-4)


def test_a_gradient_is_reversed_only_where_the_guess_is_better_than_chance() -> None:
    def missed(x: jax.Array) -> jax.Array:
        return disentangle.adversary(READERS, x, jnp.asarray(BATCH.domain), 0.5).sum()

    x = jnp.asarray(CODES["shared"])
    plainly = jax.grad(lambda x: unlikely(READERS.of_shared(x), jnp.asarray(BATCH.domain)).sum())(x)
    better = cross_entropy(CODES["shared"] @ READS["shared"], BATCH.domain) < np.log(DOMAINS)
    assert 0 < better.sum() < better.size
    np.testing.assert_allclose(jax.grad(missed)(x), np.where(better[..., None], -0.5 * plainly, 0), atol=1e-6)
    losses = of_tokens(DisentangleLossConfig(adversary=0.25), codes(), x, BATCH)
    gradient = jax.grad(
        lambda x: of_tokens(DisentangleLossConfig(adversary=0.25), codes(), x, BATCH)["adversary"][1].sum()
    )
    np.testing.assert_allclose(gradient(x), np.where(better[..., None], -0.25 * plainly, 0), atol=1e-6)
    assert losses["adversary"][0] == 1.0


@pytest.mark.parametrize("number", [1, 3, 100])
def test_a_sample_is_evenly_spread_columns_from_a_drawn_one(number: int) -> None:
    given = seen(codes())
    taken = np.asarray(sampler(given, number)(jnp.broadcast_to(jnp.arange(T), (R, T)))).reshape(R, -1)
    stride = max(1, T // number)
    drawn: Any = fold_seeds(given.seeds, Fold.SAMPLE)
    first = np.asarray(drawn)[:, 0] % stride
    np.testing.assert_array_equal(taken, first[:, None] + stride * np.arange(T // stride))
    assert len(set(first.tolist())) > 1 or stride == 1
    deep = np.asarray(sampler(given, number)(jnp.asarray(CODES["shared"])))
    np.testing.assert_array_equal(deep.reshape(R, -1, 4), np.take_along_axis(CODES["shared"], taken[..., None], 1))


def test_samples_are_compared_over_real_tokens_and_shared_out_by_targets() -> None:
    config, given = DisentangleLossConfig(mmd=0.7, sample=5), seen(codes(erasure=Erasure()))
    take = sampler(given, 5)
    real, domain = (take(jnp.asarray(x)) for x in (REAL, BATCH.domain))
    found = told(config, given)
    assert list(found) == ["mmd", "erase"]
    apart = float(mmd(take(jnp.asarray(CODES["shared"])), domain, real, DOMAINS))
    assert apart > 0
    assert found["mmd"] == pytest.approx((0.7, apart / 2), rel=1e-5)
    misfit = float(Erasure().misfit(*(take(jnp.asarray(CODES[name])) for name in ("unwhitened", "whole")), real))
    assert found["erase"] == pytest.approx((1.0, misfit / 2), rel=1e-5)
    assert list(told(DisentangleLossConfig(sample=5), given)) == ["erase"]
    assert list(told(config, seen(codes()))) == ["mmd"]


def test_a_mean_is_over_what_counts() -> None:
    value = jnp.array([1.0, 4.0, 10.0])
    assert float(mean_over(value, jnp.array([True, True, False]))) == 2.5
    assert float(mean_over(value, jnp.zeros(3, bool))) == 0
    assert float(mean_over(value, jnp.array([False, False, True]))) == 10
