"""Cases of an operation are measured beside the naive one."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from mdrec_kernels import bench
from mdrec_kernels.bench import Case
from mdrec_kernels.roofline import Work


def test_every_case_gets_a_row_with_its_share_and_memory() -> None:
    def make() -> tuple:
        return jnp.ones((64, 64)), jnp.ones((64, 64))

    cases = [
        Case("naive", lambda x, y: x @ y @ x, make, Work(4.0 * 64**3, 0), 64),
        Case("other", lambda x, y: y @ x @ y, make, Work(4.0 * 64**3, 0), 64, naive="naive", notes={"a": "b"}),
    ]
    naive, other = bench.measure("product", "small", cases, rounds=3)
    assert (naive.name, other.name) == ("naive", "other")
    assert naive.speed_up is None
    np.testing.assert_allclose(other.speed_up, naive.seconds / other.seconds)
    assert naive.share is not None
    assert naive.share > 0
    assert naive.temp_mib >= 64 * 64 * 4 / 2**20
    assert other.notes == {"a": "b"}
    assert naive.median_seconds >= naive.seconds > 0


def test_a_state_is_donated_and_carried_from_round_to_round() -> None:
    seen = []

    def make() -> tuple:
        seen.append(jnp.zeros(1000))
        return seen[0], jnp.ones(1000)

    case = Case("sum", lambda state, x: state + x, make, Work(0, 12e3), 1000, carries=True, apart=True)
    (row,) = bench.measure("sum", "small", [case], rounds=2)
    assert seen[0].is_deleted()
    assert row.temp_mib == 0


def test_every_operation_has_cases() -> None:
    folders = {path.parent.name for path in Path(bench.__file__).parent.glob("*/api.py")}
    assert len(folders) == 6
    assert set(bench.operations()) == folders
