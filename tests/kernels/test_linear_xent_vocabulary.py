"""Items spread over the devices of a mesh axis give the loss and the gradient of items on one device."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec
from mdrec_kernels import tpu
from mdrec_kernels.linear_xent import Blocks, linear_xent, linear_xent_sum

from tests.kernels.xent_cases import distance, make_case

BY_TOKEN, BY_ITEM, WHOLE = PartitionSpec("data"), PartitionSpec("items"), PartitionSpec()
ONE_DEVICE, SEVERAL = Blocks(8, 1000), Blocks(8, 16)


def losses(x, w, target, weight, group, allowed, **options):
    if options.pop("per_token"):
        return jnp.sum(weight * linear_xent(x, w, target, allowed=allowed, group=group, **options))
    return linear_xent_sum(x, w, target, weight, allowed=allowed, group=group, **options)


@pytest.mark.parametrize(
    ("per_token", "form", "blocks"),
    [
        (False, "xla", ONE_DEVICE),
        (False, "xla", SEVERAL),
        (True, "xla", SEVERAL),
        pytest.param(False, "pallas_tpu", SEVERAL, marks=pytest.mark.slow),
        pytest.param(True, "pallas_tpu", SEVERAL, marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradient(per_token: bool, form: str, blocks: Blocks) -> None:
    case = make_case(N=32, V=100)
    mesh = jax.make_mesh((2, 4), ("data", "items"), axis_types=(AxisType.Auto,) * 2)
    gradient = partial(jax.value_and_grad(losses, argnums=(0, 1)), per_token=per_token, z_loss=1e-2)

    def local(x, target, weight, group, w, allowed):
        options = {"axis": "items", "blocks": blocks, "implementation": form}
        value, (dx, dw) = gradient(x, w, target, weight, group, allowed, **options)
        return jax.lax.psum(value, "data"), dx, jax.lax.psum(dw, "data")

    spread = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(BY_TOKEN,) * 4 + (BY_ITEM, PartitionSpec(None, "items")),
        out_specs=(WHOLE, BY_TOKEN, BY_ITEM),
        check_vma=False,
    )
    with tpu.interpreted():
        found = jax.jit(spread)(case.x, case.target, case.weight, case.group, case.w, case.allowed)
    value, (dx, dw) = gradient(case.x, case.w, case.target, case.weight, case.group, case.allowed)
    assert distance(found, (value, dx, dw)) < 2e-6


def test_what_a_mesh_must_be_like_is_said() -> None:
    mesh = jax.make_mesh((4,), ("items",), axis_types=(AxisType.Auto,))
    x, w, target = jnp.ones((8, 4)), jnp.ones((16, 4)), jnp.zeros(8, jnp.int32)

    def local(w, implementation=None):
        return linear_xent(x, w, target, axis="items", implementation=implementation)

    over = partial(jax.shard_map, mesh=mesh, in_specs=BY_ITEM, out_specs=WHOLE)
    with pytest.raises(ValueError, match="check_vma=False"):
        jax.jit(over(local, check_vma=True))(w)
    with pytest.raises(ValueError, match="implementations"):
        jax.jit(over(partial(local, implementation="reference"), check_vma=False))(w)
