"""What `import mdrec_jax` gives."""

import subprocess
import sys

import jax
import pytest

import mdrec_jax


def test_every_public_name_is_there() -> None:
    for name in mdrec_jax.__all__:
        assert getattr(mdrec_jax, name).__module__.startswith("mdrec_jax.")


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        mdrec_jax.no_such_name  # noqa: B018


def test_the_import_alone_loads_no_jax() -> None:
    code = "import sys, mdrec_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_is_made_from_the_public_names() -> None:
    spec = mdrec_jax.DatasetSpec(num_items=40, num_domains=2, num_events=1, has_time=False)
    model = mdrec_jax.make_model(mdrec_jax.RecommenderConfig(dim=8, layers=1), spec)
    assert model.init(jax.random.key(0)).tables["item"].shape[1] == 8
