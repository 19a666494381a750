"""Inside `jax.shard_map`, tokens spread over devices, the results are those of one device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from mdrec_kernels.linear_xent import Blocks, linear_xent, linear_xent_sum, sampled_xent_sum, target_rank, top_k

from tests.kernels.xent_cases import distance, make_case

SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()
CHECKED = pytest.mark.parametrize("check_vma", [True, False])


def over_devices(f, check_vma: bool, n_split: int, out_specs, devices: int = 8):
    """f on 8 devices: its first `n_split` arguments in parts, the others whole."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))

    def run(*arguments):
        in_specs = tuple(SPLIT if i < n_split else WHOLE for i in range(len(arguments)))
        mapped = jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma)
        return jax.jit(mapped)(*arguments)

    return run


def summed(value: jax.Array, check_vma: bool) -> jax.Array:
    """The sum of the devices' gradients: JAX has taken it already where it keeps track of what varies."""
    return value if check_vma else jax.lax.psum(value, "data")


@pytest.mark.parametrize(
    ("form", "blocks", "check_vma"),
    [
        ("sum", Blocks(4, 1000), True),
        ("sum", Blocks(4, 1000), False),
        ("sum", Blocks(4, 30), True),
        ("per token", Blocks(4, 30), True),
        ("per token", Blocks(4, 30), False),
    ],
)
def test_losses_and_gradients(form: str, blocks: Blocks, check_vma: bool) -> None:
    case = make_case(N=64)

    def loss(x, w, target, weight, group, allowed, blocks):
        groups = {"allowed": allowed, "group": group, "blocks": blocks}
        if form == "sum":
            return linear_xent_sum(x, w, target, weight, **groups)
        return jnp.sum(weight * linear_xent(x, w, target, **groups))

    gradient = partial(jax.value_and_grad(loss, argnums=(0, 1)), blocks=blocks)

    def local(x, target, weight, group, w, allowed):
        value, (dx, dw) = gradient(x, w, target, weight, group, allowed)
        return jax.lax.psum(value, "data"), dx, summed(dw, check_vma)

    spread = over_devices(local, check_vma, 4, (WHOLE, SPLIT, WHOLE))
    found = spread(case.x, case.target, case.weight, case.group, case.w, case.allowed)
    value, (dx, dw) = gradient(case.x, case.w, case.target, case.weight, case.group, case.allowed)
    assert distance(found, (value, dx, dw)) < 2e-6


@CHECKED
def test_sampled_losses(check_vma: bool) -> None:
    case = make_case(N=64)
    gradient = jax.value_and_grad(partial(sampled_xent_sum, tokens=4), argnums=(0, 1, 2))

    def local(x, positive, weight, negatives):
        value, (dx, dpositive, dnegatives) = gradient(x, positive, negatives, weight)
        return jax.lax.psum(value, "data"), dx, dpositive, summed(dnegatives, check_vma)

    positive, negatives = case.w[case.target], case.w[:40]
    found = over_devices(local, check_vma, 3, (WHOLE, SPLIT, SPLIT, WHOLE))(case.x, positive, case.weight, negatives)
    value, gradients = gradient(case.x, positive, negatives, case.weight)
    assert distance(found, (value, *gradients)) < 2e-6


@CHECKED
def test_top_k_and_ranks(check_vma: bool) -> None:
    case = make_case(N=64)

    def local(x, target, group, exclude, w, allowed):
        options = {"allowed": allowed, "group": group, "exclude": exclude, "blocks": Blocks(8, 40)}
        return top_k(x, w, 5, **options)[1], target_rank(x, w, target, **options)[0]

    arguments = case.x, case.target, case.group, case.exclude, case.w, case.allowed
    for found, expected in zip(over_devices(local, check_vma, 4, SPLIT)(*arguments), local(*arguments), strict=True):
        np.testing.assert_array_equal(found, expected)
