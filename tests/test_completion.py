"""Completion: the candidates for a line, and what bash, zsh and fish make of them."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

from cl_framework import cli
from cl_framework.completion import KEYS, candidates
from cl_framework.completion_values import choices, options_of
from cl_framework.listing import Field
from cl_framework.registry import plugins

VERBS = dict.fromkeys(cli.VERBS, "")


def texts(line):
    return [text for text, _ in candidates(line, VERBS)]


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A function that completes a line in a shell, where `clf` is found."""
    (tmp_path / "clf").write_text(f"#!/bin/sh\nexec {sys.executable} -m cl_framework.cli \"$@\"\n")
    (tmp_path / "clf").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def script(name):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed here")
        done = subprocess.run(["clf", "completion", f"shell={name}"], capture_output=True, text=True, check=True)
        (tmp_path / f"clf.{name}").write_text(done.stdout)
        return tmp_path / f"clf.{name}"
    return script


@pytest.mark.parametrize(("line", "expected"), [
    ("clf tra", ["train"]),
    ("clf --v", ["--version"]),
    ("clf train scen", ["scenario=", "scenario."]),
    ("clf train scenario=split_digits scen", ["scenario."]),
    ("clf train scenario=split_digi", ["scenario=split_digits"]),
    ("clf train strategy=er,lw", ["strategy=er,lwf"]),
    ("clf train strategy=er+lw", ["strategy=er+lwf"]),
    ("clf train strategy=er,e", ["strategy=er,eata", "strategy=er,er_ace", "strategy=er,ewc"]),
    ("clf train strategy=er strategy.mem", ["strategy.memory_size="]),
    ("clf train strategy=er+lwf strategy.er.mem", ["strategy.er.memory_size="]),
    ("clf train experiment=online scenario=permuted scenario.is_o", ["scenario.is_online="]),
    ("clf train model.dro", ["model.dropout="]),
    ("clf train train.optimizer=", ["train.optimizer=sgd", "train.optimizer=adam", "train.optimizer=adamw"]),
    ("clf train track.tensorboard=", ["track.tensorboard=true", "track.tensorboard=false"]),
    ("clf train phase=single,", ["phase=single,tuning", "phase=single,evaluation"]),
    ("clf tune protocol=gtep_l", ["protocol=gtep_lite"]),
    ("clf tune search.trials=3 search.tri", []),
    ("clf new st", ["strategy"]),
    ("clf new strategy na", ["name="]),
    ("clf list kind=e", ["kind=experiment"]), ("clf list kind=p", ["kind=protocol"]),
    ("clf data get=mni", ["get=mnist"]),
    ("clf completion shell=", ["shell=bash", "shell=zsh", "shell=fish"]),
    ("clf nothing a", []), ("clf train zzz=", []), ("clf train strategy=nobody strategy.", []),
    ("clf train 'stra", []), ("clf train experiment=nobody scen", ["scenario=", "scenario."]),
])
def test_candidates(line, expected):
    assert texts(line) == expected


def test_the_first_word_is_any_verb_and_says_what_it_does():
    helps = {name: verb.__doc__ for name, verb in cli.VERBS.items()}
    assert dict(candidates("clf ", helps)) == helps and all(helps.values())


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "seed0").mkdir(parents=True)
    (tmp_path / "rules.txt").touch()
    (tmp_path / ".hidden").touch()
    assert texts("clf resume run=r") == ["run=rules.txt", "run=runs/"]
    assert texts("clf resume run=runs/") == ["run=runs/seed0/"]
    assert texts("clf resume run=") == ["run=rules.txt", "run=runs/"] and texts("clf resume run=.h") == ["run=.hidden"]
    assert texts(f"clf watch run={tmp_path}/ru") == [f"run={tmp_path}/rules.txt", f"run={tmp_path}/runs/"]
    assert texts("clf merge experts=rules.txt,ru") == ["experts=rules.txt,runs/"]
    assert texts("clf resume run=nowhere/") == []


def test_choices_come_from_the_field():
    assert choices(Field("a", "float", "0.1  (tunable: 0.01, 0.1)", "")) == ["0.01", "0.1"]
    assert choices(Field("a", "bool | None", "None", "")) == ["true", "false", "null"]
    assert choices(Field("a", "int", "3", "")) == []


def test_names_are_those_of_the_registry():
    for kind in ("strategy", "scenario", "model", "metric"):
        assert [name for name, _ in options_of("show", kind, "", None)] == list(plugins(kind))


