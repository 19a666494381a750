"""Runs a command as the command line does, inside the test's process."""

from mdrec_jax.cli.main import main

TRAINING = {"train", "sweep", "ablate"}


def mdrec(*arguments: object) -> int:
    """The exit code of `mdrec ARGUMENTS...`. What trains does so on one device unless the arguments say another number:
    programs for eight take twice as long to compile, and a checkpoint of theirs is cut in hundreds of slices."""
    given = [str(argument) for argument in arguments]
    one = ["--hardware.data", "1"] if given[0] in TRAINING and "--hardware.data" not in given else []
    return main(given + one)
