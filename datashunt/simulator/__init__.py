"""An LLM endpoint that is none: it speaks OpenAI's protocol and answers from a file.

It says so everywhere: model names (`simulation/…`), fingerprint, headers, start line. Texts of the file get
the file's label distribution; any other text gets a pseudo-random one that depends on the text (and the
seed) only, so the endpoint works on every text and repeats itself exactly. The item is read from the user
message, `{"item": TEXT, …}`, the offered labels from the JSON schema's enum; nothing in a text is obeyed
(unless it is to be gullible), and a prior in the prompt changes nothing.

    options    what it is told            answers  the file              draws    keyed hashes (pure)
    belief     which label it says (pure)     teacher  belief and file joined
    gullible   whom a naive one obeys (pure)
    tokens     words and log-probabilities (pure)      window   rate limits and peaks (pure)
    messages   requests and replies       bodies   JSON read, or a 400   ledger   what it served, to the token
    chat, decisions, systemone            a question read and a reply built, in each protocol
    files, batch, batches                 the Files and Batches APIs
    faults     which fault is due (pure)  spoil    what it makes of a reply (pure)
    asking     questions answered, limits           endpoint  routes, key, faults, booking
    wire       HTTP/1.1 on asyncio        server   `Simulator` in a thread, `run` in the foreground
"""

from __future__ import annotations

from datashunt.simulator.chat import Chat, completion_of, parse_chat
from datashunt.simulator.messages import Request, Response, error, throttled
from datashunt.simulator.options import Options
from datashunt.simulator.server import Simulator, run

__all__ = [
    "Chat",
    "Options",
    "Request",
    "Response",
    "Simulator",
    "completion_of",
    "error",
    "parse_chat",
    "run",
    "throttled",
]
