"""Ways to spoil an input: bytes, words, and trees of plain data. Everything follows from a `random.Random`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, float("inf"), float("-inf"), float("nan"), "",
    "x", "er", "=1+1", "@SUM(A1)", "[red]", "[/x]", "[link=file:///etc]", "a|b", "<script>", "\x1b[2J", "\u202e", "..",
    "../../x", "/etc/passwd", "json:loads", "no_module:X", "\0", "é" * 300, [], {}, [[]], [None], [1, "a"], {"": {}},
    {"name": []}, [[[[[[]]]]]], [0.1] * 40)


def spoiled_bytes(content: bytes, draws: Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four changes of some bytes."""
    made = bytearray(content)
    for _ in range(draws.randint(1, 4)):
        kind, at = draws.randrange(9), draws.randrange(len(made) + 1)
        if kind == 0 and made:
            made[at % len(made)] ^= 1 << draws.randrange(8)
        elif kind == 1:
            del made[at:]
        elif kind == 2:
            del made[at:at + draws.randint(1, 64)]
        elif kind == 3:
            made[at:at] = draws.randbytes(draws.randint(1, 16))
        elif kind == 4:
            size = draws.choice((1, 2, 4, 8))
            number = draws.choice(_NUMBERS) % 2 ** (8 * size)
            made[at:at + size] = number.to_bytes(size, draws.choice(("big", "little")))
        elif kind == 5:
            made[at:at] = made[at:at + draws.randint(1, 256)]
        elif kind == 6 and others:
            other = draws.choice(others)
            cut = draws.randrange(len(other) + 1)
            made[at:] = other[cut:]
        elif kind == 7:
            head = draws.randrange(min(len(made), 256) + 1)  # headers are where the decisions are
            made[head:head + 1] = draws.randbytes(1)
        else:
            made[at:at] = draws.choice((b"\0" * 40, b"[" * 300, b"{" * 300, b"9" * 5000, b"\xff\xfe", b"&a [*a]"))
    return bytes(made)


def spoiled_tree(tree: Any, draws: Random) -> Any:
    """One to four changes in plain data: a value replaced, left out, doubled or moved."""
    made = copy.deepcopy(tree)
    for _ in range(draws.randint(1, 4)):
        places = list(_places(made))
        if not places:
            return draws.choice(_VALUES)
        owner, key = draws.choice(places)
        kind = draws.randrange(5)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[draws.choice(("x", "name", "", "seed", key * 2 if isinstance(key, str) else "y"))] = owner[key]
        elif kind == 2:
            other, place = draws.choice(places)
            owner[key] = copy.deepcopy(_at(other, place))
        elif kind == 3 and isinstance(owner[key], str):
            owner[key] = _spoiled_text(owner[key], draws)
        else:
            owner[key] = copy.deepcopy(draws.choice(_VALUES))
    return made


def _spoiled_text(text: str, draws: Random) -> str:
    at = draws.randrange(len(text) + 1)
    return text[:at] + draws.choice(("", "x", "|", "\n", "[red]", "\x1b[31m", "'", '"', "..", "/", "\u2028")) + \
        text[at + draws.randint(0, 3):]


def _at(owner: Any, key: Any) -> Any:
    try:
        return owner[key]
    except (KeyError, IndexError):
        return None


def _places(tree: Any) -> Any:
    """Every place in a tree: its owner and key."""
    left = [tree]
    while left:
        owner = left.pop()
        items = owner.items() if isinstance(owner, dict) else enumerate(owner) if isinstance(owner, list) else ()
        for key, value in items:
            yield owner, key
            if isinstance(value, dict | list):
                left.append(value)
