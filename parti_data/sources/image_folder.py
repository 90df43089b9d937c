"""Images that a table names, read below one folder and nowhere else: the names come from strangers."""

import errno
import os
import posixpath
import re

from parti_data.errors import SourceError
from parti_data.sources.pairs import Location
from parti_data.storage import absolute, is_directory, is_local, read_range, regular_file_size

_LEADS_ELSEWHERE = re.compile(r"[/\\~]|[A-Za-z]:|.*(://|\0)", re.DOTALL)
"""A name that starts at the root, at a home or at a drive, or that is a URL or holds a NUL."""
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_MISSING_CODES = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def refuse_no_folder(root: str) -> None:
    """Raise SourceError where there is no such folder: all of its images would be missing."""
    if not is_directory(root) and not root.startswith(("http://", "https://")):  # a web server tells of no folders
        raise SourceError(f"{root}: expected the folder of the images, found none; check source.root")


class ImageFolder:
    """The images below a folder, by their names relative to it.

    A name that leads out of the folder (absolute, a drive, a URL, `..`, a symbolic link), that of no regular file, and
    that of a file that may not be read, all name nothing.
    """

    def __init__(self, root: str):
        self.root = absolute(root).removesuffix("/")
        self._real_root = os.path.realpath(self.root or "/") if is_local(root) else None

    def read(self, name: str, max_bytes: int) -> tuple[Location, bytes] | None:
        """Return where an image lies and its bytes, cut off one byte after the limit; None where there is none."""
        path = self._path(name)
        try:
            size = regular_file_size(path) if path and self._is_inside(path) else None
            if path is None or size is None:
                return None
            return Location(path, 0, size), read_range(path, 0, min(size, max_bytes + 1))
        except OSError as error:
            if isinstance(error, _MISSING) or error.errno in _MISSING_CODES:
                return None
            raise

    def fetch(self, location: Location) -> bytes:
        """Return an image again, as large as its location says; raises SourceError where it has gone."""
        name = location.path.removeprefix(f"{self.root}/")
        found = self.read(f"./{name}", max(location.size - 1, 0))  # a file's own name may begin with a tilde
        if found is None or location.path != found[0].path:
            raise SourceError(
                f"{location.path}: expected the image that filter read, found none in {self.root}; put it back or run "
                "filter again"
            )
        return found[1]

    def _path(self, name: str) -> str | None:
        """Return the path that a name stands for, by the name alone; None where it leads out of the folder."""
        if not name or _LEADS_ELSEWHERE.match(name) or ".." in re.split(r"[/\\]", name) or not _is_unicode(name):
            return None
        if "::" in name and "://" in self.root:  # would chain URLs
            return None
        return f"{self.root}/{posixpath.normpath(name)}"

    def _is_inside(self, path: str) -> bool:
        """Whether a path is below the root behind all symbolic links; storages other than disks have none."""
        if self._real_root is None:
            return True
        return os.path.realpath(path).startswith(os.path.join(self._real_root, ""))


def _is_unicode(text: str) -> bool:
    """Whether the text has no half pairs, of which no file name can be made."""
    return text.isprintable() or text.encode("utf-8", "replace").decode() == text
