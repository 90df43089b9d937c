"""Members of tars that we write: without time or owner, so that the same content gives the same bytes."""

import io
import tarfile


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a member to an open tar; return where its bytes begin."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
    return archive.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
