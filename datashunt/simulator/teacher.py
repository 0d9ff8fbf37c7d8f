"""What a simulated LLM would say about any text, without asking it: for reports of simulated runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datashunt.simulator import answers
from datashunt.simulator.belief import Voice, say
from datashunt.simulator.options import Options


def teacher(options: Options, labels: Sequence[str]) -> Callable[[str], str]:
    """The label that a simulation with these options gives to the full prompt over `labels`.

    Raises:
        UsageError: the file of answers cannot be read.
    """
    known = answers.read(options.answers)
    voice = Voice(options.accuracy, options.sample, options.seed)

    def says(text: str) -> str:
        key = answers.key(text)
        found = known.find(key)
        return say(voice, key, found.distribution if found else None, known.labels, labels).label

    return says
