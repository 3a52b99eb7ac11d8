"""Merging in float64 against loops, and what the strategies that merge make of a stream."""

import copy
import gc
import math
import re

import pytest
import torch
from torch import nn

from cl_framework.check_runs import learn
from cl_framework.errors import ConfigError, DataError
from cl_framework.experience import Experience
from cl_framework.mergeable import sort_tensors
from cl_framework.merging import Layer, Merger
from cl_framework.merging_rules import disjoint, dropped, largest, mask_generator, running_mean, threshold_of, trimmed
from cl_framework.models import Head, Model
from cl_framework.registry import load, plugins
from cl_framework.state_dicts import merge_state_dicts
from cl_framework.strategies.dare import DARE
from cl_framework.strategies.gcwm import GCWM
from cl_framework.strategies.magmax import MagMax
from cl_framework.strategies.opcm import OPCM
from cl_framework.strategies.task_arithmetic import TaskArithmetic
from cl_framework.strategies.ties import TIES
from cl_framework.strategies.weight_average import WeightAverage
from cl_framework.toys import Toy, toy_recipe
from cl_framework.types import NOT_YET, Batch, Output, Setting, StreamInfo

MERGING = [name for name in plugins("strategy") if issubclass(load("strategy", name), WeightAverage.__mro__[1])]
SHAPES = {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (2, 4)}
LAYERS = [Layer(name=name) for name in SHAPES]


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model(seed):
    return {name: draw(*shape, seed=100 * seed + i) for i, (name, shape) in enumerate(SHAPES.items())}


def models(n=4):
    base = model(0)
    return base, [{name: base[name] + 0.1 * value for name, value in model(i).items()} for i in range(1, n + 1)]


def deltas(n=4):
    base, experts = models(n)
    return [{name: expert[name] - base[name] for name in SHAPES} for expert in experts]


def flat(weights):
    return torch.cat([weights[name].flatten() for name in SHAPES])


def check(rule, expected):
    """`expected` of the flat updates [n, d], entry by entry, is what the rule adds to the base."""
    base, experts = models()
    before = copy.deepcopy((base, experts))
    merged = merge_state_dicts(rule, base, experts)
    torch.testing.assert_close(flat(merged) - flat(base), expected(torch.stack([flat(each) for each in deltas()])))
    for old, new in zip([before[0], *before[1]], [base, *experts], strict=True):
        assert all(torch.equal(old[name], new[name]) for name in SHAPES)


# rules against loops


def test_weight_average_is_the_mean():
    check(WeightAverage(), lambda updates: updates.mean(0))


def test_task_arithmetic_is_a_share_of_the_sum():
    check(TaskArithmetic(coefficient=0.3), lambda updates: 0.3 * updates.sum(0))


def test_magmax_takes_the_largest_magnitude():
    def expected(updates):
        return torch.tensor([0.5 * max(column, key=abs) for column in updates.T.tolist()], dtype=torch.float64)

    check(MagMax(coefficient=0.5), expected)


def ties_of(updates, density, reduction="mean"):
    """Algorithm 1 entry by entry."""
    d = updates.shape[1]
    rows = []
    for row in updates.tolist():
        kept = sorted(range(d), key=lambda j: -abs(row[j]))[: int(density * d)]
        rows.append([value if j in kept else 0.0 for j, value in enumerate(row)])
    merged = []
    for column in zip(*rows, strict=True):
        elected = math.copysign(1, sum(column)) if sum(column) else 0.0
        agreeing = [value for value in column if value * elected > 0]
        divisor = len(agreeing) if reduction == "mean" else 1
        merged.append(sum(agreeing) / divisor if agreeing else 0.0)
    return torch.tensor(merged, dtype=torch.float64)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ties_is_algorithm_1(density, reduction):
    check(TIES(density=density, coefficient=0.7, reduction=reduction),
          lambda updates: 0.7 * ties_of(updates, density, reduction))


def test_ties_may_count_its_share_in_each_layer():
    base, experts = models()
    merged = merge_state_dicts(TIES(density=0.5, scope="layer"), base, experts)
    for name in SHAPES:
        expected = ties_of(torch.stack([each[name].flatten() for each in deltas()]), 0.5)
        torch.testing.assert_close((merged[name] - base[name]).flatten(), expected)


def test_the_continual_form_of_ties_adds_to_the_merged_update():
    def expected(updates):
        merged = 0.3 * updates[0]
        for update in updates[1:]:
            merged = merged + 0.3 * ties_of(torch.stack([merged, update]), 0.5)
        return merged

    check(TIES(density=0.5, coefficient=0.3, memory="current_anchor"), expected)


