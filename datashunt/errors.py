"""The errors a user can meet. Imports nothing of datashunt.

    DatashuntError                  something a sentence can explain; exit code 1
    ├── UsageError                  the call itself is wrong; exit code 2
    │   ├── SettingsError           a DATASHUNT_* setting is missing or wrong
    │   ├── SpecError               a classifier file is wrong
    │   ├── UnknownClassifier       no classifier has this name
    │   ├── CertificateError        a promise that cannot be made, or answers that cannot prove one
    │   └── SubmissionError         a whole submission is refused
    ├── QueueFull                   as many items are queued as may be; exit code 4
    ├── StoreError                  PostgreSQL cannot be reached, or is not migrated
    ├── BrokerError                 the broker cannot be reached
    ├── BundleError                 a bundle is missing, altered, or of other labels
    ├── ModelError                  a small model cannot be loaded or trained
    │   ├── LessonError             these answers teach nothing, or training on them diverged
    │   └── ModelBroken             one that scored scores nothing any more: a new process may
    │       └── ModelStarved        there is no memory for any text
    ├── EmbeddedError               an embedded server does not start or stop
    └── LLMError                    a call brought no usable answer
        ├── LLMThrottled            429: wait, nothing was used up
        ├── LLMUnavailable          no connection, a timeout, 5xx: try again later
        ├── LLMStopped              nothing will work until a person acts: the lane pauses
        │   ├── LLMUnauthorized     bad key, no permission, no credit
        │   └── LLMNotFound         no such model, or no such API at this address
        ├── LLMRejected             the endpoint will never take this request
        ├── LLMUnusable             a paid reply that names no offered label
        └── LLMNotAsked             a batch ended before it came to this request: nothing was used up

Every message is one sentence or two: what happened, to which item or setting, and what to do.
"""

from __future__ import annotations

import ssl
from typing import Any


class DatashuntError(Exception):
    """Base of all errors that datashunt raises on purpose."""

    exit_code = 1


class UsageError(DatashuntError):
    """The caller asked for something that cannot be."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing or wrong; the message names it."""


class SpecError(UsageError):
    """A classifier file is wrong; the message names field, value found and value expected."""


class UnknownClassifier(UsageError):
    """No classifier of this name has been applied."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no classifier named {name!r}: apply its file first (datashunt classifier apply FILE)"
        )


class CertificateError(UsageError):
    """A target, its δ or the answers that should prove it are out of range or contradict each other."""


class SubmissionError(UsageError):
    """A whole submission is refused."""


class QueueFull(DatashuntError):
    """As many items of a classifier are queued as may be: nothing was stored, send it again later."""

    exit_code = 4


class StoreError(DatashuntError):
    """PostgreSQL cannot be used."""


class BrokerError(DatashuntError):
    """The broker cannot be used."""


class BundleError(DatashuntError):
    """A bundle is missing, altered, or belongs to other labels."""


class ModelError(DatashuntError):
    """A small model cannot be loaded, run or trained."""


class LessonError(ModelError):
    """What there is to learn from does not do: other answers may."""


class ModelBroken(ModelError):
    """A small model that scored, or its device, scores nothing any more: a new process may."""


class ModelStarved(ModelBroken):
    """There is no memory for any of several texts: none of them is to blame."""


class EmbeddedError(DatashuntError):
    """An embedded server does not start or stop."""


class LLMError(DatashuntError):
    """A call brought no usable answer.

    Attributes:
        kind: short stable name of what went wrong, stored with the call.
        http_status: status of the reply, or None when there was none.
    """

    def __init__(self, message: str, *, kind: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.http_status = http_status


class LLMThrottled(LLMError):
    """The endpoint said 429.

    Attributes:
        retry_after_s: seconds to wait before the next request with this key.
    """

    def __init__(self, message: str, *, retry_after_s: float, kind: str = "throttled") -> None:
        super().__init__(message, kind=kind, http_status=429)
        self.retry_after_s = retry_after_s


class LLMUnavailable(LLMError):
    """No connection, a timeout or a server error: the same request may work later.

    Attributes:
        may_be_billed: True when the request was sent and no reply says that it was not served.
    """

    def __init__(self, message: str, *, kind: str, http_status: int | None = None, may_be_billed: bool = False) -> None:
        super().__init__(message, kind=kind, http_status=http_status)
        self.may_be_billed = may_be_billed


class LLMStopped(LLMError):
    """Whatever is asked, nothing will work until a person acts."""


class LLMUnauthorized(LLMStopped):
    """The key is wrong or has no permission or quota."""


class LLMNotFound(LLMStopped):
    """The endpoint has no such model, or no such API at this address (404)."""


class LLMRejected(LLMError):
    """The endpoint refuses this request for good (400, 413, 422).

    Attributes:
        fits: the share of the prompt that the model has room for, if that is why and the endpoint said so.
    """

    def __init__(self, message: str, *, kind: str, http_status: int | None = None, fits: float | None = None) -> None:
        super().__init__(message, kind=kind, http_status=http_status)
        self.fits = fits


class LLMNotAsked(LLMError):
    """A batch ended before it came to this request, which was not served and costs nothing."""


class LLMUnusable(LLMError):
    """A paid reply that names no offered label: refusal, cut short, invalid JSON, or another label.

    Attributes:
        usage: what the reply says it used (items.Usage, which this lowest layer cannot name), or None.
        model: the model that the reply names, or "".
        fingerprint: its system fingerprint, or "".
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        http_status: int | None = None,
        usage: Any = None,
        model: str = "",
        fingerprint: str = "",
    ) -> None:
        super().__init__(message, kind=kind, http_status=http_status)
        self.usage = usage
        self.model = model
        self.fingerprint = fingerprint


def install(extra: str) -> str:
    """What to do where the libraries of an extra are missing; they come with datashunt's own folder, not an index."""
    return f'install the extra {extra}: in datashunt\'s folder, pip install -c constraints.txt ".[{extra}]"'


def tls_fault(error: BaseException | None) -> str | None:
    """Why a server's certificate is not trusted, or TLS not spoken, if that is behind an error; holds no secret."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"no TLS with it: {error.reason or type(error).__name__}"
        error = error.__cause__ or error.__context__
    return None
