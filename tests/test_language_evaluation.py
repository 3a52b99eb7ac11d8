"""Replies, passages and choices against sums by hand in float64; rewards in part; what is refused."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from cl_framework import Recipe, Strategy, StreamRecord, run_stream
from cl_framework.chance import chance_of
from cl_framework.checkpoint import Vault
from cl_framework.config import resolve
from cl_framework.data import Dataset, TestSet
from cl_framework.errors import DataError, Diverged, PluginError
from cl_framework.evaluate import evaluate
from cl_framework.language_metrics import perplexity, perplexity_increase
from cl_framework.language_tests import ChoiceTest, PassageTest, ReplyTest
from cl_framework.language_toys import ToyProblems, bigram_model
from cl_framework.launch import open_stream
from cl_framework.memory_of_runs import need, stream_bytes, training_bytes
from cl_framework.metrics import AccuracyMatrix, compute_all, installed_metrics
from cl_framework.problems import Verdict
from cl_framework.text_rows import encoded, text_rows
from cl_framework.types import Setting

START, END = 256, 257


class Supervised(Strategy):
    speaks: ClassVar[bool] = True


class Parrot(Strategy):
    """Answers every prompt with one text, and notes what it was asked."""

    speaks: ClassVar[bool] = True

    def __init__(self, *texts):
        self.texts, self.calls = texts, []

    def respond(self, model, prompts):
        self.calls.append(list(prompts))
        return [self.texts[at % len(self.texts)] for at in range(len(prompts))]


def measured(strategy, test, *, row=0, seed=0, model=None):
    matrix = AccuracyMatrix(1, is_language=True)
    evaluate(strategy, model or bigram_model(), [(0, test)], matrix, row, seed=seed)
    return matrix.compute()


def log_prob(model, last, this):
    """Of one byte after another, by hand."""
    row = model.body.table.weight[last].tolist()
    top = max(row)
    return row[this] - top - math.log(sum(math.exp(value - top) for value in row))


def passage(model, text):
    """Log-probabilities of a passage's bytes, and whether each was the likeliest; its end does not count."""
    ids = [START, *text.encode()]
    pairs = list(pairwise(ids))
    return [log_prob(model, a, b) for a, b in pairs], [int(model.body.table.weight[a].argmax()) == b for a, b in pairs]


def passages_of(*texts):
    return Dataset(text_rows([""] * len(texts), texts, 1, 40), torch.zeros(len(texts), dtype=torch.int64))


def test_passages_are_measured_token_by_token():
    model = bigram_model(3)
    texts = ["to be or not", "a", "ünïcode and a long line of text", "x y"] * 3
    with torch.no_grad():  # some bytes are guessed rightly
        for a, b in zip(b"o or", b" be ", strict=True):
            model.body.table.weight[a, b] = 9.0
    found = measured(Strategy(), PassageTest(passages_of(*texts), (0,), Setting.DOMAIN), model=model)
    each = [passage(model, text) for text in texts]
    n = sum(len(own) for own, _ in each)
    assert found.initial_loss.item() == pytest.approx(-sum(sum(own) for own, _ in each) / n, rel=1e-6)
    assert found.initial.item() == sum(sum(hits) for _, hits in each) / n > 0


