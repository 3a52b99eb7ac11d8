"""A reflector behind an address: any endpoint that speaks OpenAI's chat completions.

The key comes from the environment and is written nowhere: in no file, no record, no error. Answers are text of bounded
size; an address is https, or http on this machine alone; and no redirection is followed, as the key would go with it.
Busy or failing servers are asked again after 1, 2, 4 ... seconds, or when they say so (RFC 9110, section 10.2.3).
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.parse import urlsplit

import torch

from cl_framework.errors import ClfError, ConfigError

_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_MOST_BYTES = 2**20
_LONGEST_WAIT = 60.0
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class ReflectorError(ClfError):
    """The reflection model cannot be reached."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model answers, and how long to wait for it.

    Attributes:
        url: the address up to and without `/chat/completions`.
        model: the model's name there.
        key: the environment variable that holds the key; None where none is needed.
        timeout: seconds until one request counts as failed.
        retries: further requests after a failed one.
        max_tokens: of an answer.
        limit: the name under which that is sent.
        price: of a million tokens, in and out, in whatever money.
    """

    url: str
    model: str
    key: str | None = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 4
    max_tokens: int = 1024
    limit: str = "max_completion_tokens"
    price: tuple[float, float] = (0.0, 0.0)

    def check(self) -> None:
        """Refuse what cannot work, before a run begins.

        Raises:
            ConfigError: the address, the model or the key is missing, or the address is not safe.
        """
        faults = []
        if self.key is not None and not _NAME.fullmatch(self.key):
            raise ConfigError("reflector_key is the name of an environment variable in capitals, such as "
                              "OPENAI_API_KEY, and what was given is none; put the key itself into that variable, "
                              "never into a command")
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
            faults.append("the reflector's address must begin with https://, or with http alone on this machine; "
                          "set reflector_url")
        if parts.query or parts.fragment:
            faults.append("the reflector's address ends before its ? or #; a key belongs into the environment variable "
                          "that reflector_key names")
        if parts.username or parts.password:
            faults.append("the reflector's address must hold no password; put the key into the environment variable "
                          "that reflector_key names")
        if not self.model:
            faults.append("reflector=api asks a model by its name; set reflector_model")
        secret = os.environ.get(self.key, "") if self.key else "none"
        if not secret.isascii() or not secret.isprintable() or not secret.strip():
            faults.append(f"the environment variable {self.key} holds no key for the reflector; set it, or "
                          "reflector_key=null where none is needed")
        if faults:
            raise ConfigError(faults)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage,
                         newurl: str) -> None:
        """Follow nothing."""


class ChatClient:
    """Asks an endpoint, and counts what that costs.

    Args:
        endpoint: where, and how long.
        is_stopping: a failure stops the run; else there is no answer.
        sleep: waits so many seconds.

    Attributes:
        n_requests, n_failures: requests sent, and questions that got no answer.
        tokens_in, tokens_out: as the endpoint counts them.
    """

    def __init__(self, endpoint: Endpoint, *, is_stopping: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        self._endpoint, self._is_stopping, self._sleep = endpoint, is_stopping, sleep
        direct = [urllib.request.ProxyHandler({})] if endpoint.url.startswith("http:") else []
        self._opener = urllib.request.build_opener(_NoRedirect, *direct)
        self.n_requests = self.n_failures = self.tokens_in = self.tokens_out = 0

    @property
    def cost(self) -> float:
        """Of all answers, in the money of the price."""
        price = self._endpoint.price
        return (self.tokens_in * price[0] + self.tokens_out * price[1]) / 1e6

    def answer(self, text: str, generator: torch.Generator) -> str | None:
        """The model's reply to a text; None where there is none and the run goes on.

        Raises:
            ReflectorError: there is none, and that stops the run.
        """
        reason = ""
        for attempt in range(self._endpoint.retries + 1):
            self.n_requests += 1
            try:
                return self._read(self._ask(text))
            except urllib.error.HTTPError as error:
                reason = f"it answers with status {error.code}"
                wait = _wait(error.headers.get("Retry-After"), attempt)
                error.close()
                if error.code not in _AGAIN:
                    break
            except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
                reason, wait = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}", _wait(None, attempt)
            if attempt < self._endpoint.retries:
                self._sleep(wait)
        self.n_failures += 1
        if self._is_stopping:
            raise ReflectorError(f"the reflector at {urlsplit(self._endpoint.url).hostname} gives no answer after "
                                 f"{attempt + 1} requests ({reason}); give the same command again to go on from the "
                                 "last checkpoint, or set reflector_failure=fallback")
        return None

    def _ask(self, text: str) -> bytes:
        own = self._endpoint
        body = {"model": own.model, "messages": [{"role": "user", "content": text}], own.limit: own.max_tokens}
        headers = {"Content-Type": "application/json"}
        if own.key:
            headers["Authorization"] = f"Bearer {os.environ.get(own.key, '')}"
        request = urllib.request.Request(f"{own.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=own.timeout) as reply:
            content: bytes = reply.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"its answer is longer than {_MOST_BYTES} bytes")
        return content

    def _read(self, content: bytes) -> str:
        answer: Any = json.loads(content)
        used = answer.get("usage") or {}
        self.tokens_in += _count(used.get("prompt_tokens"))
        self.tokens_out += _count(used.get("completion_tokens"))
        text = answer["choices"][0]["message"]["content"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("its answer holds no text; a model that reasons may need more reflection_tokens")
        return text.encode(errors="replace").decode()

    def state_dict(self) -> dict[str, int]:
        """What was counted."""
        return {"n_requests": self.n_requests, "n_failures": self.n_failures, "tokens_in": self.tokens_in,
                "tokens_out": self.tokens_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting."""
        self.n_requests, self.n_failures = state["n_requests"], state["n_failures"]
        self.tokens_in, self.tokens_out = state["tokens_in"], state["tokens_out"]


def _wait(asked: str | None, attempt: int) -> float:
    """Seconds until the next request: what the server asked for, else 1, 2, 4 ...; never more than a minute."""
    seconds = float(asked) if asked is not None and asked.isdecimal() and len(asked) < 6 else 2.0**attempt
    return min(seconds, _LONGEST_WAIT)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0

