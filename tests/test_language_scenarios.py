"""scenario=verifiable and scenario=text_domains: what their streams are made of, and what is refused."""

import pytest
import torch

from cl_framework.chance import chance_of
from cl_framework.checks import checks_of, outcome_of
from cl_framework.errors import ClfError, ConfigError, DataLeak
from cl_framework.fingerprint import fingerprint, overlap_faults
from cl_framework.language_checks import judges_go_by_the_answers, prompts_do_not_tell_answers
from cl_framework.problems import Checked, Problem, exactly
from cl_framework.scenarios.text_domains import TextDomains
from cl_framework.scenarios.verifiable import Verifiable
from cl_framework.text_rows import problem_rows
from cl_framework.tokens import decoded
from cl_framework.types import Need


def small(**fields):
    return Verifiable(**{"n_train": 12, "n_test": 4, **fields})


def prompts(data):
    return decoded(data.raw["prompt"])


@pytest.mark.parametrize("fields", [{}, {"n_pieces": 3, "is_online": True, "difficulty": 3},
                                    {"kinds": ["transform", "code:1", "transform", "transform:3", "star_graph:0"]}])
def test_verifiable_obeys_its_contract(fields):
    plugin = small(**fields)
    failed = {outcome.name: outcome.reason for outcome in (outcome_of(plugin, check) for check in checks_of(plugin))
              if not outcome.is_fine}
    if "kinds" in fields:  # half of the variants are in a phase: there is one family of programs, and one set of names
        assert "take another variant" not in failed
        failed.pop("phases_are_disjoint", None), failed.pop("prompts_are_apart", None)
    assert not failed


def test_a_kind_is_an_experience_or_several():
    stream = small(kinds=["code", "transform"], n_pieces=3).open("single", None)
    assert [experience.name for experience in stream] == [
        *(f"code (numbers), piece {k}" for k in (1, 2, 3)), *(f"transform (backwards), piece {k}" for k in (1, 2, 3))]
    assert [len(experience.train) for experience in stream] == [4] * 6
    assert [len(stream.test(index).data) for index in range(6)] == [2, 1, 1, 2, 1, 1]
    assert all(experience.task is None for experience in stream)
    whole = small(kinds=["code", "transform"]).open("single", None)
    learned = [prompt for experience in stream for prompt in prompts(experience.train)]
    assert sorted(learned) == sorted(prompt for experience in whole for prompt in prompts(experience.train))
    assert len(set(learned)) == 24


def test_a_kind_that_comes_back_brings_other_problems():
    stream = small(kinds=["transform", "code", "transform"]).open("single", None)
    first, again = stream[0], stream[2]
    assert again.name == first.name + ", again" and not set(prompts(first.train)) & set(prompts(again.train))
    assert not set(prompts(stream.test(0).data)) & set(prompts(stream.test(2).data))
    with pytest.raises(DataLeak, match="none of its 12 problems"):
        again.judge.judge(prompts(first.train)[0], "x")


def test_variants_contradict_each_other_on_the_same_questions():
    stream = small(kinds=["arithmetic", "arithmetic:1"]).open("single", None)
    answers = [decoded(experience.train.raw["answer"]) for experience in stream]
    assert all(text.startswith("<ans>") for text in answers[0]) and all(text.startswith("[[") for text in answers[1])


def test_phases_share_no_rule_and_no_problem():
    plugin = small(kinds=["arithmetic", "transform", "code", "star_graph"])
    streams = [plugin.open(phase, None) for phase in ("tuning", "evaluation")]
    assert not overlap_faults(*(fingerprint(stream) for stream in streams), "verifiable")
    names = [experience.class_names[0] for stream in streams for experience in stream]
    assert names == ["arithmetic (tags)", "transform (backwards)", "code (numbers)", "star_graph (numbers)",
                     "arithmetic (braces)", "transform (turned)", "code (sequences)", "star_graph (letters)"]


def test_the_order_seed_shuffles_kinds_and_nothing_else():
    natural, shuffled = small().open("single", None), small().open("single", 5)
    names = [experience.name for experience in natural]
    assert sorted(names) == sorted(experience.name for experience in shuffled) != names
    for experience in shuffled:
        other = natural[names.index(experience.name)]
        assert prompts(experience.train) == prompts(other.train)


def test_streams_say_that_they_are_of_language():
    stream = small(is_online=True).open("single", None)
    assert stream.info.is_language and stream.info.is_online and stream.info.input_shape == (512, 64)
    assert stream.info.offers == {Need.HISTORY, Need.TEXT, Need.VERIFIER}
    assert small(is_online=True).recipe() == {"epochs": 1} and small().recipe() == {}
    assert set(chance_of(stream).values()) == {0.0}


