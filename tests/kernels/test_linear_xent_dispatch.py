"""Which form of an operation runs."""

import pytest
from mdrec_kernels import dispatch


def cannot(value: int) -> int:
    raise NotImplementedError("no such device")


FORMS = {"reference": lambda value: value, "xla": lambda value: 2 * value, "pallas_tpu": cannot}


def test_by_default_the_platforms_best_form_runs() -> None:
    assert dispatch.run("op", FORMS, None, 3) == 6


def test_one_name_runs_or_raises() -> None:
    assert dispatch.run("op", FORMS, "reference", 3) == 3
    with pytest.raises(NotImplementedError, match="no such device"):
        dispatch.run("op", FORMS, "pallas_tpu", 3)


def test_of_several_the_first_that_can_runs_and_the_others_are_named() -> None:
    with pytest.warns(RuntimeWarning, match=r"pallas_tpu cannot run \(no such device\)"):
        assert dispatch.run("op", FORMS, ("pallas_tpu", "reference"), 3) == 3


def test_when_none_can_run_every_reason_is_told() -> None:
    with pytest.warns(RuntimeWarning), pytest.raises(ExceptionGroup, match="none of pallas_tpu, pallas_tpu can run"):
        dispatch.run("op", FORMS, ("pallas_tpu", "pallas_tpu"), 3)


@pytest.mark.parametrize("name", ["cuda", ("xla", "cuda"), ()])
def test_an_unknown_name_is_refused(name) -> None:
    with pytest.raises(ValueError, match="op has the implementations"):
        dispatch.run("op", FORMS, name, 3)


def test_an_error_of_another_kind_is_not_swallowed() -> None:
    def broken(value: int) -> int:
        raise TypeError("broken")

    with pytest.raises(TypeError, match="broken"):
        dispatch.run("op", {**FORMS, "xla": broken}, ("xla", "reference"), 3)
