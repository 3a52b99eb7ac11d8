"""The command line's grammar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_framework.errors import ConfigError
from cl_framework.grammar import parse, parse_values, scalar


def test_a_range_is_inclusive_and_products_keep_their_order():
    command = parse(["train", "seed=0..2", "strategy=er,lwf"])
    assert [tuple(choice.values()) for choice in command.product()] == [
        (0, "er"), (0, "lwf"), (1, "er"), (1, "lwf"), (2, "er"), (2, "lwf")]


@pytest.mark.parametrize(("text", "value"), [
    ("0", 0), ("-3", -3), ("1e-3", 1e-3), (".5", 0.5), ("5.", 5.0), ("true", True), ("false", False), ("null", None),
    ("off", "off"), ("no", "no"), ("2020-01-01", "2020-01-01"), ("er+lwf", "er+lwf"), ("'1'", "1"), ('"a,b"', "a,b"),
    ("[1, 2e-1]", [1, 0.2]), ("{a: 1}", {"a": 1}), ("my.module:Class", "my.module:Class"), ("1..x", "1..x"),
])
def test_scalars(text, value):
    found = scalar(text)
    assert found == value and type(found) is type(value)


def test_commas_inside_brackets_and_quotes_do_not_split():
    assert parse_values("[1,2],[3],'a,b'") == [[1, 2], [3], "a,b"]


@given(st.integers(-50, 50), st.integers(0, 30))
def test_every_range_has_each_integer_once(first, length):
    assert parse_values(f"{first}..{first + length}") == list(range(first, first + length + 1))


@pytest.mark.parametrize(("words", "message"), [
    (["train", "er"], "'er' is no KEY=VALUE; write e.g. strategy=er"),
    (["train", "seed=1", "seed=2"], "'seed' is given twice; several values of one key are separated by commas"),
    (["train", "seed=5..1"], "seed: the range 5..1 is empty; write 1..5"),
    (["train", "--seed"], "unknown option '--seed'; the options are --help, --version, --debug"),
    (["train", "seed="], "seed: a value is empty; write null for nothing"),
    (["train", "a=[1,2"], "] is missing at the end"),
    (["train", "1a=2"], "'1a' is no key"),
])
def test_what_cannot_be_read_is_said(words, message):
    with pytest.raises(ConfigError) as caught:
        parse(words)
    assert message in str(caught.value)


def test_all_faults_come_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(["train", "er", "--fast", "seed=2..1"])
    assert len(caught.value.faults) == 3
