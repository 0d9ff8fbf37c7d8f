"""Signatures of messages: who has no key makes no work and no receipts. Pure."""

from __future__ import annotations

import hmac
from typing import Literal

from pydantic import SecretStr

HEADER = "datashunt-signature"
RECEIPT = "datashunt.receipt"
"""What a receipt is signed as, since it is no task."""
Fault = Literal["unsigned", "wrong_signature"]


class Signer:
    """HMAC-SHA256 over a message's task and body, in hexadecimal digits.

    A message that is sent again by somebody who has read it stays valid, and does no harm: a wake-up names rows, whose
    state decides, and a submission its id, under which it is counted once.
    """

    def __init__(self, keys: SecretStr) -> None:
        """The first of the keys signs; messages signed by any of them are taken. Commas stand between them."""
        self._keys = [key.encode() for key in split(keys)]

    def sign(self, task: str, body: bytes) -> str:
        """The signature of a body that is sent to this task."""
        return _digest(self._keys[0], task, body)

    def fault(self, task: str, body: bytes, signature: object) -> Fault | None:
        """Why a message must not be used, or None."""
        if signature is None:
            return "unsigned"
        given = str(signature).encode(errors="replace")
        valid = [hmac.compare_digest(_digest(key, task, body).encode(), given) for key in self._keys]
        return None if any(valid) else "wrong_signature"


def split(keys: SecretStr) -> list[str]:
    """The single keys of a setting."""
    return [key.strip() for key in keys.get_secret_value().split(",")]


def _digest(key: bytes, task: str, body: bytes) -> str:
    return hmac.new(key, task.encode() + b"\n" + body, "sha256").hexdigest()
