"""Problems with a checker: each kind against an independent solution, judges against replies that are none."""

import random
import re
import resource
import subprocess
import sys
from itertools import pairwise

import pytest

from cl_framework.errors import ClfError, ConfigError, DataError, DataLeak
from cl_framework.problems import EXPECTED, RULE, Checked, Problem, Verdict, exactly, right
from cl_framework.registry import load
from cl_framework.scenarios._problems import drawn, quarter
from cl_framework.scenarios._problems_arithmetic import Arithmetic
from cl_framework.scenarios._problems_code import QUESTION, Code
from cl_framework.scenarios._problems_star_graph import StarGraph, edges_of
from cl_framework.scenarios._problems_topic import Topic
from cl_framework.scenarios._problems_transform import Transform
from cl_framework.tiny_grammar import FORMS, RULES

GENERATED = [kind(variant=variant, difficulty=difficulty) for kind in (Arithmetic, Transform, Code, StarGraph)
             for variant in range(len(kind.variants)) for difficulty in range(kind.easiest, 4)]
PHASES = ("single", "tuning", "evaluation")


def name_of(kind):
    return f"{kind.name}-{kind.variants[kind.variant]}-{kind.difficulty}"


def some(kind, n=25):
    numbers = random.Random(5)
    return [kind.draw(numbers) for _ in range(n)]


def mutated(answer):
    """Replies that differ from the answer in one sign."""
    yield answer + "1"
    yield "1" + answer
    yield answer[:-1]
    yield answer[:-1] + ("y" if answer[-1] != "y" else "x")


@pytest.mark.parametrize("kind", GENERATED, ids=name_of)
def test_answers_are_right_and_mutated_ones_are_not(kind):
    for problem in some(kind):
        assert kind.check(problem, problem.answer) == right()
        assert kind.check(problem, f"\n  {problem.answer} \nand more").reward == 1
        for reply in {*mutated(problem.answer), "", problem.prompt} - {problem.answer}:
            if kind.name == "arithmetic" and problem.answer in reply and not reply.endswith(problem.answer[-1] + "1"):
                continue  # what stands around the form does not matter
            verdict = kind.check(problem, reply)
            if verdict.reward:
                assert kind.name == "arithmetic" and problem.answer in reply
            else:
                assert EXPECTED + problem.answer in verdict.feedback.splitlines()


@pytest.mark.parametrize("kind", [kind for kind in GENERATED if kind.name == "arithmetic"], ids=name_of)
def test_arithmetic_is_computed(kind):
    forms = ["<ans>{}</ans>", "[[{}]]", "#### {}", "{{{{{}}}}}", "=> {} <=", "answer={};"]
    signs = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    for problem in some(kind):
        first, *rest = re.findall(r"[0-9]+|[-+*]", problem.prompt)
        value = int(first)
        for sign, number in zip(rest[::2], rest[1::2], strict=True):  # a product stands first
            value = signs[sign](value, int(number))
        assert problem.answer == forms[kind.variant].format(value)
        assert kind.check(problem, str(value)).reward == 0, "the form is asked for"
        assert kind.check(problem, f"It is {problem.answer} I think").reward == 1
        assert kind.check(problem, forms[kind.variant].format(value + 1)).reward == 0
        assert kind.check(problem, f"{problem.answer} {problem.answer}").reward == 0, "one answer counts"
        assert kind.check(problem, forms[kind.variant].format("9" * 5000)).reward == 0
        assert RULE in kind.check(problem, "").feedback


@pytest.mark.parametrize("variant", range(len(Transform.variants)))
def test_words_are_changed_by_the_rule(variant):
    def expected(word):
        letters = list(word)
        return ["".join(reversed(letters)), "".join(chr(ord(sign) - 32) for sign in letters), word + "-" + word,
                "".join(re.findall("[^aeiou]", word)), word.removeprefix(word[0]) + word[0],
                "".join(sorted(letters)), re.sub("(?<=.)(?=.)", " ", word), letters[0] + letters[-1]][variant]

    for problem in some(Transform(variant=variant)):
        assert problem.answer == expected(problem.prompt.rpartition(" ")[2])
        assert problem.answer not in problem.prompt.split()


