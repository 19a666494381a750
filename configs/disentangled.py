"""A shared and a specific code that are kept apart: the shared one learns from what users did in other domains than the
target's and has one mean and covariance in all domains, and the specific one has the shared one's directions taken from
it. For the world of

mdrec synthetic --domains 2 --items 150 --repeats --cold 0 --users 1500 --mean-length 100 --preference 2
    --shared-factors 2 --specific-factors 2 --out data/factors

mdrec train disentangled --data data/factors --run runs/codes
mdrec evaluate runs/codes --probes
"""

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.data.batching.batches import BatchingConfig

LONGEST = 200
"""Events of a history."""
RATE = 5e-3
DROPOUT = 0.25


def config() -> RunConfig:
    # The two factors that the domains have in common, and one more: what is wider lets specific factors through.
    codes = {
        "codes": True,
        "shared_rank": 3,
        "shared_learns": "own",
        "domain_whitening": True,
        "cross_domain": True,
        "erase": True,
    }
    model = {
        "dim": 32,
        "layers": 1,
        "attention_window": LONGEST,
        "embedding_dropout": DROPOUT,
        "residual_dropout": DROPOUT,
        "disentangle": codes,
    }
    return replace(
        load_preset("mdrec"),
        batching=BatchingConfig(rows=8, row_length=256, max_length=LONGEST),
        model=model,
        loss={"softmax_over": "target_domain"},
        objectives={"disentangle": {"specific_domain": 0.1, "sample": 256}},
        optim={"dense": {"learning_rate": RATE}, "table": {"learning_rate": RATE}},
        train={"epochs": 10.0, "evaluate_every": 10.0},
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 16}, train={"epochs": 0.5, "evaluate_every": 0.5})
