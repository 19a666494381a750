"""Two organisations: other users, other items, another number of domains."""

from pathlib import Path

import pytest

from mdrec_jax.data.synthetic import SyntheticConfig, write_world


@pytest.fixture(scope="session")
def silos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = tmp_path_factory.mktemp("silos") / "one", tmp_path_factory.mktemp("silos") / "other"
    write_world(SyntheticConfig(users=150, items=260, domains=2, seed=3), folders[0])
    write_world(SyntheticConfig(users=120, items=330, domains=3, seed=4), folders[1])
    return folders
