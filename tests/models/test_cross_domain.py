"""States that know nothing of the target's domain: who is dealt where, what each may read, and what it moves."""

import jax
import numpy as np

from mdrec_jax.models.layers.dropout import row_seeds
from mdrec_jax.models.views import CrossDomain, dealt
from tests.models.make import SPEC, pack, random_sequences

LENGTHS = [9, 12, 7, 14, 8, 6]
SEQUENCES = random_sequences(0, LENGTHS)
BATCH = pack([SEQUENCES[:2], SEQUENCES[2:4], SEQUENCES[4:]])
SEEDS = row_seeds(jax.random.key(3), BATCH.item.shape[0], 0)


def test_no_half_is_empty_and_rows_are_dealt_apart() -> None:
    for domains in (2, 3, 5):
        side = np.asarray(dealt(row_seeds(jax.random.key(0), 200, 0), domains))
        assert ((side == 0).any(1) & (side == 1).any(1)).all()
        np.testing.assert_allclose(side.mean(0), 0.5, atol=0.15)
        assert len(np.unique(side, axis=0)) == 2**domains - 2


def test_a_target_is_put_to_the_latest_event_of_the_other_half() -> None:
    there, side = CrossDomain.of(BATCH, SPEC.num_domains, SEEDS), np.asarray(dealt(SEEDS, SPEC.num_domains))
    column, domain, segment = (np.asarray(x) for x in (there.column, BATCH.domain, BATCH.segment))
    for row, t in zip(*np.nonzero(np.asarray(BATCH.target) > 0), strict=True):
        other = 1 - side[row, np.asarray(BATCH.target_domain)[row, t]]
        before = [c for c in range(t + 1) if segment[row, c] == segment[row, t] and side[row, domain[row, c]] == other]
        assert column[row, t] == (before[-1] if before else -1)


def test_each_half_is_a_sequence_of_its_own() -> None:
    """Its events stand together and in order, counted from 0, and keep their own domains."""
    there, side = CrossDomain.of(BATCH, SPEC.num_domains, SEEDS), np.asarray(dealt(SEEDS, SPEC.num_domains))
    view = there.view.batch
    for row in range(view.item.shape[0]):
        for number in np.unique(np.asarray(view.segment)[row]):
            if number == 0:
                continue
            here = np.asarray(view.segment)[row] == number
            source = np.asarray(there.view.order)[row, here]
            np.testing.assert_array_equal(np.asarray(view.position)[row, here], np.arange(here.sum()))
            np.testing.assert_array_equal(np.asarray(view.domain)[row, here], np.asarray(BATCH.domain)[row, source])
            assert (np.diff(source) > 0).all()
            assert len(np.unique(side[row, np.asarray(view.domain)[row, here]])) == 1
            assert len(np.unique(np.asarray(BATCH.segment)[row, source])) == 1