def test_a_choice_goes_to_the_likeliest_end_by_the_mean_of_its_tokens():
    model = bigram_model(5)
    texts = ["the cat sat down", "one two three", "ab cd ef gh"]
    ends = {"the cat sat down": ["three", "gh"], "one two three": ["sat down", "ef gh"],
            "ab cd ef gh": ["sat", "three"]}
    rows = [choice for text in texts for choice in
            (text, *(" ".join(text.split(" ")[: len(text.split(" ")) // 2]) + " " + end for end in ends[text]))]
    test = ChoiceTest(passages_of(*texts), (0,), Setting.DOMAIN, choices=passages_of(*rows), n_choices=3)
    found = measured(Strategy(), test, model=model)
    hits = []
    for at in range(0, len(rows), 3):
        three = rows[at:at + 3]
        start = next(i for i in range(99) if len({text.encode()[i:i + 1] for text in three}) > 1)
        start = min(next(i for i in range(99) if three[0].encode()[i:i + 1] != other.encode()[i:i + 1])
                    for other in three[1:])
        means = [sum(own[start:]) / len(own[start:]) for own in (passage(model, text)[0] for text in three)]
        hits.append(means[0] > max(means[1:]))
    assert found.initial.item() == sum(hits) / 3
    losses = [-value for text in texts for value in passage(model, text)[0]]
    assert found.initial_loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize("kind", [PassageTest, ChoiceTest])
def test_the_token_behind_a_passage_counts_nowhere(kind):
    """However unlikely a model finds it that a passage ends there."""
    texts, found = ["the cat sat down", "the cat three"], []
    more = {"choices": passages_of(*texts), "n_choices": 2} if kind is ChoiceTest else {}
    for depth in (50.0, 90.0):
        model = bigram_model(5)
        with torch.no_grad():
            model.body.table.weight[:, END] = -depth
        found.append(measured(Strategy(), kind(passages_of(texts[0]), (0,), Setting.DOMAIN, **more), model=model))
    assert found[0].initial_loss.item() == pytest.approx(found[1].initial_loss.item(), rel=1e-6)
    assert found[0].initial.item() == found[1].initial.item()


def test_ends_that_are_cut_off_are_refused():
    test = ChoiceTest(passages_of("a" * 30), (0,), Setting.DOMAIN, choices=passages_of("a" * 30, "a" * 30 + "b"),
                      n_choices=2)
    with pytest.raises(DataError, match=r"look alike to the model, .*; raise model.max_tokens"):
        measured(Strategy(), test, model=bigram_model(max_tokens=16))


class Partly:
    """A judge that gives a part of the reward."""

    def judge(self, prompt, reply):
        return Verdict({"x": 0.25, "y": 0.5}.get(reply, 0.0), "in part")


def toy_test(**fields):
    return ToyProblems(letters="a", **fields).open().test(0)


def test_rewards_count_in_part():
    test = replace(toy_test(n_test=3, n_samples=2), judge=Partly())
    assert measured(Parrot("x", "y"), test).initial.item() == 0.375
    assert measured(Parrot("x"), test).initial.item() == 0.25


def test_each_prompt_is_asked_as_often_as_there_are_samples():
    parrot = Parrot("a")
    found = measured(parrot, toy_test(n_test=3, n_samples=2))
    assert found.initial.item() == 1 and found.task_initial.item() == 1 and found.initial_loss.isnan()
    assert parrot.calls == [["say 0.8", "say 0.8", "say 0.9", "say 0.9", "say 0.10", "say 0.10"]]


def test_many_prompts_are_asked_in_several_calls():
    parrot = Parrot("a")
    measured(parrot, toy_test(n_test=40, n_samples=4))
    assert [len(call) for call in parrot.calls] == [64, 64, 32]


class Drawing(Strategy):
    """Draws its answers from torch's global generator."""

    drawn: ClassVar[list] = []

    def respond(self, model, prompts):
        assert not model.training and not torch.is_grad_enabled()
        self.drawn.append(torch.rand(1).item())
        return [""] * len(prompts)


def test_replies_depend_on_seed_row_and_column_alone():
    Drawing.drawn.clear()
    model = bigram_model().train()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for row, seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        measured(Drawing(), toy_test(), row=row, seed=seed, model=model)
        torch.rand(3)
        torch.set_rng_state(before)
    first, again, other_row, other_seed = Drawing.drawn
    assert first == again and len({first, other_row, other_seed}) == 3
    assert model.training and torch.equal(torch.get_rng_state(), before)


def test_answers_and_prompts_must_be_as_many():
    class Silent(Strategy):
        def respond(self, model, prompts):
            return []

    with pytest.raises(PluginError, match="respond of Silent gave 0 answers to 8 prompts"):
        measured(Silent(), toy_test())


def test_empty_replies_and_such_that_look_like_markup_are_replies():
    for text in ("", "[bold]a[/bold]", "<b>a</b>", "{{a}}", "\x1b[2J"):
        assert measured(Parrot(text), toy_test()).initial.item() == 0


def test_replies_that_could_not_be_checked_are_counted(caplog):
    class Failing:
        def judge(self, prompt, reply):
            return Verdict(0.0, "The reply could not be checked (KeyError: 'x').", is_failure=True)

    assert measured(Parrot("a"), replace(toy_test(n_test=3), judge=Failing())).initial.item() == 0
    assert "6 of 6 replies could not be checked and count as reward 0: The reply could not be checked" in caplog.text


def test_losses_that_are_not_finite_stop_the_run():
    model = bigram_model()
    model.body.table.weight.data[:] = math.inf
    with pytest.raises(Diverged, match="an answer to held-out rows of experience 0 is not finite"):
        measured(Strategy(), ToyProblems(letters="a", is_judged=False).open().test(0), model=model)


def test_a_plain_matrix_counts_no_parts():
    matrix = AccuracyMatrix(1)
    with pytest.raises(TypeError, match="which a count of right answers would round"):
        matrix.update(0, torch.tensor([0]), torch.tensor([0.5]), torch.tensor([0.5]))
    assert matrix.hits.dtype == torch.int64 and "nats" not in matrix.state_dict()


RECIPE = Recipe(optimizer="adam", lr=0.5, epochs=8, batch_size=4)


@pytest.mark.parametrize("is_judged", [True, False])
def test_a_stream_of_texts_is_learned_and_forgotten(is_judged):
    stream = ToyProblems(is_judged=is_judged, n_samples=8).open()
    record = run_stream(Supervised(), stream, bigram_model(), recipe=RECIPE, seed=1)
    own, old = record.accuracy.diagonal(), record.accuracy[2, :2]
    assert (own > 0.45).all() and (own[:2] > old).all() and not record.initial.isnan().any()
    assert record.online.isnan().all()
    values = compute_all(record, installed_metrics())
    if is_judged:
        assert "perplexity" not in values and not record.has_texts
    else:
        assert values["perplexity"] == pytest.approx(math.exp(record.loss[2].mean()))
        assert values["perplexity_increase"] > 1
        assert torch.equal(record.perplexity, record.loss.exp())
        assert (record.initial_loss > record.loss.diagonal()).all()


def test_a_run_of_replies_goes_on_to_the_same_bits(tmp_path):
    from cl_framework.check_runs import Stop, Stopped

    stream = ToyProblems(n_samples=4).open()
    whole_model, model, again = (bigram_model() for _ in range(3))
    whole = run_stream(Supervised(), stream, whole_model, recipe=RECIPE, seed=2)
    with pytest.raises(Stopped):
        run_stream(Supervised(), stream, model, recipe=RECIPE, seed=2, vault=Vault(tmp_path, "x"),
                   observer=Stop(after_experience=1))
    resumed = run_stream(Supervised(), stream, again, recipe=RECIPE, seed=2, vault=Vault(tmp_path, "x"))
    assert torch.equal(resumed.accuracy, whole.accuracy) and torch.equal(resumed.initial, whole.initial)
    assert torch.equal(again.body.table.weight, whole_model.body.table.weight)


def test_an_online_stream_of_texts_is_not_answered_row_by_row():
    stream = ToyProblems().open()
    stream.info = replace(stream.info, is_online=True)
    record = run_stream(Supervised(), stream, bigram_model(), recipe=replace(RECIPE, epochs=1))
    assert record.online.isnan().all() and record.n_done == 3


def test_guessing_words_is_worth_nothing():
    assert chance_of(ToyProblems().open())["average_accuracy"] == 0



def test_perplexities_of_a_record_in_closed_form():
    record = StreamRecord(n_experiences=3)
    assert math.isnan(perplexity(record)) and math.isnan(perplexity_increase(record))
    record.accuracy[:] = 0.5
    record.loss = torch.tensor([[2.0, 9, 9], [3, 4, 9], [5, 7, 1]]).double().log()
    assert perplexity(record) == pytest.approx((5 * 7 * 1) ** (1 / 3))
    assert perplexity_increase(record) == pytest.approx(math.sqrt(5 / 2 * 7 / 4))
    record.loss[:] = 1e6
    assert math.isnan(perplexity(record))


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="has 4 bytes; a row has 3"):
        encoded(["fünf"[:3]], 3)
    with pytest.raises(DataError, match="none of them may be zero"):
        encoded(["a\0b"], 9)


def test_a_test_set_of_labels_asks_for_logits_alone():
    class Nobody:
        def logits(self, batch):
            return torch.tensor([[0.0, 1.0], [2.0, 1.0]])

    data = Dataset(torch.zeros(2, 1), torch.tensor([1, 1]))
    (part,) = TestSet(data, (0, 1)).measure(Nobody())
    assert part.hits.tolist() == [True, False] and part.losses is None and TestSet(data, (0, 1)).chance is None
    assert isinstance(toy_test(), ReplyTest) and toy_test().chance == 0


def test_the_memory_of_a_run_of_texts_is_estimated():
    """It grows with the batch, holds the copies of the weights, and stays within reason."""
    pytest.importorskip("transformers")
    fields = {"scenario": "verifiable", "strategy": "naive", "model": "tiny_lm", "model.weights": "random",
              "scenario.n_train": 8, "scenario.n_test": 8, "model.max_tokens": 300}
    sizes = []
    for batch_size in (4, 8):
        job = resolve({**fields, "train.batch_size": batch_size})
        stream = open_stream(job)
        sizes.append(training_bytes(job, stream))
        assert need([(job, stream)]) > sizes[-1] + stream_bytes(stream)
    assert 8 * 4 * 1_100_000 < sizes[0] < sizes[1] < 2**31
