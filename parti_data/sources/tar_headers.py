"""The headers of a stranger's tar, read within bounds: what tarfile would read at any size it is told is refused first.

Everything that cannot be read is tarfile's ReadError; the reader of the tar says where.
"""

import re
import tarfile
from typing import Any, Self

MAX_HEADER_BYTES = 64 << 10
"""Of one pax header or GNU long name; paths end at 4,096 bytes on every system, extended attributes at 64 KiB."""
MAX_HEADERS_A_MEMBER = 8
"""Extended headers before one member; tools write two at most, and each is one more call deep."""
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_RECORD = re.compile(rb"([1-9]\d{0,6}) ([^=\n]{1,256})=")
"""The beginning of a pax record: its length in bytes and its keyword. Source: POSIX.1-2017, pax, extended header."""


class BoundedTarInfo(tarfile.TarInfo):
    """A member whose extended headers are few and small, and whose data lie in one piece."""

    def _proc_member(self, tar: Any) -> Self:
        """Take the header; tarfile's own entry for subclasses."""
        if self.size < 0:
            raise tarfile.ReadError(f"a member of {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse member (write the tar without --sparse)")
        if self.type in _EXTENDED:
            tar.num_headers += 1
            if self.size > MAX_HEADER_BYTES:
                raise tarfile.ReadError(f"an extended header of {self.size} bytes, at most {MAX_HEADER_BYTES},")
            if tar.num_headers > MAX_HEADERS_A_MEMBER:
                raise tarfile.ReadError(f"over {MAX_HEADERS_A_MEMBER} extended headers before one member")
        else:
            tar.num_headers = 0
        return super()._proc_member(tar)  # type: ignore[misc]

    def _proc_pax(self, tar: Any) -> Self:
        """Apply the name and the size that a pax header states to the member after it; all else is of no use here.

        A global header is passed over: neither of the two can be meant for all members.
        """
        content = tar.fileobj.read(self._block(self.size))[: self.size]  # type: ignore[attr-defined]
        fields = read_pax_records(content)
        try:
            member = self.fromtarfile(tar)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if self.type == tarfile.XGLTYPE:
            return member
        if any(keyword.startswith(b"GNU.sparse.") for keyword in fields):
            raise tarfile.ReadError("a sparse member (write the tar without --sparse)")
        if b"path" in fields:
            member.name = fields[b"path"].decode("utf-8", "surrogateescape").rstrip("/")
        if b"size" in fields:
            member.size = int(fields[b"size"])
            if member.size < 0:
                raise tarfile.ReadError(f"a member of {member.size} bytes")
            if member.isreg():
                tar.offset = member.offset_data + self._block(member.size)  # type: ignore[attr-defined]
        member.offset = self.offset
        return member


class BoundedTarFile(tarfile.TarFile):
    """A tar read through such members."""

    tarinfo = BoundedTarInfo
    num_headers = 0
    """Extended headers since the last member."""


def read_pax_records(content: bytes) -> dict[bytes, bytes]:
    """Return the value of each keyword of a pax header; raises tarfile's ReadError where a record does not fit."""
    fields: dict[bytes, bytes] = {}
    place = 0
    while place < len(content) and content[place]:
        found = _RECORD.match(content, place)
        end = place + int(found[1]) if found else 0
        if not found or not found.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise tarfile.ReadError("a pax header that is broken")
        fields[found[2]] = content[found.end() : end - 1]
        place = end
    return fields
