from pathlib import Path

from mdrec_jax.train.runs.journal import Journal, read_lines
from mdrec_jax.train.runs.run_folder import RunFolder


def test_a_resumed_journal_is_cut_back_to_its_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Journal(folder, tensorboard=False) as journal:
        for step in (10, 20, 30):
            journal.metrics(step, "train", {"loss": step / 10})
            journal.timing(step, "train", {"seconds": 1.0})
    with folder.metrics.open("a") as file:
        file.write('{"step": 40, "kind": "tr')  # what a kill leaves
    with Journal(folder, tensorboard=False, resume_step=20) as journal:
        journal.metrics(30, "train", {"loss": 3.5})
    assert [(line["step"], line["loss"]) for line in read_lines(folder.metrics)] == [(10, 1.0), (20, 2.0), (30, 3.5)]
    assert [line["step"] for line in read_lines(folder.timing)] == [10, 20]
