"""Grids, where they come from, and draws from them."""

import itertools
from collections import Counter

import pytest
from scipy.stats import chisquare

from cl_framework.errors import ConfigError
from cl_framework.presets import headline, preset, preset_names
from cl_framework.search import Search, Space, draw, full_key, space_of

LR = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def test_the_declared_grids():
    assert space_of("er", Search()).grids == {"strategy.er.replay_batch_size": (0, 10, 32, 64, 128), "train.lr": LR}
    assert list(space_of("er+lwf", Search()).grids) == ["strategy.er.replay_batch_size", "strategy.lwf.alpha",
                                                        "strategy.lwf.temperature", "train.lr"]


def test_a_preset_replaces_declared_grids():
    grids = space_of("psmt", Search()).grids
    assert grids["strategy.psmt.momentum"] == (0.99, 0.995, 0.999)
    assert grids["strategy.psmt.kappa"] == (0.1, 0.3, 1.0, 3.0)


def test_the_grids_of_the_paper():
    er, bic, icarl, lwf = (space_of(name, Search(spaces="gtep")).grids for name in ("er", "bic", "icarl", "lwf"))
    assert er["train.epochs"] == (30, 70, 120, 160, 200) and "strategy.er.replay_batch_size" not in er
    assert bic["strategy.bic.val_fraction"] == (0.05, 0.1, 0.15, 0.2, 0.3)
    assert icarl["train.weight_decay"] == (*er["train.weight_decay"], 0.01)
    assert lwf["train.batch_size"] == er["train.batch_size"] and "strategy.lwf.alpha" in lwf


def test_the_milestones_of_the_paper_are_those_of_the_grid():
    """GTEP decays at 2iE / (2n + 1), i = 1 to n, rounded down; the grid has the fractions of E."""
    grids = preset("search", "gtep/er")
    for epochs, fractions in itertools.product(grids["train.epochs"], grids["train.milestones"]):
        n = len(fractions)
        assert [int(epochs * fraction) for fraction in fractions] == [
            2 * i * epochs // (2 * n + 1) for i in range(1, n + 1)]
    by_number = {len(fractions): fractions for fractions in grids["train.milestones"]}
    assert [int(70 * fraction) for fraction in by_number[3]] == [20, 40, 60]


def test_the_users_grids_win_and_null_takes_a_key_out():
    search = Search(space={"train.lr": [0.1, 0.2], "strategy.replay_batch_size": None, "train.momentum": [0.0, 0.9]})
    assert space_of("er", search).grids == {"train.lr": (0.1, 0.2), "train.momentum": (0.0, 0.9)}


def test_a_strategy_that_has_nothing_to_search_goes_beside_others_with_fixed_keys():
    space = space_of("source", Search(spaces="ctta", space={"strategy.psmt.lr": [0.1]}), ["strategy.cotta.n_views"],
                     ["source", "cotta", "psmt"])
    assert not space.grids


def test_a_fixed_key_is_not_searched():
    assert list(space_of("er", Search(), ["train.lr"]).grids) == ["strategy.er.replay_batch_size"]


def test_a_grid_of_another_strategy_of_the_command_is_passed_over():
    search = Search(space={"strategy.lwf.alpha": [1.0, 2.0]})
    assert list(space_of("naive", search, (), ["naive", "lwf"]).grids) == ["train.lr"]


@pytest.mark.parametrize(("space", "fixed", "words"), [
    ({"train.lr": []}, [], "the grid of train.lr is empty"),
    ({"train.lr": [0.1, 0.2, 0.1]}, [], "the grid of train.lr has 0.1 twice"),
    ({"train.lr": 0.1}, [], "search.space.train.lr=0.1 is no grid"),
    ({"model.hidden": [[1], [2]]}, [], "search.space.model.hidden cannot be searched"),
    ({"train.lr": [0.1, 0.2]}, ["train.lr"], "train.lr is given a value and a grid"),
    ({}, ["train.lr", "strategy.er.replay_batch_size"], "there is nothing to search"),
])
def test_what_is_no_space(space, fixed, words):
    with pytest.raises(ConfigError, match=words):
        space_of("er", Search(space=space), fixed)


def test_an_unknown_folder_of_spaces():
    with pytest.raises(ConfigError, match="did you mean 'gtep'"):
        space_of("er", Search(spaces="gtpe"))


def test_the_hash_tells_spaces_apart():
    one, same, order, more = (Space({"a": (1, 2)}), Space({"a": (1, 2)}), Space({"a": (2, 1)}), Space({"a": (1, 2, 3)}))
    assert one.hash == same.hash and len({one.hash, order.hash, more.hash}) == 3


def test_combinations_come_in_order():
    space = Space({"a": (1, 2), "b": ("x", "y", "z")})
    assert space.size == 6 == len(list(space.combinations()))
    assert list(space.combinations())[1] == {"a": 1, "b": "y"}


def test_draws_belong_to_the_grids_and_are_uniform_and_independent():
    space = space_of("bic", Search(spaces="gtep"))
    draws = [draw(space, "bic", r) for r in range(10_000)]
    for key, grid in space.grids.items():
        counts = Counter(str(each[key]) for each in draws)
        assert set(counts) == {str(value) for value in grid}
        assert chisquare([counts[str(value)] for value in grid]).pvalue > 1e-3, key
    pairs = Counter((each["train.lr"], each["train.epochs"]) for each in draws)
    assert len(pairs) == 25 and chisquare(list(pairs.values())).pvalue > 1e-3


def test_a_draw_is_a_function_of_strategy_and_number():
    space, smaller = space_of("er", Search()), Space({"train.lr": LR})
    assert [draw(space, "er", r) for r in range(5)] == [draw(space, "er", r) for r in range(30)][:5]
    assert all(draw(smaller, "er", r)["train.lr"] == draw(space, "er", r)["train.lr"] for r in range(9))
    assert [draw(space, "er", r) for r in range(9)] != [draw(space, "lwf", r) for r in range(9)]


def test_draws_repeat_as_independent_ones_do():
    draws = [draw(Space({"train.lr": LR}), "er", r)["train.lr"] for r in range(30)]
    assert len(set(draws)) < len(draws)


def test_a_key_in_full():
    assert full_key("strategy.alpha", "er+lwf") == "strategy.alpha"


def test_every_preset_says_how_it_is_used():
    names = [("protocol", name) for name in preset_names("protocol")] + [("search", name) for name in
                                                                         preset_names("search")]
    assert {name for _, name in names} >= {"gtep", "gtep_lite", "fashion_to_mnist", "permuted", "rotated", "psmt"}
    for group, name in names:
        assert headline(group, name).startswith(("clf tune ", "clf protocol ")), (group, name)
