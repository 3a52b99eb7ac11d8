"""A digest of the whole content of a record, kept inside it: a slip of the hand is noticed.

It shows no forgery: whoever edits can also seal. Files of JSON and of YAML give the same digest for the same content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest_of(record: Mapping[str, Any]) -> str:
    """A digest of the whole content but the digest itself.

    >>> digest_of({"seeds": {10: 0.5, 9: 0.25}}) == digest_of({"seeds": {"9": 0.25, "10": 0.5}, "digest": "x"})
    True
    """
    plain = json.loads(json.dumps({name: value for name, value in record.items() if name != "digest"}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest."""
    return {**record, "digest": digest_of(record)}
