"""What each objective is given, with what weight it counts, and which objectives a run cannot have."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import Model
from mdrec_jax.models.encoded import Encoded, Views
from mdrec_jax.objectives import contrastive
from mdrec_jax.objectives.combine import TAXONOMY, Objectives, ObjectivesConfig, check_objectives
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.disentangle import DisentangleLossConfig
from mdrec_jax.objectives.forward import Forward
from mdrec_jax.objectives.next_item import Candidates, NextItemConfig, make_objective
from mdrec_jax.objectives.taxonomy import TaxonomyConfig, taxonomy_loss
from mdrec_jax.objectives.transfer import TransferConfig
from mdrec_jax.parallel.mesh import DATA, MeshConfig, by_row, make_mesh
from mdrec_jax.types import Batch
from tests.models.make import SPEC
from tests.models.plain import Plain
from tests.objectives.spread import DEVICES, make_batch

BATCH = make_batch()
NAMES = ("h", "mixed", "in_domain", "single")
STATES = np.random.default_rng(6).standard_normal((*BATCH.item.shape, len(NAMES), 4)).astype(np.float32)
VIEW = {name: STATES[:, :, place] for place, name in enumerate(NAMES)}
ITEMS = [np.arange(2 + domain, SPEC.num_items, SPEC.num_domains) for domain in range(SPEC.num_domains)]
NEXT_ITEM = make_objective(NextItemConfig(), ITEMS, np.ones(SPEC.num_items), SPEC.num_items)
WEIGHT = BATCH.weight / BATCH.weight.sum()


def on(devices: int, f: Callable[..., Any]) -> Any:
    """f of each device's rows, added up."""
    mesh = make_mesh(MeshConfig(devices))
    whole = jax.shard_map(
        lambda *rows: jax.lax.psum(f(*rows), DATA), mesh=mesh, in_specs=jax.P(DATA), out_specs=jax.P(), check_vma=False
    )
    return jax.tree.map(float, jax.jit(whole)(*jax.device_put((STATES, BATCH), by_row(mesh))))


