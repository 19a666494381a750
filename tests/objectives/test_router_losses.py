"""What routers are held to, token by token in numpy."""

import numpy as np
import pytest

from mdrec_jax.models.encoded import Trace
from mdrec_jax.models.layers.router import Routed
from mdrec_jax.objectives.routers import BALANCE, Z, router_loss, router_losses

SEGMENT = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], np.int32)
MODULES = 3


def routed(layers: tuple[int, ...], seed: int = 0, chosen: int = 2) -> Routed:
    logits = np.random.default_rng(seed).normal(size=(*layers, *SEGMENT.shape, MODULES)).astype(np.float32) * 2
    best = np.argsort(-logits, axis=-1)[..., :chosen].astype(np.int32)
    return Routed(logits, best, np.full(best.shape, 1 / chosen, np.float32))  # pyright: ignore[reportArgumentType]


def by_hand(logits: np.ndarray, chosen: np.ndarray) -> float:
    """Of one layer and pass."""
    total = 0.0
    for row, segment in enumerate(SEGMENT):
        real = [place for place, number in enumerate(segment) if number]
        if not real:
            continue
        odds = np.exp(logits[row, real].astype(float))
        sent = np.zeros(MODULES)
        for place in real:
            for one in chosen[row, place]:
                sent[one] += 1 / chosen.shape[-1] / len(real)
        likely = (odds / odds.sum(-1, keepdims=True)).mean(0)
        total += BALANCE * MODULES * (sent * likely).sum() * len(real)
        total += Z * np.square(np.log(odds.sum(-1))).sum()
    return total


def test_the_weights_are_those_of_the_papers() -> None:
    assert (BALANCE, Z) == (0.01, 1e-3)


@pytest.mark.parametrize("chosen", [1, 2])
def test_a_routers_loss_is_its_formula_in_every_layer_and_pass(chosen: int) -> None:
    some = routed((2, 3), chosen=chosen)
    found = np.asarray(router_loss(some, SEGMENT))  # pyright: ignore[reportArgumentType]
    logits, best = np.asarray(some.logits), np.asarray(some.chosen)
    expected = [[by_hand(logits[at], best[at]) for at in ((layer, 0), (layer, 1), (layer, 2))] for layer in (0, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32


def test_padding_goes_nowhere() -> None:
    some = routed(())
    moved = Routed(np.where(SEGMENT[..., None] > 0, some.logits, 7.0), some.chosen * 0 + 1, some.weight)  # pyright: ignore[reportArgumentType]
    same = Routed(some.logits, some.chosen * 0 + 1, some.weight)
    np.testing.assert_allclose(router_loss(moved, SEGMENT), router_loss(same, SEGMENT), rtol=1e-6)  # pyright: ignore[reportArgumentType]


def test_losses_are_added_over_layers_and_views_and_averaged_over_passes() -> None:
    first, second, third = (routed((2, 3), seed) for seed in range(3))
    traces = {
        "mixed": Trace(routed={"experts": first, "mixers": second}, segment=SEGMENT),  # pyright: ignore[reportArgumentType]
        "in_domain": Trace(routed={"experts": third}, segment=SEGMENT),  # pyright: ignore[reportArgumentType]
        "plain": Trace(),
    }
    found = {name: float(value) for name, value in router_losses(traces).items()}
    each = [float(np.asarray(router_loss(one, SEGMENT)).mean(1).sum()) for one in (first, second, third)]  # pyright: ignore[reportArgumentType]
    assert found == pytest.approx({"experts": each[0] + each[2], "mixers": each[1]})
    assert router_losses({}) == {}
