"""The default: the flagship at the quickstart's sizes, with the part that has earned its place there: the in-domain
view beside the mixed one, and low-rank paths of the domains. The other parts are fields of `model`, off until they are
set.

mdrec train mdrec
"""

from mdrec_jax.config import RunConfig, load_preset, replace


def config() -> RunConfig:
    return _with_views(load_preset("quickstart"))


def smoke() -> RunConfig:
    return _with_views(load_preset("quickstart", smoke=True))


def _with_views(base: RunConfig) -> RunConfig:
    return replace(base, model={"views": {"in_domain": True, "path_rank": 8}})
