"""What a simulated LLM says about any text; without asking it, too, for reports of simulated runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datashunt.simulator import answers as answers_file
from datashunt.simulator.answers import Answers
from datashunt.simulator.belief import Said, Voice, say
from datashunt.simulator.options import Options


class Teacher:
    """Says labels; the same ones whichever way it is asked."""

    def __init__(self, options: Options, answers: Answers) -> None:
        self._voice = Voice(options.accuracy, options.sample, options.seed)
        self._answers = answers

    def says(self, text: str, offered: Sequence[str]) -> Said:
        """Its answer about a text, given these labels (see `belief.say`)."""
        key = answers_file.key(text)
        known = self._answers.find(key)
        return say(self._voice, key, known.distribution if known else None, self._answers.labels, offered)

    def id_of(self, text: str) -> str | None:
        """The id that the file has for this text; None if it does not have the text."""
        known = self._answers.find(answers_file.key(text))
        return known.id if known else None


def teacher(options: Options, labels: Sequence[str]) -> Callable[[str], str]:
    """The label that a simulation with these options gives to the full prompt over `labels`.

    Raises:
        UsageError: the file of answers cannot be read.
    """
    known = Teacher(options, answers_file.read(options.answers))
    return lambda text: known.says(text, labels).label
