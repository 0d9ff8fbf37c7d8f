"""Bundles under an fsspec URL: what is published is what is fetched, or it is an error."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import fsspec
import pytest

from datashunt.errors import BundleError
from datashunt.registry import Registry

FILES = {"model.safetensors": b"\x00" * 5_000, "bundle.json": b"{}", "sub/vocab.txt": "wörter".encode()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "trained"
    for name, content in FILES.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


@pytest.fixture(params=["folder", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = str(tmp_path / "models") if request.param == "folder" else f"memory://{tmp_path.name}"
    return Registry(url, tmp_path / "cache")


def spoil(uri: str, name: str, content: bytes | None) -> None:
    system, root = fsspec.core.url_to_fs(uri)
    if content is None:
        system.rm(f"{root}/{name}")
    else:
        system.pipe_file(f"{root}/{name}", content)


def test_what_is_published_is_what_is_fetched(registry: Registry, folder: Path) -> None:
    uri, content_hash = registry.publish(folder, "sentiment/1")
    fetched = registry.fetch(uri, content_hash)
    assert {name: (fetched / name).read_bytes() for name in FILES} == FILES
    manifest = (fetched / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == content_hash


def test_the_same_files_have_the_same_hash_wherever_they_lie(registry: Registry, folder: Path) -> None:
    one, two = registry.publish(folder, "a/1"), registry.publish(folder, "b/2")
    assert one[1] == two[1]
    assert one[0] != two[0]
    (folder / "bundle.json").write_bytes(b"{ }")
    assert registry.publish(folder, "a/3")[1] != one[1]


@pytest.mark.parametrize("name", ["model.safetensors", "sub/vocab.txt", "manifest.json"])
@pytest.mark.parametrize("content", [b"other", b"", None])
def test_a_file_that_is_altered_cut_short_or_missing_is_refused(
    registry: Registry, folder: Path, name: str, content: bytes | None
) -> None:
    uri, content_hash = registry.publish(folder, "sentiment/1")
    spoil(uri, name, content)
    with pytest.raises(BundleError, match=r"not the|cannot be read"):
        registry.fetch(uri, content_hash)


def test_a_refused_bundle_leaves_nothing_behind(registry: Registry, folder: Path, tmp_path: Path) -> None:
    uri, content_hash = registry.publish(folder, "sentiment/1")
    spoil(uri, "bundle.json", b"other")
    with pytest.raises(BundleError):
        registry.fetch(uri, content_hash)
    assert not [path for path in (tmp_path / "cache" / "bundles").iterdir() if path.is_dir()]
    spoil(uri, "bundle.json", FILES["bundle.json"])
    assert registry.fetch(uri, content_hash).is_dir()


def test_another_bundle_at_the_same_place_is_refused(registry: Registry, folder: Path) -> None:
    uri, first = registry.publish(folder, "sentiment/1")
    (folder / "bundle.json").write_bytes(b"{ }")
    _, second = registry.publish(folder, "sentiment/1")
    with pytest.raises(BundleError, match="not the one that was published"):
        registry.fetch(uri, first)
    assert registry.fetch(uri, second).is_dir()


def test_a_manifest_of_a_newer_format_asks_for_an_upgrade(registry: Registry, folder: Path) -> None:
    uri, _ = registry.publish(folder, "sentiment/1")
    newer = b'{"format": 2, "files": {}}'
    spoil(uri, "manifest.json", newer)
    with pytest.raises(BundleError, match=r"format 2, this release reads up to 1: upgrade datashunt here"):
        registry.fetch(uri, hashlib.sha256(newer).hexdigest())


def test_the_digests_of_a_bundle_are_those_of_its_files_and_the_hash_vouches_for_them(
    registry: Registry, folder: Path
) -> None:
    uri, content_hash = registry.publish(folder, "sentiment/1")
    fetched = registry.fetch(uri, content_hash)
    expected = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert registry.digests(fetched, content_hash) == expected
    manifest = fetched / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"bundle", b"bungle"))
    with pytest.raises(BundleError, match="not the one that was published"):
        registry.digests(fetched, content_hash)
    manifest.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        registry.digests(fetched, content_hash)


def test_what_is_published_in_a_folder_is_on_its_disk_before_anybody_names_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.add(os.fstat(number).st_ino) or fsync(number))
    models = tmp_path / "models"
    Registry(str(models), tmp_path / "cache").publish(folder, "sentiment/1")
    assert (models / "sentiment/1/manifest.json").exists()
    paths = [tmp_path, models, *models.rglob("*")]
    assert [path for path in paths if path.stat().st_ino not in synced] == []


@pytest.mark.parametrize(
    ("number", "of_folders", "refused"),
    [(errno.EINVAL, True, False), (errno.EIO, True, True), (errno.EIO, False, True)],
)
def test_a_disk_that_does_not_hold_a_bundle_is_an_error_and_one_that_syncs_no_folders_is_none(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, of_folders: bool, refused: bool
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    registry = Registry(f"file://{tmp_path}/models", tmp_path / "cache")
    with pytest.raises(BundleError, match="cannot be written") if refused else nullcontext():
        registry.publish(folder, "sentiment/1")


def test_what_a_killed_download_left_is_removed_after_a_day(registry: Registry, folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "bundles"
    for name, age_s in (("tmp_old", 90_000), ("tmp_now", 3_600)):
        (cache / name).mkdir(parents=True)
        (cache / name / "bundle.json").write_text("{")
        os.utime(cache / name, (time.time() - age_s,) * 2)
    fetched = registry.fetch(*registry.publish(folder, "sentiment/1"))
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == sorted([fetched.name, "tmp_now"])


def test_a_fetched_bundle_is_served_without_the_registry(registry: Registry, folder: Path) -> None:
    uri, content_hash = registry.publish(folder, "sentiment/1")
    fetched = registry.fetch(uri, content_hash)
    for name in (*FILES, "manifest.json"):
        spoil(uri, name, None)
    assert registry.fetch(uri, content_hash) == fetched


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_an_altered_cached_copy_is_fetched_again(registry: Registry, folder: Path, name: str) -> None:
    uri, content_hash = registry.publish(folder, "sentiment/1")
    fetched = registry.fetch(uri, content_hash)
    (fetched / name).write_bytes(b"other")
    again = registry.fetch(uri, content_hash)
    assert (again / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_processes_that_fetch_at_once_get_one_whole_copy(registry: Registry, folder: Path) -> None:
    uri, content_hash = registry.publish(folder, "sentiment/1")
    with ThreadPoolExecutor(8) as pool:
        fetched = set(pool.map(lambda _: registry.fetch(uri, content_hash), range(8)))
    assert len(fetched) == 1
    assert {name: (next(iter(fetched)) / name).read_bytes() for name in FILES} == FILES


def test_an_unknown_kind_of_url_is_an_error_of_ours(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written"):
        Registry("no-such-scheme://models", tmp_path / "cache").publish(folder, "a/1")


def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder")
    with pytest.raises(BundleError, match="cannot be written"):
        Registry(str(tmp_path / "models"), tmp_path / "cache").publish(folder, "a/1")


def test_what_cannot_be_discarded_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"what was begun at no-such-scheme://models/a cannot be removed"):
        Registry("no-such-scheme://models", tmp_path / "cache").discard("a")


def test_what_was_published_under_a_key_is_discarded_and_its_neighbours_stay(registry: Registry, folder: Path) -> None:
    gone = [registry.publish(folder, f"sentiment/1-{end}") for end in ("a", "b")]
    kept = [registry.publish(folder, key) for key in ("sentiment/11-a", "other/1-a")]
    assert registry.discard("sentiment/1-") == 2
    assert registry.discard("sentiment/1-") == 0
    assert registry.discard("nobody/1-") == 0
    for uri, content_hash in kept:
        registry.fetch(uri, content_hash)
    for uri, _ in gone:
        system, root = fsspec.core.url_to_fs(uri)
        assert not system.exists(root)


def test_removed_files_are_gone_and_removing_them_again_removes_nothing(registry: Registry, folder: Path) -> None:
    one, other = registry.publish(folder, "a/1"), registry.publish(folder, "a/11")
    assert registry.remove(one[0])
    assert not registry.remove(one[0])
    with pytest.raises(BundleError, match="cannot be read"):
        registry.fetch(*one)
    assert registry.fetch(*other)


def test_the_cache_keeps_the_copies_used_last_and_those_of_a_day(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datashunt.registry.COPIES", 2)
    registry = Registry(str(tmp_path / "models"), tmp_path / "cache")

    def published(n: int) -> tuple[str, str]:
        (folder / "bundle.json").write_text(f'{{"n": {n}}}')
        return registry.publish(folder, f"a/{n}")

    made = [published(n) for n in range(5)]
    places = [registry.fetch(*one) for one in made[:4]]
    for age, place in zip((5, 4, 3, 0), places, strict=True):
        days_ago = time.time() - age * 86_400
        os.utime(place, (days_ago, days_ago))
    registry.fetch(*made[4])
    assert [place.exists() for place in places] == [False, False, True, True]
    assert registry.fetch(*made[0]).exists()
