"""Runs a command as the command line does, inside the test's process."""

from mdrec_jax.cli.main import main


def mdrec(*arguments: object) -> int:
    """The exit code of `mdrec ARGUMENTS...`."""
    return main([str(argument) for argument in arguments])
