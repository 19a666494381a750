"""The default: the flagship at the quickstart's sizes, with the parts that have earned their place there: the in-domain
view beside the mixed one, low-rank paths of the domains, and the decoupled contrast of the two views. Where items have
categories, `--objectives.taxonomy.weight 1 --objectives.contrastive.intra 0` is better still. The other parts are
fields of `model` and `objectives`, off until they are set.

mdrec train mdrec
"""

from mdrec_jax.config import RunConfig, load_preset, replace


def config() -> RunConfig:
    return _with_views(load_preset("quickstart"))


def smoke() -> RunConfig:
    return _with_views(load_preset("quickstart", smoke=True))


def _with_views(base: RunConfig) -> RunConfig:
    views = {"in_domain": True, "path_rank": 8}
    return replace(base, model={"views": views}, objectives={"contrastive": {"intra": 0.1}})
