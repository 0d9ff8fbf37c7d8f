"""Real sentences for the demo, each rated by at least 20 people. Imports errors only.

Source: C.J. Hutto and E. Gilbert, *VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text*, ICWSM 2014. The data ship in the source package of vaderSentiment 3.3.2 (MIT), so a package
registry is all that is needed. They are fetched at run time and are no part of datashunt.
"""

from __future__ import annotations

import hashlib
import html
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datashunt.errors import UsageError

PACKAGE = "vaderSentiment==3.3.2"
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SPEC = Path(__file__).with_name("sentiment.yaml")
"""The demo's classifier file."""

LABELS = ("negative", "neutral", "positive")
NEUTRAL = 0.5
"""Largest absolute mean rating that is neutral: what rounding to the scale's own steps makes 0. Of the cuts
from 0.05 to 1 it is the one at which the raters' most frequent sign agrees best (reviews 94%, tweets 93%)."""

_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_PARTS = (("amazon", "amazonReviewSnippets"), ("tweet", "tweets"))


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence with its ratings.

    Attributes:
        id: `amazon-…` or `tweet-…`, unique. text: HTML entities decoded; no two sentences have the same.
        mean: mean rating as published, -4 (extremely negative) to 4.
        ratings: the single ratings, whole numbers of the same scale. For 196 tweets their mean is not the
            published one, yet `label_of` says the same of both.
    """

    id: str
    text: str
    mean: float
    ratings: tuple[int, ...]


def sentences(cache_dir: Path) -> list[Sentence]:
    """All 7,897 sentences: Amazon product reviews, then tweets. Fetched once, then read from `cache_dir`.

    Raises:
        UsageError: they cannot be fetched; the message says how to bring them by hand.
    """
    return read(fetch(cache_dir))


def label_of(mean: float) -> str:
    """The right label of a mean rating: neutral within ±0.5."""
    if abs(mean) <= NEUTRAL:
        return "neutral"
    return "positive" if mean > 0 else "negative"


def spread(ratings: Sequence[int]) -> dict[str, float]:
    """Share of the raters who chose each label; a rater who says 0 says neutral."""
    signs = [(rating > 0) - (rating < 0) for rating in ratings]
    return {label: signs.count(sign) / len(signs) for sign, label in zip((-1, 0, 1), LABELS, strict=True)}


def write_answers(rated: Iterable[Sentence], path: Path) -> None:
    """Write the answers of the simulated LLM: one object a line, with id, text and probabilities."""
    with path.open("w", encoding="utf-8") as file:
        for sentence in rated:
            answer = {"id": sentence.id, "text": sentence.text, "probabilities": spread(sentence.ratings)}
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")


def fetch(cache_dir: Path, download: Callable[[Path], None] | None = None) -> Path:
    """The source package, verified by hash; downloaded only if the cache has no good copy.

    Args:
        cache_dir: made if it is not there.
        download: puts the archive into a folder; default: pip, with whatever registry it is set up for.

    Raises:
        UsageError: it cannot be downloaded, or is not the file we know.
    """
    archive = cache_dir / ARCHIVE
    if archive.is_file() and _is_known(archive):
        return archive
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            (download or _pip_download)(Path(folder))
            fresh = Path(folder) / ARCHIVE
            if not fresh.is_file() or not _is_known(fresh):
                raise UsageError(_by_hand(archive, f"what came is not the file with SHA-256 {SHA256}"))
            fresh.replace(archive)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(_by_hand(archive, _last_words(error))) from None
    return archive


def read(archive: Path) -> list[Sentence]:
    """Read the sentences out of the source package; nothing is unpacked to disk.

    A text that comes again is left out: one text can have only one answer.
    """
    found: dict[str, Sentence] = {}
    with tarfile.open(archive, "r:gz") as outer, _open(outer, _INNER) as inner:
        for prefix, part in _PARTS:
            rated = _rows(inner, f"hutto_ICWSM_2014/{part}_anonDataRatings.txt")
            ratings = {row[0]: tuple(json.loads(row[-1])) for row in rated}
            for key, mean, text in _rows(inner, f"hutto_ICWSM_2014/{part}_GroundTruth.txt"):
                plain = _plain(text)
                if plain not in found:
                    found[plain] = Sentence(f"{prefix}-{key}", plain, float(mean), ratings[key])
    return list(found.values())


def _pip_download(folder: Path) -> None:
    """Let pip bring the source package, and check its hash before anything in it runs."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
    ]
    command += ["--no-deps", "--no-binary", "vaderSentiment", "--require-hashes", "-r", str(wanted)]
    subprocess.run([*command, "-d", str(folder)], check=True, capture_output=True, text=True, timeout=300)


def _open(outer: tarfile.TarFile, member: str) -> tarfile.TarFile:
    return tarfile.open(fileobj=_member(outer, member), mode="r:gz")


def _rows(inner: tarfile.TarFile, member: str) -> list[list[str]]:
    with _member(inner, member) as file:
        return [line.split("\t") for line in file.read().decode("utf-8-sig").splitlines() if line]


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name) if name in archive.getnames() else None
    if file is None:
        raise UsageError(f"expected the source package of {PACKAGE}, but it holds no {name}")
    return file


def _plain(text: str) -> str:
    """Entities decoded; some were encoded twice (`&amp;#38;`)."""
    return html.unescape(html.unescape(text)).strip()


def _is_known(archive: Path) -> bool:
    return hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256


def _by_hand(archive: Path, why: str) -> str:
    return (
        f"the demo's sentences cannot be fetched from the package registry: {why}. Where there is one, run"
        f" `pip download --no-deps --no-binary vaderSentiment {PACKAGE}`, then put {ARCHIVE} into"
        f" {archive.parent}"
    )


def _last_words(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    lines = said.strip().splitlines() if isinstance(said, str) else []
    return lines[-1] if lines else str(error)
