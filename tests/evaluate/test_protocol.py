"""A protocol is what its name says, survives JSON, and refuses what makes no sense."""

import json

import pytest

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.protocol import Protocol, describe, parse_protocol, protocol_from_json


def test_full_ranking_leaves_out_what_was_seen() -> None:
    protocol = parse_protocol("full")
    assert (protocol.candidates, protocol.seen, protocol.universe, protocol.split) == (
        "full",
        "history",
        "target_domain",
        "test",
    )
    assert not protocol.sampled


@pytest.mark.parametrize("source", ["synthetic", "tiktok"])
def test_full_ranking_with_what_was_seen_leaves_nothing_out(source: str) -> None:
    protocol = parse_protocol("full-with-seen", source=source)
    assert (protocol.candidates, protocol.seen, protocol.sampled) == ("full", "none", False)
    assert "nothing left out" in describe(protocol)


def test_the_name_says_how_many_are_drawn_and_how_often() -> None:
    once, often = parse_protocol("uniform999x1", seed=3), parse_protocol("uniform99x20")
    assert (once.negatives, once.draws, once.seed, once.sampled) == (999, 1, 3, True)
    assert (often.negatives, often.draws) == (99, 20)
    assert (once.replacement, once.exclude) == (False, "sequence")


def test_a_test_figure_is_the_mean_of_30_draws_and_validation_keeps_one() -> None:
    test, validation = parse_protocol("uniform99"), parse_protocol("uniform99", split="validation")
    assert (test.name, test.draws) == ("uniform99x30", 30)
    assert (validation.name, validation.draws) == ("uniform99", 1)
    assert test == parse_protocol("uniform99x30")
    assert "mean of 30 draws" in describe(test)


def test_a_fixed_protocol_names_its_file() -> None:
    assert parse_protocol("fixed:lists/mine.parquet").file == "lists/mine.parquet"


@pytest.mark.parametrize(
    ("source", "name", "rules"),
    [
        ("fkcb", "uniform999", {"replacement": True, "exclude": "target"}),
        ("abxi", "uniform999", {"replacement": False, "exclude": "sequence"}),
        ("xmarket", "uniform99", {"replacement": False, "exclude": "sequence"}),
        ("kuairand", "uniform100", {"universe": "all"}),
        ("tiktok", "full", {"seen": "train"}),
    ],
)
def test_a_source_brings_the_rules_of_its_published_tables(source: str, name: str, rules: dict[str, object]) -> None:
    protocol = parse_protocol(name, source=source)
    assert {field: getattr(protocol, field) for field in rules} == rules


@pytest.mark.parametrize("text", ["", "Full", "uniform", "uniform0", "uniform-3", "uniform99x0", "fixed:", "popular99"])
def test_an_unknown_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="unknown protocol"):
        parse_protocol(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "train"},
        {"candidates": "uniform"},
        {"candidates": "fixed"},
        {"seen": "all"},
        {"ties": "random"},
        {"draws": 0},
        {"seed": -1},
    ],
)
def test_a_value_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(fields)) if "candidates" not in fields else "negatives|file"):
        Protocol(**fields)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["full", "uniform99", "uniform999x20", "fixed:test"])
def test_a_protocol_survives_json(name: str) -> None:
    protocol = parse_protocol(name, source="fkcb", split="validation", seed=7)
    assert protocol_from_json(json.loads(json.dumps(protocol.to_json()))) == protocol


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(InputError, match="unknown field"):
        protocol_from_json({**Protocol().to_json(), "colour": "red"})


def test_a_sampled_protocol_cannot_be_mistaken_for_full_ranking() -> None:
    assert "SAMPLED" not in describe(parse_protocol("full"))
    assert all("SAMPLED" in describe(parse_protocol(name)) for name in ("uniform99", "fixed:test"))


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        (Protocol(), "test, full ranking among the items of its domain, seen items left out"),
        (
            Protocol(split="validation", universe="all", seen="train", query_time_visible=True),
            "validation, full ranking among all items, training items left out, the query's time visible",
        ),
        (
            Protocol(candidates="uniform", negatives=99, exclude="history", seed=3),
            "test, SAMPLED: 99 of the items of its domain, drawn without replacement, never seen items, seed 3",
        ),
        (
            Protocol(candidates="uniform", negatives=9, draws=2, replacement=True, exclude="target", universe="all"),
            "test, SAMPLED: 9 of all items, drawn with replacement, never the target, seed 0, mean of 2 draws",
        ),
        (Protocol(candidates="fixed", file="mine"), "test, SAMPLED: the candidates of file 'mine'"),
    ],
)
def test_a_protocol_is_described_whole(protocol: Protocol, said: str) -> None:
    assert describe(protocol) == said


def test_what_is_asked_of_a_protocol_is_what_its_name_stands_for() -> None:
    named = parse_protocol("uniform99x4", split="validation", seed=5)
    assert named == Protocol(
        "uniform99x4", "validation", "uniform", negatives=99, draws=4, seen="none", seed=5, exclude=named.exclude
    )
    assert parse_protocol("full-with-seen", split="validation", seed=5) == Protocol(
        "full-with-seen", "validation", seen="none", seed=5
    )
    assert parse_protocol("full", split="validation", seed=5) == Protocol("full", "validation", seed=5)
    fixed = parse_protocol("fixed:mine", split="validation", seed=5)
    assert fixed == Protocol("fixed:mine", "validation", "fixed", file="mine", seen="none", seed=5)