@pytest.mark.parametrize("verb", sorted(set(KEYS) - {"train", "tune", "sweep", "protocol", "merge", "evaluate"}))
def test_keys_are_those_that_the_verb_takes(verb, capsys):
    assert cli.main([verb, "qqqqqqqq=1"]) == 2
    known = re.search("unknown key 'qqqqqqqq'; there are (.*)", capsys.readouterr().err)[1].split(", ")
    assert set(known) == set(KEYS[verb])


def test_words_are_those_that_the_verb_takes(capsys):
    for verb, key, given in (("report", "format", []), ("diagnose", "format", ["run=."]), ("list", "kind", []),
                             ("new", "kind", ["name=x"]), ("train", "launcher", [])):
        assert cli.main([verb, *given, f"{key}=qqqqqqqq"]) == 2
        known = re.search(f"unknown {key} 'qqqqqqqq'; there are (.*)", capsys.readouterr().err)[1].split(", ")
        assert set(known) == {text for text, _ in options_of(verb, key, "", None)}


def test_nothing_slow_is_imported():
    code = ("import sys; from cl_framework.cli import main; main(['completion']); "
            "print(sorted({'torch', 'lightning', 'omegaconf', 'optuna'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "CLF_COMPLETE": "clf train strategy=er strategy."})
    assert "strategy.memory_size=" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_a_shell_that_is_not_known(capsys):
    assert cli.main(["completion"]) == 2 and "shell=bash" in capsys.readouterr().err
    assert cli.main(["completion", "shell=fsh"]) == 2
    assert "unknown shell 'fsh'; did you mean 'fish'?" in capsys.readouterr().err


def in_bash(script, line):
    """COMPREPLY for a line, its words cut as readline cuts them."""
    words = re.findall(r"[=:]|[^\s=:]+", line) + [""] * (line[-1] in " ")
    code = (f"source {script}; COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({' '.join(map(repr, words))}); "
            f"COMP_CWORD={len(words) - 1}; COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'; _clf clf; "
            "printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p clf")
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    *replies, registered = done.stdout.splitlines()
    assert registered == "complete -F _clf clf" and not done.stderr, done.stderr
    return replies


def test_bash_gets_what_comes_after_its_word_breaks(shell):
    script = shell("bash")
    assert in_bash(script, "clf tra") == ["train"]
    assert in_bash(script, "clf list kind=st") == ["strategy"]
    assert in_bash(script, "clf train strategy=er+lw") == ["er+lwf"]
    assert in_bash(script, "clf train strategy=er strategy.m") == ["strategy.memory_size=", "strategy.mix="]


def typed(argv, keys, seconds=15.0, until=b"MARK"):
    """What a shell in a terminal shows after keys are typed into it."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvp(argv[0], argv)
    shown, end = b"", time.monotonic() + seconds
    for key in keys:
        os.write(terminal, key)
        pause = time.monotonic() + 0.3
        while time.monotonic() < pause:
            if select.select([terminal], [], [], 0.05)[0]:
                shown += os.read(terminal, 65536)
    while until not in shown.replace(b"echo MARK", b"") and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break
    os.write(terminal, b"\x03exit\n")
    os.close(terminal)
    os.waitpid(process, 0)
    return shown.decode(errors="replace")


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_the_tab_key_in_a_terminal(shell, name, tmp_path):
    """The line is completed, run, and its words written into a file."""
    script = shell(name)
    (tmp_path / "clf").rename(tmp_path / "real")
    (tmp_path / "clf").write_text(f'#!/bin/sh\n[ "$1" = completion ] && exec {tmp_path}/real "$@"\n'
                                  f'echo "$@" > {tmp_path}/words\n')
    (tmp_path / "clf").chmod(0o755)
    start = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}[name]
    compinit = "autoload -Uz compinit; compinit -u -D; " if name == "zsh" else ""
    typed(start, [f"{compinit}source {script}\n".encode(), b"clf sho\t", b"strat\t", b"mag\t", b"\n", b"echo MARK\n"])
    assert (tmp_path / "words").read_text().split() == ["show", "strategy=magmax"]


def test_fish(shell):
    script = shell("fish")

    def completed(line):
        done = subprocess.run(["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"],
                              capture_output=True, text=True, check=True)
        return [each.split("\t") for each in done.stdout.splitlines()]
    assert completed("clf tra") == [["train", cli.VERBS["train"].__doc__]]
    assert sorted(word for word, *_ in completed("clf list kind=s")) == ["kind=scenario", "kind=strategy"]
    assert [word for word, *_ in completed("clf train strategy=er+lw")] == ["strategy=er+lwf"]


def test_the_repository_holds_no_stale_verb():
    """Every verb of `clf` has its keys here, and the other way round; the help names it."""
    assert set(KEYS) == set(cli.VERBS)
    assert all(f"clf {verb} " in cli.USAGE for verb in cli.VERBS)