class Squares(Forward):
    """A token's next-item loss is the square of its state."""

    def score(self, h: jax.Array, weight: jax.Array) -> jax.Array:
        return (weight * (h**2).sum(-1)).sum()

    def each(self, h: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(h**2).sum(-1).reshape(-1)


def shown_by(config: ObjectivesConfig, devices: int = 1, categories: jax.Array | None = None) -> dict[str, float]:
    """The whole loss (as `total`) and what is shown, where a token's next-item loss is the square of its state."""

    def values(states: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        view = {name: states[:, :, place] for place, name in enumerate(NAMES)}
        encoded = Encoded(view["h"], Views(view["mixed"], view["in_domain"], view["single"]))
        candidates = Candidates({}, {TAXONOMY: jnp.arange(2, 12)})
        seen = Squares(
            cast(Model, Plain()), batch, encoded, NEXT_ITEM, candidates, lambda ids: jnp.asarray(VIEW["h"][0, :10]),
            jnp.zeros((len(batch.item), 2), jnp.uint32), jnp.asarray(BATCH.weight.sum()), DEVICES,
        )  # fmt: skip
        total, shown = Objectives(NEXT_ITEM, categories, config).losses(seen)
        return {"total": total, **shown}

    return on(devices, values)


def squares(name: str, weight: np.ndarray = WEIGHT) -> float:
    return float((weight * (VIEW[name] ** 2).sum(-1)).sum())


def contrast(config: ContrastiveConfig, kind: str, *names: str) -> float:
    def loss(states: jax.Array, batch: Batch) -> jax.Array:
        views = [states[:, :, NAMES.index(name)] for name in names]
        pairs = contrastive.intra_pairs(batch, *views) if kind == "intra" else contrastive.inter_pairs(batch, *views)
        return contrastive.pair_loss(config, pairs, DEVICES)

    return on(1, loss)


def test_nothing_further_leaves_the_next_item_alone() -> None:
    assert shown_by(ObjectivesConfig()) == pytest.approx({"total": squares("h"), "loss": squares("h")}, rel=1e-5)


def test_contrasts_compare_the_views_they_name_and_count_by_their_weights() -> None:
    config = ContrastiveConfig(intra=0.3, inter=0.7)
    found = shown_by(ObjectivesConfig(config))
    intra = contrast(config, "intra", "mixed", "in_domain")
    inter = contrast(config, "inter", "in_domain")
    expected = {"loss": squares("h"), "contrastive_intra": intra, "contrastive_inter": inter}
    assert found == pytest.approx({"total": squares("h") + 0.3 * intra + 0.7 * inter, **expected}, rel=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_taxonomy_of_the_compared_items_counts_once_for_all_devices(devices: int) -> None:
    paths = np.zeros((SPEC.num_items, 2), np.int32)
    paths[2:, 0], paths[2:, 1] = np.arange(2, SPEC.num_items) % 2 + 1, np.arange(2, SPEC.num_items) % 4 + 1
    config = TaxonomyConfig(weight=0.25, levels=2)
    vectors, real = jnp.asarray(VIEW["h"][0, :10]), jnp.ones(10, bool)
    loss = float(taxonomy_loss(config, vectors, jnp.asarray(paths[2:12]), real))
    found = shown_by(ObjectivesConfig(taxonomy=config), devices, categories=jnp.asarray(paths))
    expected = {"total": squares("h") + 0.25 * loss, "loss": squares("h"), "taxonomy": loss}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_transfer_weighs_domains_by_their_gain_on_targets_with_a_past(devices: int) -> None:
    config = TransferConfig(weight=0.6, sharpness=0.05)
    known = (BATCH.weight > 0) & (BATCH.previous_in_target_domain >= 0)
    gain, number = np.zeros(SPEC.num_domains), np.zeros(SPEC.num_domains)
    for domain in range(SPEC.num_domains):
        mine = BATCH.target_domain == domain
        single, cross = ((VIEW[name] ** 2).sum(-1)[known & mine].mean() for name in ("single", "h"))
        gain[domain], number[domain] = single - cross, ((BATCH.weight > 0) & mine).sum()
    assert known.sum() < number.sum()
    factor = np.exp(config.sharpness * gain)
    factor *= number.sum() / (factor @ number)
    loss, single = squares("h", WEIGHT * factor[BATCH.target_domain]), squares("single")
    expected = {"total": loss + 0.6 * single, "loss": loss, "single_domain": single}
    expected |= {f"gain_{domain}": gain[domain] for domain in range(SPEC.num_domains)}
    assert shown_by(ObjectivesConfig(transfer=config), devices) == pytest.approx(expected, rel=1e-4)


def test_compared_items_are_looked_up_beside_the_next_items_own() -> None:
    config = ObjectivesConfig(taxonomy=TaxonomyConfig(weight=1.0))
    sampled = make_objective(
        NextItemConfig("sampled_softmax", negatives=3), ITEMS, np.ones(SPEC.num_items), SPEC.num_items
    )

    def found(categories: jax.Array | None) -> Candidates:
        made = Objectives(sampled, categories, config)
        of = lambda batch: dataclasses.asdict(made.candidates(batch, jax.random.key(0), DEVICES))  # noqa: E731
        mesh = make_mesh(MeshConfig(1))
        whole = jax.shard_map(of, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False)
        return Candidates(**jax.jit(whole)(BATCH))

    without, beside = found(None), found(jnp.zeros((SPEC.num_items, 1), jnp.int32))
    assert (set(without.shared), set(beside.shared)) == ({"negative"}, {"negative", TAXONOMY})
    assert set(beside.per_row) == {"target"}
    np.testing.assert_array_equal(beside.shared["negative"], without.shared["negative"])
    targets = list(dict.fromkeys(BATCH.target[BATCH.weight > 0].tolist()))
    assert beside.shared[TAXONOMY].tolist()[: len(targets)] == targets


@pytest.mark.parametrize(
    ("fields", "views", "codes", "micro_batches", "refused"),
    [
        ({}, False, False, 8, None),
        ({"contrastive": ContrastiveConfig(intra=0.1)}, False, True, 1, "objectives.contrastive"),
        ({"contrastive": ContrastiveConfig(intra=0.1)}, True, False, 1, None),
        ({"transfer": TransferConfig(0.1)}, False, True, 1, "objectives.transfer"),
        ({"transfer": TransferConfig(0.1)}, True, False, 1, None),
        ({"disentangle": DisentangleLossConfig(mmd=0.1)}, True, False, 1, "objectives.disentangle"),
        ({"disentangle": DisentangleLossConfig(mmd=0.1)}, True, True, 1, None),
        ({"disentangle": DisentangleLossConfig(shared_alone=0.1)}, True, True, 2, None),
        ({"disentangle": DisentangleLossConfig(mmd=0.1)}, True, True, 2, "train.accumulate"),
        ({"contrastive": ContrastiveConfig(inter=0.1)}, True, True, 2, "train.accumulate"),
        ({"taxonomy": TaxonomyConfig(0.1)}, True, True, 2, "train.accumulate"),
        ({"transfer": TransferConfig(0.1)}, True, True, 2, "train.accumulate"),
    ],
)
def test_what_a_run_cannot_have_is_refused(
    fields: dict[str, Any], views: bool, codes: bool, micro_batches: int, refused: str | None
) -> None:
    config = ObjectivesConfig(**fields)
    if refused is None:
        check_objectives(config, views=views, codes=codes, micro_batches=micro_batches)
        return
    with pytest.raises(ConfigError) as told:
        check_objectives(config, views=views, codes=codes, micro_batches=micro_batches)
    assert f"'{refused}'" in str(told.value)