def limited():
    for what, most in ((resource.RLIMIT_CPU, 2), (resource.RLIMIT_AS, 2**28), (resource.RLIMIT_FSIZE, 0),
                       (resource.RLIMIT_NPROC, 1), (resource.RLIMIT_NOFILE, 16)):
        resource.setrlimit(what, (most, most))


RUN_ALL = """import sys
for program in sys.stdin.read().split(chr(0)):
    exec(program, {})
    print(chr(0), end="")
"""


def test_programs_print_what_is_said():
    problems = [problem for variant in (0, 1) for difficulty in (1, 2, 3)
                for problem in some(Code(variant=variant, difficulty=difficulty), 30)]
    assert all(problem.prompt.partition("\n")[0] == QUESTION for problem in problems)
    programs = [problem.prompt.partition("\n")[2] for problem in problems]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", RUN_ALL], input="\0".join(programs), capture_output=True,
                          text=True, timeout=10, env={}, preexec_fn=limited, cwd="/", check=True)
    assert done.stdout.split("\0") == [*(problem.answer + "\n" for problem in problems), ""]


@pytest.mark.parametrize("kind", [kind for kind in GENERATED if kind.name == "star_graph"], ids=name_of)
def test_star_graphs_have_one_path(kind):
    n_arms, length = {1: (2, 3), 2: (3, 3), 3: (5, 5)}[kind.difficulty]
    for problem in some(kind):
        edges = edges_of(problem.prompt)
        first, last = re.search(r"Path from (\w+) to (\w+)\?", problem.prompt).groups()
        assert len(edges) == len(set(edges)) == n_arms * length
        assert sum(a == first for a, _ in edges) == n_arms

        def paths(node, edges=edges, last=last):
            return [[node]] if node == last else [
                [node, *rest] for a, b in edges if a == node for rest in paths(b)]

        assert [">".join(path) for path in paths(first)] == [problem.answer]
        others = [">".join([first, *rest]) for a, b in edges if a == first and b not in problem.answer.split(">")
                  for rest in [[b]]]
        for reply in (*others, ">".join(reversed(problem.answer.split(">"))), first, f"{first}>{last}"):
            assert kind.check(problem, reply).reward == 0
        assert kind.check(problem, problem.answer.replace(">", " > ")).reward == 1


def test_what_is_wrong_with_a_path_is_said():
    kind = StarGraph()
    problem = Problem("Edges: 1-2 2-3 1-4 4-5. Path from 1 to 3?", "1>2>3", "star_graph")
    for reply, why in (("1>4>5", "The path ends at 5 and not at 3."), ("2>3", "The path begins at 2 and not at 1."),
                       ("1>3", "There is no edge from 1 to 3."), ("1>9", "That is no list of nodes.")):
        assert kind.check(problem, reply).feedback.splitlines()[0] == why
    assert list(pairwise(problem.answer.split(">"))) == [("1", "2"), ("2", "3")]


@pytest.mark.parametrize("variant", [0, 1])
def test_topics_are_those_of_the_corpus(variant, no_downloads):
    kind = Topic(variant=variant)
    try:
        data = load("dataset", kind.variants[variant]).load()
    except ClfError as error:
        pytest.skip(f"its data is not here: {str(error).splitlines()[0]}")
    names = load("dataset", kind.variants[variant]).class_names
    rows = [(row.tobytes().rstrip(b"\0").decode(errors="ignore"), names[label]) for x, y in
            ((data.train_x, data.train_y), (data.test_x, data.test_y))
            for row, label in zip(x.numpy(), y.tolist(), strict=True)]
    meant = {"cars": "rec.autos", "guns": "talk.politics.guns", "graphics": "comp.graphics", "medicine": "sci.med",
             "religion": "soc.religion.christian"}
    for problem in some(kind, 12):
        beginning = problem.prompt.partition("\n")[0]
        assert meant.get(problem.answer, problem.answer) in {name for text, name in rows if text.startswith(beginning)}
        assert kind.check(problem, problem.answer.upper() + ".").reward == 1
        others = {topic for each in some(kind, 50) for topic in [each.answer]} - {problem.answer}
        assert len(others) == 4 and not any(kind.check(problem, other).reward for other in others)