@pytest.mark.parametrize(("fields", "message"), [
    ({"kinds": ["arithmetics"]}, "names 'arithmetics', which is no kind of problem; did you mean 'arithmetic'"),
    ({"kinds": []}, "scenario.kinds is empty"),
    ({"kinds": ["code:2"]}, "code has 2 variants in phase=single; put a number from 0 to 1"),
    ({"kinds": ["code:-1"]}, "put a number from 0 to 1"),
    ({"n_pieces": 5}, "scenario.n_pieces=5 leaves pieces without a problem, as scenario.n_test is 4"),
    ({"n_train": 3000}, "lower scenario.n_train or raise scenario.difficulty"),
    ({"difficulty": 0}, "scenario.difficulty=0 is for arithmetic alone, and scenario.kinds names 'transform'; take"),
])
def test_what_cannot_be_had_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        small(**fields).open("single", None)


class Leaking(Verifiable):
    """Its prompts end in their answers."""

    def _part(self, kind, learned, held_out, note):
        told = [[Problem(f"{each.prompt} ({each.answer})", each.answer, each.kind) for each in side]
                for side in (learned, held_out)]
        return super()._part(kind, *told, note)


class Generous(Verifiable):
    """Its judge is content with everything."""

    def _part(self, kind, learned, held_out, note):
        part = super()._part(kind, learned, held_out, note)
        vars(part)["judge"] = Checked(learned, {kind.name: lambda problem, reply: exactly(problem, problem.answer)})
        return part


def test_checks_find_a_leak_and_a_judge_that_is_content_with_everything():
    with pytest.raises(AssertionError, match="12 of 12 prompts of experience 0 hold their answer"):
        prompts_do_not_tell_answers(Leaking(n_train=12, n_test=4))
    with pytest.raises(AssertionError, match="is worth 1, too"):
        judges_go_by_the_answers(Generous(n_train=12, n_test=4))


def test_rows_keep_their_texts():
    problems = [Problem("Was ist 1 + 1?\n  größer", "2", "x"), Problem("", "3", "x")]
    raw = problem_rows(problems, 64, 4).raw
    assert decoded(raw["prompt"]) == [problems[0].prompt, ""] and decoded(raw["answer"]) == ["2", "3"]


def domains(**fields):
    plugin = TextDomains(n_train=20, n_test=8, **fields)
    try:
        return plugin.open("single", None)
    except ConfigError:
        raise
    except ClfError as error:
        pytest.skip(f"its data is not here: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("source", ["bbc_news", "newsgroups20"])
def test_topics_are_domains(source, no_downloads):
    stream = domains(source=source)
    assert len(stream) == {"bbc_news": 5, "newsgroups20": 20}[source] and stream.info.input_shape == (1, 256)
    for experience in stream:
        test = stream.test(experience.index)
        texts, held_out = (decoded(data.raw["answer"]) for data in (experience.train, test.data))
        assert len(set(texts)) == 20 and len(set(held_out)) == 8 and not set(texts) & set(held_out)
        assert all(0 < len(text.encode()) <= 256 for text in texts) and not any(prompts(experience.train))
        assert experience.judge is None and test.chance == 0


def test_choices_begin_alike_and_end_with_halves_of_the_same_domain(no_downloads):
    stream = domains(score="choice", n_choices=3)
    test = stream.test(1)
    passages, choices = decoded(test.data.raw["answer"]), decoded(test.choices.raw["answer"])
    assert test.chance == 1 / 3 and len(choices) == 24 and choices[::3] == passages
    for at, text in enumerate(passages):
        words = text.split(" ")
        beginning = " ".join(words[: (len(words) + 1) // 2]) + " "
        for choice in choices[3 * at + 1: 3 * at + 3]:
            assert choice.startswith(beginning) and not choice.startswith(text) and not text.startswith(choice)
            assert any(other.endswith(" " + choice.removeprefix(beginning)) for other in passages if other != text)


@pytest.mark.parametrize(("fields", "message"), [
    ({"topics": ["tech", "chess"]}, "must be topics of bbc_news, none twice; take some of business"),
    ({"topics": ["tech", "tech"]}, "none twice"),
    ({"score": "choice", "n_choices": 9}, "has 8 held-out passages; raise scenario.n_test"),
])
def test_topics_and_choices_that_are_not_there_are_refused(fields, message, no_downloads):
    domains()
    with pytest.raises(ConfigError, match=message):
        domains(**fields)


def test_text_domains_obeys_its_contract(no_downloads):
    domains()
    for plugin in (TextDomains(n_train=20, n_test=8), TextDomains(n_train=20, n_test=8, score="choice")):
        assert not [outcome for outcome in (outcome_of(plugin, check) for check in checks_of(plugin))
                    if not outcome.is_fine]
    tuning, evaluation = (TextDomains(n_train=20, n_test=8).open(phase, None) for phase in ("tuning", "evaluation"))
    assert [experience.name for experience in tuning] == ["business", "entertainment"]
    assert [experience.name for experience in evaluation] == ["politics", "sports"]
    assert torch.equal(tuning[0].train.y, torch.zeros(20, dtype=torch.int64))
