"""Bundles under an fsspec URL: published with a hash of every file, verified whenever they are fetched.

A bundle's folder is immutable. Its `manifest.json` is written last, so a half-written bundle has none; the
content hash is the SHA-256 of the manifest, which holds the SHA-256 of every other file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from datashunt.errors import BundleError

MANIFEST = "manifest.json"
FORMAT = 1
NOT_OF_FOLDERS = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP}
"""What file systems say that do not sync directories, or not for us."""
SCRATCH = "tmp"
ABANDONED_S = 86_400.0
"""A download that lies in the cache for so long, unfinished, is of a process that was killed."""
COPIES = 20
"""Fetched bundles that stay in the cache whenever they were used last; another is fetched again when it is needed."""


class Registry:
    """Publishes and fetches bundles."""

    def __init__(self, url: str, cache_dir: Path) -> None:
        """Connects lazily.

        Args:
            url: where bundles lie: a folder, or any fsspec URL such as s3://bucket/models.
            cache_dir: where fetched bundles are kept on this host, one folder for each content hash.
        """
        self._url = url.rstrip("/")
        self._cache = cache_dir / "bundles"

    def publish(self, folder: Path, key: str) -> tuple[str, str]:
        """Copy a bundle's folder to `key` below the registry; returns its URI and content hash.

        On this host's disks it is there to stay when this returns, also after a power cut.

        Raises:
            BundleError: it cannot be written.
        """
        uri = f"{self._url}/{key}"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
        document = json.dumps({"format": FORMAT, "files": manifest}, indent=1, sort_keys=True).encode()
        try:
            system, root = fsspec.core.url_to_fs(uri)
            for path in files:
                target = f"{root}/{path.relative_to(folder).as_posix()}"
                system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                system.put_file(str(path), target)
            system.pipe_file(f"{root}/{MANIFEST}", document)
            if isinstance(system, LocalFileSystem):
                _keep(Path(root), Path(fsspec.core.url_to_fs(self._url)[1]))
        except (OSError, ImportError, ValueError) as error:
            raise BundleError(f"the bundle cannot be written to {uri}: {error}") from error
        return uri, hashlib.sha256(document).hexdigest()

    def discard(self, key: str) -> int:
        """Remove all bundles whose keys begin so: those that nobody will ever name. Returns how many there were.

        Raises:
            BundleError: they cannot be removed.
        """
        place = f"{self._url}/{key}"
        try:
            system, start = fsspec.core.url_to_fs(place)
            folder = start.rsplit("/", 1)[0]
            listed = system.ls(folder, detail=False, refresh=True) if system.exists(folder) else []
            found = [one for one in listed if str(one).rstrip("/").startswith(start)]
            for one in found:
                system.rm(one, recursive=True)
        except (OSError, ImportError, ValueError) as error:
            raise BundleError(f"what was begun at {place} cannot be removed: {error}") from error
        return len(found)

    def remove(self, uri: str) -> bool:
        """Remove the files of a bundle; whether there were any.

        Raises:
            BundleError: they cannot be removed.
        """
        try:
            system, root = fsspec.core.url_to_fs(uri)
            there = bool(system.exists(root))
            if there:
                system.rm(root, recursive=True)
        except (OSError, ImportError, ValueError) as error:
            raise BundleError(f"the bundle at {uri} cannot be removed: {error}") from error
        return there

    def fetch(self, uri: str, content_hash: str) -> Path:
        """A local folder with the files that were published, their hashes verified at every call.

        A cached copy that was altered or cut short is fetched again.

        Raises:
            BundleError: it is missing, cut short or altered.
        """
        target = self._cache / content_hash
        self._cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _intact(target, content_hash):
                self._download(uri, content_hash, target)
            os.utime(target)
        return target

    def digests(self, folder: Path, content_hash: str) -> dict[str, str]:
        """SHA-256 of each file of a bundle by its name, as it was published; the hash vouches for them.

        Args:
            folder: where it was fetched to.
            content_hash: the bundle's.

        Raises:
            BundleError: the folder was altered since.
        """
        try:
            return _files((folder / MANIFEST).read_bytes(), str(folder), content_hash)
        except OSError as error:
            raise BundleError(f"the bundle in {folder} cannot be read: {error}") from error

    def _tidy(self) -> None:
        """Remove what killed processes left, and copies that nobody has fetched for a day, but for the newest ones."""
        used: list[tuple[float, Path]] = []
        for place in self._cache.iterdir():
            with suppress(OSError):  # another process removes it, too
                if place.is_dir():
                    used.append((place.stat().st_mtime, place))
        used.sort(reverse=True)
        copies = [place for _, place in used if not place.name.startswith(SCRATCH)]
        for at, place in used:
            if time.time() - at > ABANDONED_S and place not in copies[:COPIES]:
                shutil.rmtree(place, ignore_errors=True)

    def _download(self, uri: str, content_hash: str, target: Path) -> None:
        self._tidy()
        scratch = Path(tempfile.mkdtemp(dir=self._cache, prefix=SCRATCH))
        try:
            system, root = fsspec.core.url_to_fs(uri)
            document = system.cat_file(f"{root}/{MANIFEST}")
            for name, digest in _files(document, uri, content_hash).items():
                path = scratch / name
                path.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(f"{root}/{name}", str(path))
                if _digest(path) != digest:
                    raise BundleError(f"{uri}/{name} is not the file that was published: roll back or distil again")
            (scratch / MANIFEST).write_bytes(document)
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        except (OSError, ImportError, ValueError) as error:
            raise BundleError(f"the bundle at {uri} cannot be read: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _keep(folder: Path, above: Path) -> None:
    """Have the disk hold a folder's files and directories, and their names in the directories up to the one above."""
    names = [one for one in folder.parents if one == above or above in one.parents]
    for path in [*folder.rglob("*"), folder, *names, above.parent]:
        try:
            _sync(path)
        except OSError as error:
            if not (path.is_dir() and error.errno in NOT_OF_FOLDERS):
                raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _intact(folder: Path, content_hash: str) -> bool:
    try:
        files = _files((folder / MANIFEST).read_bytes(), str(folder), content_hash)
        return all(_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, BundleError):
        return False


def _files(document: bytes, uri: str, content_hash: str) -> dict[str, str]:
    if hashlib.sha256(document).hexdigest() != content_hash:
        raise BundleError(f"{uri}/{MANIFEST} is not the one that was published: roll back or distil again")
    manifest: dict[str, Any] = json.loads(document)
    if manifest["format"] > FORMAT:
        raise BundleError(
            f"{uri}/{MANIFEST} has format {manifest['format']}, this release reads up to {FORMAT}:"
            " upgrade datashunt here"
        )
    return dict(manifest["files"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
