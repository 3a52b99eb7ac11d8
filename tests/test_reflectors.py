"""Reflectors: scripted edits, models behind an address that may fail, and texts that stay texts."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from cl_framework.api_reflector import ChatClient, Endpoint, ReflectorError
from cl_framework.errors import ConfigError
from cl_framework.reflectors import LanguageReflector, Trial, WithFallback, fenced, request
from cl_framework.scripted_reflector import OPERATORS, RANDOM, WORDINGS, ScriptedReflector

SEED = "Answer the question."
FAILED = [Trial(problem=f"{n} + 1", reply="?", reward=0.0, answer=f"<ans>{n + 1}</ans>",
                feedback=f"Wrong.\nRule: Write <ans>n</ans>.\nExpected: <ans>{n + 1}</ans>") for n in range(3)]
SECRET = "sk-very-secret-0123456789"


def _draws(seed=0):
    return torch.Generator().manual_seed(seed)


# scripted

def test_the_rule_is_the_one_that_remarks_tell():
    found = ScriptedReflector(["rule"]).reflect(SEED, FAILED, _draws())
    assert found.text == f"{SEED}\nWrite <ans>n</ans>." and found.note == "rule"
    assert ScriptedReflector(["rule"]).reflect(found.text, FAILED, _draws()) is None, "it is there already"


def test_without_a_rule_the_line_that_most_remarks_share_is_taken():
    trials = [Trial(problem="x", reply="", reward=0.0, feedback=f"Use capitals.\nItem {n} is wrong.") for n in range(3)]
    assert ScriptedReflector(["rule"]).reflect(SEED, trials, _draws()).text == f"{SEED}\nUse capitals."


def test_an_example_is_a_failed_problem_with_its_answer():
    texts = {ScriptedReflector(["example"]).reflect(SEED, FAILED, _draws(seed)).text for seed in range(20)}
    assert texts == {f"{SEED}\nQ: {n} + 1\nA: <ans>{n + 1}</ans>" for n in range(3)}
    passed = [Trial(problem="1", reply="2", reward=1.0, feedback="Right.", answer="2")]
    assert ScriptedReflector(["example", "rule"]).reflect(SEED, passed, _draws()) is None


def test_random_edits_read_no_remark():
    for seed in range(20):
        found = ScriptedReflector(RANDOM).reflect(f"{SEED}\none\ntwo", FAILED, _draws(seed))
        assert {*found.text.splitlines()} <= {"one", "two", *WORDINGS} and found.note in RANDOM


def test_each_operator_does_what_it_is_called():
    lines = [SEED, "one", "two"]
    deleted = ScriptedReflector(["delete"]).reflect("\n".join(lines), [], _draws()).text.splitlines()
    assert len(deleted) == 2 and {*deleted} < {*lines}
    moved = next(found.text for seed in range(9)
                 if (found := ScriptedReflector(["reorder"]).reflect("\n".join(lines), [], _draws(seed))))
    assert sorted(moved.splitlines()) == sorted(lines) and moved != "\n".join(lines)
    said = ScriptedReflector(["paraphrase"]).reflect("\n".join(lines), [], _draws()).text.splitlines()
    assert said[1:] == lines[1:] and said[0] in WORDINGS and said[0] != SEED
    assert ScriptedReflector(["delete"]).reflect("one", [], _draws()) is None


def test_the_same_draws_give_the_same_edit():
    first, second = (ScriptedReflector(OPERATORS).reflect(SEED, FAILED, _draws(7)) for _ in range(2))
    assert first == second


# texts

def test_a_fence_inside_a_proposal_survives():
    assert fenced("```\nUse\n```x```\nhere\n```") == "Use\n```x```\nhere"
    assert fenced("no fence at all") == "no fence at all" and fenced("") is None and fenced("``````") is None


def test_a_request_shows_prompt_problems_replies_and_remarks_and_no_reward():
    text = request(SEED, FAILED)
    assert all(part in text for part in (SEED, "0 + 1", "Rule: Write", "single sentences"))
    assert "anew" in request(SEED, FAILED, is_incremental=False)


# an endpoint

class _Server:
    """Answers chat completions with the statuses and bodies that it is given, one after the other."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, body, self.headers.get("Authorization")))
                status, headers, content = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *args):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _says(text, tokens=(10, 5)):
    return 200, {}, {"choices": [{"message": {"content": text}}],
                     "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("REFLECTOR_KEY", SECRET)
    return "REFLECTOR_KEY"


def _client(url, key, *, is_stopping=False, retries=3, **fields):
    endpoint = Endpoint(url=url, model="m", key=key, retries=retries, timeout=5.0, **fields)
    endpoint.check()
    waits = []
    return ChatClient(endpoint, is_stopping=is_stopping, sleep=waits.append), waits


def test_an_answer_is_read_and_paid_for(key):
    with _Server(_says("```\nBe brief.\n```")) as server:
        client, waits = _client(server.url, key, price=(2.0, 8.0))
        found = LanguageReflector(client.answer, "m").reflect(SEED, FAILED, _draws())
    assert found.text == "Be brief." and found.note == "m" and not waits
    (path, body, secret), = server.asked
    assert path == "/v1/chat/completions" and body["model"] == "m" and secret == f"Bearer {SECRET}"
    assert SEED in body["messages"][0]["content"]
    assert client.cost == pytest.approx((10 * 2 + 5 * 8) / 1e6)
    kept = client.state_dict()
    assert SECRET not in json.dumps(kept)
    other, _ = _client(server.url, key)
    other.load_state_dict(kept)
    assert other.state_dict() == kept


def test_a_busy_server_is_asked_again_after_the_pause_that_it_names(key):
    busy = (429, {"Retry-After": "7"}, {})
    with _Server(busy, (503, {}, {}), _says("fine")) as server:
        client, waits = _client(server.url, key)
        assert client.answer("?", _draws()) == "fine"
    assert waits == [7.0, 2.0] and client.n_requests == 3 and client.n_failures == 0


def test_a_pause_is_never_longer_than_a_minute(key):
    with _Server((429, {"Retry-After": "86400"}, {}), _says("fine")) as server:
        client, waits = _client(server.url, key)
        client.answer("?", _draws())
    assert waits == [60.0]


def test_a_refusal_is_not_repeated(key):
    with _Server((401, {}, {})) as server:
        client, waits = _client(server.url, key)
        assert client.answer("?", _draws()) is None
    assert client.n_requests == 1 and client.n_failures == 1 and not waits


@pytest.mark.parametrize("content", [b"not json", {}, {"choices": []}, {"choices": [{"message": {"content": None}}]},
                                     b"[" * 100_000, b"x" * (2**20 + 1), {"choices": "text"}])
def test_what_is_no_answer_is_none(key, content):
    with _Server((200, {}, content)) as server:
        client, waits = _client(server.url, key, retries=1)
        assert client.answer("?", _draws()) is None
    assert client.n_failures == 1 and len(waits) == 1


def test_a_redirection_is_not_followed(key):
    with _Server(_says("stolen")) as other, _Server((302, {"Location": other.url}, {})) as server:
        client, _ = _client(server.url, key)
        assert client.answer("?", _draws()) is None
    assert not other.asked


def test_a_failure_stops_where_that_is_asked_for_and_names_no_key(key, caplog):
    caplog.set_level(logging.DEBUG)
    client, waits = _client("http://127.0.0.1:9", key, is_stopping=True, retries=2)
    with pytest.raises(ReflectorError, match=r"reflector at 127\.0\.0\.1 gives no answer after 3 requests") as found:
        client.answer("?", _draws())
    assert waits == [1.0, 2.0] and SECRET not in str(found.value) + caplog.text
    assert "reflector_failure=fallback" in str(found.value)


def test_scripted_edits_take_over_where_there_is_no_answer(key):
    client, _ = _client("http://127.0.0.1:9", key, retries=0)
    both = WithFallback(LanguageReflector(client.answer, "m"), ScriptedReflector(["rule"]))
    assert both.reflect(SEED, FAILED, _draws()).note == "rule" and both.n_fallbacks == 1


@pytest.mark.parametrize(("fields", "words"), [
    ({"url": "http://example.com/v1"}, "must begin with https://"), ({"url": "file:///etc/passwd"}, "must begin with"),
    ({"url": "https://me:word@example.com"}, "must hold no password"), ({"model": ""}, "set reflector_model"),
    ({"key": "NO_SUCH_KEY"}, "NO_SUCH_KEY holds no key")])
def test_an_endpoint_that_cannot_work_is_refused_before_a_run(key, fields, words):
    with pytest.raises(ConfigError, match=words):
        Endpoint(**{"url": "https://example.com/v1", "model": "m", "key": key, **fields}).check()


@pytest.mark.parametrize("secret", ["", "  ", "two\nlines", "ключ"])
def test_a_key_that_is_none_is_refused_without_being_shown(monkeypatch, secret):
    monkeypatch.setenv("REFLECTOR_KEY", secret)
    with pytest.raises(ConfigError, match="REFLECTOR_KEY holds no key") as found:
        Endpoint(url="https://example.com/v1", model="m", key="REFLECTOR_KEY").check()
    assert not secret.strip() or secret not in str(found.value)


def test_no_key_is_needed_on_this_machine():
    Endpoint(url="http://localhost:8000/v1", model="m", key=None).check()
    with _Server(_says("fine")) as server:
        client, _ = _client(server.url, None)
        assert client.answer("?", _draws()) == "fine"
    assert server.asked[0][2] is None