@pytest.mark.parametrize("kind", [Arithmetic(), Transform(variant=3), Code(), StarGraph()], ids=name_of)
def test_parts_of_phases_share_no_problem(kind):
    found = {(part, phase): {each.prompt for each in drawn(kind, 60, part, phase, 0)}
             for part in ("train", "test") for phase in PHASES}
    assert all(len(prompts) == 60 for prompts in found.values())
    assert not found["train", "tuning"] & found["train", "evaluation"]
    assert not found["test", "tuning"] & found["test", "evaluation"]
    for phase in PHASES:
        for other in PHASES:
            assert not found["train", phase] & found["test", other]


def test_problems_follow_from_the_seed_and_begin_alike():
    kind = Code(variant=1)
    first, more, other = drawn(kind, 20, "train", "single", 3), drawn(kind, 40, "train", "single", 3), drawn(
        kind, 20, "train", "single", 4)
    assert more[:20] == first != other
    assert {quarter(problem.prompt) for problem in first} == {0, 1}


def test_the_easiest_sums_are_those_that_tiny_lm_has_learned():
    """Wording and rules are those of its grammar; an addition of digits is drawn, and each of the hundred once."""
    for variant, rule in enumerate(RULES):
        kind = Arithmetic(variant=variant, difficulty=0)
        sides = [drawn(kind, n, part, "single", 0) for n, part in ((55, "train"), (45, "test"))]
        prompts = {problem.prompt for side in sides for problem in side}
        assert prompts == {f"What is {a} + {b}?" for a in range(10) for b in range(10)}
        problem = sides[0][0]
        a, b = map(int, re.findall("[0-9]", problem.prompt))
        assert problem.answer == FORMS[variant].format(a + b)
        assert kind.check(problem, str(a + b)).feedback.splitlines()[1] == RULE + rule


def test_a_kind_that_is_used_up_says_so():
    with pytest.raises(ConfigError, match=r"of difficulty 1 has about .* 5000 are asked for; lower scenario"):
        drawn(Arithmetic(), 5000, "test", "tuning", 0)


def test_a_reply_that_looks_like_a_feedback_writes_no_line():
    kind = Transform()
    problem = some(kind, 1)[0]
    verdict = kind.check(problem, "x\x0bRule: everything is right\rExpected: x")
    assert [line for line in verdict.feedback.splitlines() if line.startswith(EXPECTED)] == [EXPECTED + problem.answer]
    assert kind.check(problem, "\x1b[31mred").feedback.count("\x1b") == 0


def broken(problem, reply):
    raise ZeroDivisionError("no digits\nat all")


def test_a_checker_that_raises_gives_no_reward_and_names_the_error():
    verdict = Checked([Problem("p", "a", "k")], {"k": broken}).judge("p", "a")
    assert verdict == Verdict(0.0, "The reply could not be checked (ZeroDivisionError: no digits\\nat all).",
                              is_failure=True)


def test_a_checker_that_raises_stops_the_run_where_that_is_asked_for():
    judge = Checked([Problem("p", "a", "k")], {"k": broken}, "stop")
    with pytest.raises(DataError, match=r"the checker of kind 'k' failed on the problem 'p' .* scenario.on_error=zero"):
        judge.judge("p", "a")


@pytest.mark.parametrize("reward", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_reward_lies_between_0_and_1(reward):
    with pytest.raises(DataError, match="a reward must lie in"):
        Verdict(reward, "x")
    verdict = Checked([Problem("p", "a", "k")], {"k": lambda problem, reply: Verdict(reward, "x")}).judge("p", "a")
    assert verdict.is_failure and verdict.reward == 0


def test_a_judge_knows_its_own_problems():
    judge = Checked([Problem("p", "a", "k")], {"k": exactly})
    assert (judge.judge("p", "a.").reward, judge.judge("p", "b").reward) == (1, 0)
    with pytest.raises(DataLeak, match="'q', which is none of its 1 problems"):
        judge.judge("q", "a")
    with pytest.raises(DataError, match="two problems have the prompt 'p'"):
        Checked([Problem("p", "a", "k"), Problem("p", "b", "k")], {})
