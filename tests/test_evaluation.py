"""Phase 2 of the two-phase protocol: nothing is changed between the phases, and nothing is opened too early."""

import json

import pytest
import yaml
from rich.console import Console

from cl_framework import cli, evaluation
from cl_framework.check_record import check_record
from cl_framework.errors import ConfigError, Diverged, Stopped
from cl_framework.evaluation import evaluate, refuse_overrides, winner_hash
from cl_framework.fingerprint import fingerprint, overlap_faults
from cl_framework.frozen import read_tuned
from cl_framework.launch import Failure
from cl_framework.protocol_record import FILE
from cl_framework.runs import RunFolder
from cl_framework.seal import digest_of, sealed
from cl_framework.toys import Toy
from cl_framework.tuned import digest
from cl_framework.types import Phase
from cl_framework.winner import changes, differences

QUIET = Console(quiet=True)
TUNE = ["tune", "scenario=split_digits", "strategy=er", "scenario.n_experiences=2", "scenario.sizes=[2,3]",
        "train.epochs=1", "search.trials=2", "search.seeds=2"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A study of 2 trials x 2 seeds on the lower half of the digits."""
    out = tmp_path_factory.mktemp("study")
    assert cli.main([*TUNE, f"out={out}"]) == 0
    (path,) = out.glob("tune/*/*/*/best.yaml")
    return path


@pytest.fixture(scope="module")
def record(tuned):
    return evaluate(tuned, None, 1, "clf evaluate", QUIET)


def changed(tuned, tmp_path, change, *, is_sealed=False):
    """A copy of best.yaml with one thing changed."""
    made = yaml.safe_load(tuned.read_text())
    change(made)
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(sealed(made) if is_sealed else made, sort_keys=False))
    return path


def test_the_record_holds_both_phases(record, tuned):
    made = record.record
    assert made["tuning"]["classes"] == [f"digits:{label}" for label in range(5)]
    (part,) = made["evaluation"]
    assert part["classes"] == [f"digits:{label}" for label in range(5, 10)] and part["shared_images"] == 0
    assert part["result"]["n"] == 2 and part["default"]["result"]["n"] == 2
    assert [run["order_seed"] for run in part["runs"]] == [0, 1]
    summary = json.loads((tuned.parent / part["runs"][0]["folder"] / "summary.json").read_text())
    assert (summary["phase"], summary["protocol"]) == ("evaluation", "two-phase")
    plain = json.loads((tuned.parent / part["default"]["runs"][0]["folder"] / "summary.json").read_text())
    assert plain["protocol"] == "two-phase defaults" and plain["config_hash"] != summary["config_hash"]
    assert summary["metrics"]["average_incremental_accuracy"] == part["runs"][0]["value"]
    assert json.loads(record.path.read_text()) == made and digest_of(made) == made["digest"]


def test_the_winner_of_each_run_is_read_from_its_own_folder(record, tuned):
    folder = tuned.parent / record.record["evaluation"][0]["runs"][0]["folder"]
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    size, lr = tree["strategy"]["er"]["replay_batch_size"], tree["train"]["lr"]
    own = {"strategy.er.replay_batch_size": size, "train.lr": lr}
    assert record.record["winner"] == own and winner_hash(RunFolder(folder), read_tuned(tuned).made) == digest(own)
    assert {run["winner_hash"] for run in record.record["evaluation"][0]["runs"]} == {digest(own)}


def test_an_undeclared_budget_alone_makes_it_non_compliant(record):
    assert (record.record["status"], record.record["broken"]) == ("non-compliant", ["R4"])
    assert record.record["not_shown"] == ["R11", "R15"]


def test_the_record_holds_when_it_is_checked_again(record, capsys):
    assert [verdict.rule for verdict in check_record(record.path.parent) if verdict.kept is False] == ["R4"]
    assert cli.main(["check", f"protocol={record.path}"]) == 1
    assert "broken    R4" in capsys.readouterr().out


@pytest.mark.parametrize(("key", "reason"), [("train.lr", "frozen"), ("strategy.er.memory_size", "frozen"),
                                             ("scenario.sizes", "frozen"), ("model", "frozen"), ("seed", "R9"),
                                             ("protocol", "frozen")])
def test_overrides_are_refused_by_name(key, reason):
    with pytest.raises(ConfigError, match=f"{key} cannot be given.*{reason}"):
        refuse_overrides(["tuned", key])


def test_the_command_line_refuses_them_all_at_once(tuned, capsys):
    assert cli.main(["evaluate", f"tuned={tuned}", "train.lr=1", "seed=3"]) == 2
    message = capsys.readouterr().err
    assert "train.lr cannot" in message and "seed cannot" in message


MUTATIONS = {
    "winner train.lr is 0.5, but trial": lambda made: made["winner"]["values"].update({"train.lr": 0.5}),
    "winner strategy.er.replay_batch_size is 7": lambda made: made["winner"]["values"].update(
        {"strategy.er.replay_batch_size": 7}),
    "base scenario.n_experiences is 5, but": lambda made: made["base"]["scenario"].update(n_experiences=5),
    "base scenario.sizes is": lambda made: made["base"]["scenario"].update(sizes=[3, 2]),
    "base model.hidden is": lambda made: made["base"]["model"].update(hidden=[16]),
    "study_hash": lambda made: made["base"]["train"].update(epochs=3),
    "configuration has hash": lambda made: made["configuration"].update(setting="task"),
    "a grid was changed": lambda made: made["space"]["train.lr"].append(0.5),
    "has the largest mean": lambda made: made["winner"].update(
        {name: made["trials"][1 - made["winner"]["trial"]][name] for name in ("trial", "values", "mean", "hash")}),
    "but its draw is": lambda made: [values.update({"train.lr": 0.001}) for values in
                                     (made["winner"]["values"], made["trials"][made["winner"]["trial"]]["values"])],
    "missing scenario_hash, trials": lambda made: [made.pop(name) for name in ("scenario_hash", "trials")],
    "has format 1, this clf reads 2": lambda made: made.update(format=1),
    "evaluate is \\['split_digits'\\], but search": lambda made: made.update(evaluate=["split_digits"]),
    "something in it was changed by hand": lambda made: made["data"].update(digits="0"),
}


@pytest.mark.parametrize("message", MUTATIONS)
def test_a_change_between_the_phases_is_named_before_anything_is_opened(tuned, tmp_path, message, monkeypatch):
    path = changed(tuned, tmp_path, MUTATIONS[message])
    monkeypatch.setattr(evaluation, "open_stream", lambda job: pytest.fail("a stream was opened"))
    with pytest.raises(ConfigError, match=message):
        evaluate(path, None, 1, "", QUIET)


def test_a_run_of_the_study_names_the_field_of_the_base(tuned):
    path = tuned.with_name("edited.yaml")
    path.write_text(tuned.read_text().replace("epochs: 1\n", "epochs: 2\n"))
    with pytest.raises(ConfigError, match=r"base train\.epochs is 2, but was tuned with 1"):
        read_tuned(path)
    path.unlink()


def test_the_evaluation_stream_is_opened_after_the_tuning_stream_passed(tuned, tmp_path, monkeypatch):
    phases, whole = [], evaluation.open_stream

    def watched(job):
        phases.append(job.phase)
        return whole(job)

    monkeypatch.setattr(evaluation, "open_stream", watched)
    evaluate(tuned, tmp_path, 1, "", QUIET, has_defaults=False)
    first = phases.index(Phase.EVALUATION)
    assert first > 0 and set(phases[:first]) == {Phase.TUNING}
    assert "R12" in json.loads((tmp_path / FILE).read_text())["broken"]


def test_an_older_version_is_a_note_and_is_recorded(tuned, tmp_path):
    path = changed(tuned, tmp_path, lambda made: made["environment"]["packages"].update(torch="1.0"), is_sealed=True)
    done = evaluate(path, None, 1, "", QUIET, has_defaults=False)
    assert any("torch was 1.0" in note for note in done.record["changed_since_tuning"])


def test_another_commit_or_source_of_a_plugin_is_a_note(tuned, tmp_path):
    def older(made):
        made["environment"]["git_commit"] = "0123456"
        made["code"]["strategy er"]["cl_framework.strategies.er"] = "another digest"

    notes = changes(read_tuned(changed(tuned, tmp_path, older, is_sealed=True)).made)
    assert any("code commit was 0123456" in note for note in notes)
    assert "the source of strategy er (cl_framework.strategies.er) has changed since tuning" in notes


def test_other_data_than_while_tuning_is_refused(tuned, tmp_path):
    path = changed(tuned, tmp_path, lambda made: made["data"].update(digits="0"), is_sealed=True)
    with pytest.raises(ConfigError, match=r"was tuned on .*digits.*0.*the data is now"):
        evaluate(path, None, 1, "", QUIET)


def test_a_run_that_diverges_in_phase_2_counts_as_chance_and_is_listed(tuned, tmp_path, monkeypatch):
    """Two experiences of 2 and 3 classes: guessing is right once in 2, then once in 5, so (1/2 + 1/5) / 2."""
    whole = evaluation.execute_all

    def diverging(jobs, *rest):
        summaries, _ = whole(jobs[:1], *rest)
        return summaries, [Failure(evaluation.label_of(jobs[1]), Diverged("the loss is not finite"))]

    monkeypatch.setattr(evaluation, "execute_all", diverging)
    (part,) = evaluate(tuned, tmp_path, 1, "", QUIET, has_defaults=False).record["evaluation"]
    assert part["chance"] == pytest.approx(0.35) and part["runs"][1]["value"] == pytest.approx(0.35)
    assert part["runs"][1]["failure"] == "the loss is not finite" and part["runs"][0]["failure"] is None


def test_phases_that_share_a_class_or_an_image_are_refused():
    one = fingerprint(Toy().open())
    assert fingerprint(Toy().open()).digest == one.digest != fingerprint(Toy(seed=1).open()).digest
    faults = overlap_faults(one, one, "toy")
    assert "shares 6 classes" in faults[0] and "images" in faults[1] and all("R1" in fault for fault in faults)


def test_another_scenario_of_the_same_data_is_refused(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "targets", lambda made: [evaluation.Target(
        scenario="split_digits", phase="tuning", flavour="")])
    with pytest.raises(ConfigError, match=r"shares 5 classes.*digits:0"):
        evaluate(tuned, tmp_path, 1, "", QUIET)


def test_another_shape_is_refused_by_field(tuned, tmp_path, monkeypatch):
    whole = evaluation.configuration_of

    def wider(made, job):
        return {**whole(made, job), **({"input_shape": [1, 9, 9]} if job.phase is Phase.EVALUATION else {})}

    monkeypatch.setattr(evaluation, "configuration_of", wider)
    with pytest.raises(ConfigError, match=r"split_digits has input_shape=\[1, 9, 9\], tuned with \[1, 8, 8\]"):
        evaluate(tuned, tmp_path, 1, "", QUIET)


def test_an_evaluation_that_was_stopped_goes_on(tuned, tmp_path, monkeypatch):
    whole, begun = evaluation.execute_all, []

    def stopped(jobs, *rest):
        begun.append(len(jobs))
        whole(jobs[:1], *rest)
        raise Stopped

    monkeypatch.setattr(evaluation, "execute_all", stopped)
    with pytest.raises(Stopped):
        evaluate(tuned, tmp_path, 1, "", QUIET, has_defaults=False)
    assert not (tmp_path / FILE).exists()
    (first,) = tmp_path.glob("evaluation/*/*/*/seed*/summary.json")
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(evaluation, "execute_all", whole)
    done = evaluate(tuned, tmp_path, 1, "", QUIET, has_defaults=False)
    assert first.stat().st_mtime_ns == before and done.record["evaluation"][0]["result"]["n"] == 2


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_record_edited_by_hand_is_found(record, tmp_path, is_sealed):
    made = json.loads(record.path.read_text())
    made["tuning"]["classes"][0] = "digits:9"
    (tmp_path / FILE).write_text(json.dumps(sealed(made) if is_sealed else made))
    broken = {verdict.rule for verdict in check_record(tmp_path) if verdict.kept is False}
    assert {"splits", "R1", "R5"} <= broken and ("digest" in broken) != is_sealed


def test_differences_name_fields_by_their_dotted_key():
    assert list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})) == [
        ("a.c", 2, 3), ("d", "absent", 4)]