def test_votes_that_cancel_elect_no_sign():
    assert disjoint([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_the_threshold_keeps_the_exact_share(density):
    update = {str(i): draw(37, i + 1, seed=i).float() for i in range(5)}
    n = sum(value.numel() for value in update.values())
    threshold = threshold_of(update, density)
    assert sum(int(trimmed(value, threshold).count_nonzero()) for value in update.values()) == int(density * n)


def test_dare_keeps_its_share_and_its_expectation():
    update = torch.ones(200_000)
    kept = dropped(update, 0.9, mask_generator(0, 0, "a"))
    assert set(kept.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.9))}
    assert abs(float((kept > 0).float().mean()) - 0.1) < 5 * math.sqrt(0.09 / len(update))
    assert abs(float(kept.mean()) - 1) < 5 * math.sqrt(9 / len(update))
    assert float(dropped(update, 0.9, mask_generator(0, 0, "a"), is_rescaled=False).max()) == 1


def test_dare_draws_by_seed_expert_and_name_alone():
    base, experts = models()
    same, again, other = (merge_state_dicts(DARE(drop_rate=0.5), base, experts, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(flat(same), flat(again)) and not torch.equal(flat(same), flat(other))
    whole = merge_state_dicts(DARE(drop_rate=0.0, coefficient=0.3), base, experts)
    torch.testing.assert_close(flat(whole), flat(merge_state_dicts(TaskArithmetic(coefficient=0.3), base, experts)))
    masks = [dropped(torch.ones(50), 0.5, mask_generator(0, i, name)) for i, name in ((0, "a"), (1, "a"), (0, "b"))]
    assert not any(torch.equal(masks[0], mask) for mask in masks[1:])


def test_maxima_and_means_fold_one_by_one():
    updates = [draw(50, seed=i) for i in range(5)]
    folded = updates[0]
    for update in updates[1:]:
        folded = largest([folded, update])
    assert torch.equal(folded, largest(updates))
    mean = running_mean(updates[:1], 0)
    for n, update in enumerate(updates[1:], 1):
        mean = running_mean([mean, update], n)
    torch.testing.assert_close(mean, torch.stack(updates).mean(0))


# the frame


@pytest.mark.parametrize("name", MERGING)
def test_one_at_a_time_and_stopped_between_is_all_at_once(name):
    updates = [{key: value.float() for key, value in update.items()} for update in deltas()]
    layers = [Layer(name=key, kind="linear" if key.endswith("weight") else "other") for key in SHAPES]
    rule = load("strategy", name)()
    at_once, stepwise = Merger(rule, layers, seed=3), Merger(rule, layers, seed=3)
    at_once.absorb(updates)
    for update in updates:
        state = copy.deepcopy(stepwise.state_dict())
        stepwise = Merger(rule, layers, seed=3)
        stepwise.load_state_dict(state, torch.device("cpu"))
        stepwise.absorb([update])
    assert all(torch.equal(at_once.merged[key], stepwise.merged[key]) for key in SHAPES)
    assert stepwise.totals.n_experts == 4 and at_once.factor == pytest.approx(stepwise.factor, rel=1e-12)


@pytest.mark.parametrize("rule", [WeightAverage(), TaskArithmetic(), DARE(), MagMax(), OPCM(),
                                  TIES(memory="current_anchor")])
def test_what_is_kept_does_not_grow_with_experts(rule):
    merger, sizes = Merger(rule, LAYERS), []
    for update in deltas(6):
        merger.absorb([update])
        sizes.append(sum(value.numel() for value in merger.tensors()))
    assert sizes == [sum(math.prod(shape) for shape in SHAPES.values())] * 6


class Counting(dict):
    """Tensors of 1 MiB that exist while somebody holds them."""

    def __getitem__(self, name):
        return super().__getitem__(name) * 1.0


@pytest.fixture
def only_new_objects():
    """Objects that exist already are not looked through, which takes long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive():
    return sum(each.numel() for each in gc.get_objects() if type(each) is torch.Tensor and each.numel() >= 2**18)


def peak(rule, n, monkeypatch):
    """Entries of matrices that exist while one of n experts is merged, beside the experts."""
    names, seen = [f"{i}.weight" for i in range(3)], []
    experts = [Counting({name: torch.randn(512, 512) for name in names}) for _ in range(n)]
    merger = Merger(rule, [Layer(name=name) for name in names])
    method, before = type(rule).merge, alive()

    def watched(self, layer, updates, totals):
        merged = method(self, layer, updates, totals)
        seen.append(alive() - before)
        return merged

    monkeypatch.setattr(type(rule), "merge", watched)
    for expert in experts:
        merger.absorb([expert])
    monkeypatch.setattr(type(rule), "merge", method)
    return max(seen)


@pytest.mark.parametrize("rule", [OPCM(), TIES(memory="current_anchor"), WeightAverage(),
                                  GCWM(memory="current_anchor", n_steps=2)])
def test_peak_memory_does_not_depend_on_the_number_of_experts(rule, monkeypatch, only_new_objects):
    few, many = (peak(rule, n, monkeypatch) for n in (2, 5))
    assert few == many > 0
    assert peak(TIES(density=1.0), 5, monkeypatch) > many


def test_a_single_expert_of_a_rule_that_keeps_it_is_itself_to_the_bit():
    base, experts = models(1)
    for rule in (WeightAverage(), OPCM()):
        merged = merge_state_dicts(rule, base, experts)
        assert torch.equal(flat(merged), flat(experts[0]))


def test_an_update_that_is_not_finite_leaves_the_merge_as_it_was():
    merger, (first, second, *_) = Merger(WeightAverage(), LAYERS), deltas()
    merger.absorb([first])
    before = copy.deepcopy(merger.state_dict())
    second["a.bias"][1] = math.nan
    with pytest.raises(DataError, match=r"a\.bias holds values that are not finite"):
        merger.absorb([second])
    assert all(torch.equal(before["merged"][name], merger.merged[name]) for name in SHAPES)
    assert merger.totals.n_experts == 1


# state dicts: what is merged, and what is refused


def test_types_are_the_bases_and_updates_are_taken_in_float32():
    base, experts = models()
    half = [{name: value.to(torch.bfloat16) for name, value in each.items()} for each in (base, *experts)]
    merged = merge_state_dicts(WeightAverage(), half[0], half[1:])
    for name in SHAPES:
        expected = half[0][name].double() + torch.stack([each[name].double() - half[0][name].double()
                                                         for each in half[1:]]).mean(0)
        assert merged[name].dtype == torch.bfloat16
        torch.testing.assert_close(merged[name], expected.to(torch.bfloat16), rtol=2**-7, atol=0)


def test_statistics_are_averaged_and_counters_are_the_bases():
    base, experts = models(3)
    for i, each in enumerate([base, *experts]):
        each |= {"n.running_mean": torch.full((4,), 3.0 * i), "n.num_batches_tracked": torch.tensor(i)}
    merged = merge_state_dicts(OPCM(), base, experts)
    assert merged["n.running_mean"].tolist() == [6.0] * 4 and merged["n.num_batches_tracked"] == 0
    assert "n.running_mean" not in [layer.name for layer in sort_tensors(base, {"x": experts[0]}).layers]


def test_names_and_shapes_say_what_a_tensor_is():
    shapes = {"model.token_emb.weight": (5, 4), "model.class_token": (1, 4), "model.stem.weight": (4, 3, 2, 2),
              "model.fc.weight": (4, 4), "model.fc.bias": (4,), "norm.weight": (4,)}
    base = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    found = sort_tensors(base, {"x": {name: value + 1 for name, value in base.items()}}).layers
    assert [(layer.kind, layer.is_leaf) for layer in found] == [
        ("other", True), ("other", False), ("conv", True), ("linear", True), ("other", True), ("other", True)]


@pytest.mark.parametrize(("name", "kind"), [
    ("ensemble.0.weight", "linear"), ("assembly.weight", "linear"), ("remember.weight", "linear"),
    ("embeddings.word.weight", "other"), ("model.embed_tokens.weight", "other"), ("tok_emb.weight", "other"),
    ("h.0.wte.weight", "other"), ("pos_embed.weight", "other")])
def test_embeddings_are_known_by_their_names(name, kind):
    base = {name: torch.zeros(4, 4)}
    sorting = sort_tensors(base, {"B": {name: torch.ones(4, 4)}})
    assert [layer.kind for layer in sorting.layers] == [kind]


def test_tied_embeddings_stay_tied_and_count_once():
    base, experts = models(2)
    untied = merge_state_dicts(OPCM(), base, experts)
    embedding = [draw(6, 4, seed=40 + i) for i in range(3)]
    tied = [{**each, "emb.weight": value, "lm_head.weight": value.clone()}
            for each, value in zip([base, *experts], embedding, strict=True)]
    once = [{name: value for name, value in each.items() if name != "lm_head.weight"} for each in tied]
    merged, expected = (merge_state_dicts(OPCM(), each[0], each[1:]) for each in (tied, once))
    assert torch.equal(merged["emb.weight"], merged["lm_head.weight"])
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    assert set(untied) == set(SHAPES)


def test_what_is_kept_may_differ_between_experts():
    base, experts = models(2)
    heads = [{**each, "head.weight": draw(2 + i, 4)} for i, each in enumerate([base, *experts])]
    del heads[2]["head.weight"]
    merged = merge_state_dicts(WeightAverage(), heads[0], heads[1:], keep="^head")
    assert torch.equal(merged["head.weight"], heads[0]["head.weight"])


def broken(change):
    base, experts = models(2)
    change(base, experts[1])
    with pytest.raises(ConfigError) as error:
        merge_state_dicts(WeightAverage(), base, experts)
    return error.value.faults


@pytest.mark.parametrize(("change", "said"), [
    (lambda base, expert: expert.pop("a.bias"), "expert 2 has no a.bias;"),
    (lambda base, expert: expert.update(extra=torch.ones(1)), "expert 2 has tensors that the base lacks: extra;"),
    (lambda base, expert: expert.update({"a.bias": torch.ones(5)}), r"another architecture: a.bias \(5,\) for \(4,\);"),
    (lambda base, expert: expert.update({"a.bias": torch.ones(4)}), "other types than the base: a.bias float32 for f"),
    (lambda base, expert: expert["a.weight"].fill_(math.inf), "expert 2 has values that are not finite in a.weight;"),
    (lambda base, expert: base["a.weight"].fill_(math.nan), "the base has values that are not finite in a.weight;"),
    (lambda base, expert: expert.update(base), "expert 2 is the base itself: it has learned nothing; leave it out"),
    (lambda base, expert: base.update({"a.bias": torch.ones(4).to(torch.float8_e4m3fn)}), "base has quantised weights"),
    (lambda base, expert: expert.update({"a.weight": base["a.weight"].to("meta")}),
     "expert 2 has no plain numbers in a.weight; load the weights onto a device"),
    (lambda base, expert: base.update({"a.weight": base["a.weight"].to("meta")}), "the base has no plain numbers in a"),
    (lambda base, expert: expert.update({"a.weight": base["a.weight"].to_sparse()}), "2 has no plain numbers in a.wei"),
])
def test_bad_input_is_refused_with_its_reason(change, said):
    faults = broken(change)
    assert any(re.search(said, fault) for fault in faults), faults


@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a second device")
@pytest.mark.parametrize("rule", [OPCM(), TIES(), GCWM(n_steps=2)])
def test_experts_on_another_device_merge_on_that_of_the_base(rule):
    base, experts = models()
    elsewhere = [{name: value.cuda() for name, value in each.items()} for each in experts]
    merged, expected = merge_state_dicts(rule, base, elsewhere), merge_state_dicts(rule, base, experts)
    assert all(merged[name].device.type == "cpu" for name in base)
    assert all(torch.equal(merged[name], expected[name]) for name in base)


def test_quantised_codes_are_refused_and_shared_masks_are_not():
    base, experts = models(2)
    for i, each in enumerate([base, *experts]):
        each |= {"mask": torch.ones(3, dtype=torch.uint8), "q": torch.full((2, 2), i, dtype=torch.int8)}
    with pytest.raises(ConfigError) as error:
        merge_state_dicts(WeightAverage(), base, experts)
    assert [fault.startswith(f"expert {i} has integers other than the base's in q;")
            for i, fault in enumerate(error.value.faults, 1)] == [True, True]
    assert torch.equal(merge_state_dicts(WeightAverage(), base, experts, keep="^q$")["mask"], base["mask"])


def test_all_faults_are_told_at_once():
    def change(base, expert):
        expert.pop("a.bias")
        expert["b.weight"] = torch.ones(7, 7, dtype=torch.float64)
        expert["a.weight"].fill_(math.nan)

    assert len(broken(change)) == 3
    with pytest.raises(ConfigError, match="no experts"):
        merge_state_dicts(WeightAverage(), models()[0], [])
    with pytest.raises(ConfigError, match="keep must be a regular expression"):
        merge_state_dicts(WeightAverage(), *models(), keep="(")
    with pytest.raises(ConfigError, match="is keep too wide"):
        merge_state_dicts(WeightAverage(), *models(), keep=".")


# in a stream


def network(norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(3, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Tanh(), nn.Linear(4, 4))
        return Model(nn.Identity(), body, Head(4, 6)).double()


def wander(net, seed):
    """Stands for training: every parameter and statistic moves."""
    with torch.no_grad():
        for i, value in enumerate(value for value in net.state_dict().values() if isinstance(value, torch.Tensor)):
            if value.is_floating_point():
                value.add_(0.1 * draw(*value.shape, seed=100 * seed + i).abs())


def live(strategy, net, classes=((0, 1), (2, 3), (4, 5)), setting=Setting.CLASS):
    """Experts that wander; returns the model before each merge, and after."""
    strategy.setup(net, StreamInfo(n_experiences=len(classes), n_classes=6, input_shape=(3,), setting=setting))
    history = []
    for index, now in enumerate(classes):
        net.observe(now)
        experience = Experience(index=index, classes=now, class_names=("a", "b"), train=None)
        strategy.before_experience(net, experience)
        begun = copy.deepcopy(net.state_dict())
        wander(net, index)
        trained = copy.deepcopy(net.state_dict())
        strategy.after_experience(net, experience)
        history.append((begun, trained, copy.deepcopy(net.state_dict())))
    return history


def test_each_expert_begins_at_the_anchor_and_their_mean_answers():
    net = network(norm=True)
    initial = copy.deepcopy(net.state_dict())
    history = live(WeightAverage(), net)
    for name, value in initial.items():
        if name.startswith("body.") and value.is_floating_point():
            assert all(torch.equal(begun[name], value) for begun, _, _ in history)
            for t in range(1, 4):
                mean = torch.stack([trained[name] for _, trained, _ in history[:t]]).mean(0)
                torch.testing.assert_close(history[t - 1][2][name], mean)


def test_rows_of_the_head_stay_as_their_expert_trained_them():
    history = live(TaskArithmetic(), network())
    for name in ("head.weight", "head.bias"):
        for t in range(3):
            own = slice(2 * t, 2 * t + 2)
            assert all(torch.equal(after[name][own], history[t][1][name][own]) for _, _, after in history[t:])


def test_rows_of_a_class_that_comes_again_are_averaged():
    history = live(WeightAverage(), network(), classes=((0, 1), (1, 2), (0, 1)))
    trained = [each[1]["head.weight"] for each in history]
    torch.testing.assert_close(history[-1][2]["head.weight"][1], (trained[0][1] + trained[1][1] + trained[2][1]) / 3)
    torch.testing.assert_close(history[-1][2]["head.weight"][2], trained[1][2])


def test_a_head_that_all_experts_train_is_merged():
    history = live(TaskArithmetic(coefficient=0.5), network(), classes=((0, 1, 2, 3, 4, 5),) * 3,
                   setting=Setting.DOMAIN)
    anchor = history[0][0]["head.weight"]
    expected = anchor + 0.5 * sum(trained["head.weight"] - anchor for _, trained, _ in history)
    torch.testing.assert_close(history[-1][2]["head.weight"], expected)


@pytest.mark.parametrize(("start", "place"), [("previous", 1), ("merged", 2)])
def test_an_expert_may_begin_elsewhere(start, place):
    history = live(MagMax(start=start), network())
    for (before, *_), after in zip(history[1:], history, strict=False):
        assert all(torch.equal(before[name], after[place][name]) for name in before if name.startswith("body."))


@pytest.mark.parametrize("bn_stats", ["mean", "first"])
def test_running_statistics_of_the_merged_model(bn_stats):
    history = live(WeightAverage(bn_stats=bn_stats), network(norm=True))
    found = torch.stack([trained["body.1.running_var"] for _, trained, _ in history])
    expected = found.mean(0) if bn_stats == "mean" else found[0]
    torch.testing.assert_close(history[-1][2]["body.1.running_var"], expected)


def test_statistics_may_be_measured_anew():
    stream = Toy().open()
    result = learn(WeightAverage(bn_stats="recalibrate"), stream, recipe=toy_recipe(epochs=1))
    assert result.record is not None and result.record.n_done == 3


def test_the_softmax_runs_over_the_experiences_own_classes():
    net, strategy = network(), WeightAverage()
    live(strategy, net, classes=((0, 1), (2, 3)))
    logits, y = draw(5, 4), torch.tensor([2, 3, 2, 3, 3])
    loss = strategy.loss(net, Batch(NOT_YET, NOT_YET, y), Output(logits, NOT_YET))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits[:, 2:], y - 2))
