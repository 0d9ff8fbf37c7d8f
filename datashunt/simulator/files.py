"""Files as the Files API keeps them, in memory and bounded. Imports its siblings only."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from datashunt.simulator.messages import Refused, Request, Response, error

MAX_STORED = 1024 * 1024 * 1024
"""Bytes of all files together."""

MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Stored:
    """One file."""

    id: str
    name: str
    purpose: str
    created: int
    content: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The file as a file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class Files:
    """All files. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._files: dict[str, Stored] = {}

    def add(self, name: str, purpose: str, content: bytes) -> Stored:
        """Keep a file, whether there is room or not: what a batch brought is not thrown away."""
        file = Stored(f"file-simulation-{uuid.uuid4().hex}", name, purpose, int(time.time()), content)
        self._files[file.id] = file
        return file

    def find(self, id_: str) -> Stored:
        """The file with this id.

        Raises:
            Refused: there is none.
        """
        if id_ not in self._files:
            raise Refused(error(404, f"there is no file {id_}", param="id"))
        return self._files[id_]

    def upload(self, request: Request) -> Response:
        """Keep the file of a form with `purpose` batch.

        Raises:
            Refused: the form has no such file, or there is no room for it.
        """
        form = _form(request)
        name, content = form.get("file", ("", b""))
        purpose = form.get("purpose", ("", b""))[1]
        if "file" not in form or purpose != b"batch":
            param = "purpose" if "file" in form else "file"
            raise Refused(error(400, "expected a form with file, and purpose batch", param=param))
        stored = sum(len(file.content) for file in self._files.values())
        if stored + len(content) > MAX_STORED or len(self._files) >= MAX_FILES:
            limit = f"at most {MAX_FILES} files of {MAX_STORED} bytes together"
            raise Refused(error(400, f"no room: {limit}; delete some", code="storage_limit_exceeded"))
        return Response(200, self.add(name, "batch", content).to_json())

    def retrieve(self, request: Request) -> Response:
        """What is known of a file."""
        return Response(200, self.find(id_in(request)).to_json())

    def content(self, request: Request) -> Response:
        """The bytes of a file."""
        content = self.find(id_in(request)).content
        return Response(200, {}, {"Content-Type": "application/octet-stream"}, content=content)

    def delete(self, request: Request) -> Response:
        """Forget a file."""
        id_ = self.find(id_in(request)).id
        del self._files[id_]
        return Response(200, {"id": id_, "object": "file", "deleted": True})

    def listing(self, request: Request) -> Response:
        """The files, newest first."""
        newest = [file.to_json() for file in reversed(self._files.values())]
        return page(newest, request, default=10_000, most=10_000)


def id_in(request: Request) -> str:
    """The id in `/v1/files/ID` and the like."""
    return request.path.split("/")[3]


def page(entries: list[dict[str, Any]], request: Request, *, default: int, most: int) -> Response:
    """The part of a list that `after` and `limit` of a request select.

    Raises:
        Refused: one of them is no such value.
    """
    limit, after = request.query.get("limit", str(default)), request.query.get("after")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= most):
        raise Refused(error(400, f"limit: expected a number from 1 to {most}", param="limit"))
    ids = [entry["id"] for entry in entries]
    if after is not None and after not in ids:
        raise Refused(error(400, f"after: there is no {after}", param="after"))
    start = 0 if after is None else ids.index(after) + 1
    data = entries[start : start + int(limit)]
    body = {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + len(data) < len(entries),
    }
    return Response(200, body)


def _form(request: Request) -> dict[str, tuple[str, bytes]]:
    """The parts of a multipart form: name → (file name or "", content)."""
    kind = Message()
    kind["Content-Type"] = request.headers.get("content-type", "")
    boundary = kind.get_boundary()
    if kind.get_content_type() != "multipart/form-data" or not boundary:
        raise Refused(error(400, "expected a multipart/form-data body"))
    form = {}
    # Each part stands between two boundaries, with a line end after the first and before the second one.
    for part in (b"\r\n" + request.body).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = BytesHeaderParser().parsebytes(head)
        name = headers.get_param("name", header="content-disposition")
        if isinstance(name, str):
            form[name] = (headers.get_filename() or "", content)
    return form
