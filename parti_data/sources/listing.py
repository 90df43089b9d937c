"""Which files a source's path names: each is a split, in name order; no file is opened for it."""

import glob
from concurrent.futures import ThreadPoolExecutor

from parti_data.errors import SourceError
from parti_data.sources.pairs import SourceSplit
from parti_data.storage import digest_json, expand, file_marker, is_directory, is_glob, is_local, join

_MARKERS_AT_ONCE = 16


def list_splits(path: str, endings: tuple[str, ...], what: str) -> list[SourceSplit]:
    """Return a split for each file that a path, a directory or a glob names; raises SourceError where there is none.

    Of a directory, and of a glob that does not end in one of the `endings`, the files in it with these endings.
    """
    names_files = path.endswith(endings) and not _is_folder(path)
    folder = glob.escape(path) if is_glob(path) and _is_folder(path) else path
    patterns = [path] if names_files else [join(folder, f"*{ending}") for ending in endings]
    files = sorted({file for pattern in patterns for file in expand(pattern)})
    if not files:
        raise SourceError(f"{patterns[0]}: expected {what}, found none; check source.path")
    if strange := next((file for file in files if not _is_unicode(file)), None):
        raise SourceError(f"{path}: expected files named in UTF-8, found {strange!r}; rename it")
    with ThreadPoolExecutor(_MARKERS_AT_ONCE) as pool:  # an object store takes some 30 ms for each
        markers = list(pool.map(file_marker, files))
    return [SourceSplit(number, file, 0, 0, tuple(markers[number])) for number, file in enumerate(files)]


def _is_folder(path: str) -> bool:
    """Whether it is there as a folder, whose name may look like a glob; of a glob in a store that is not asked."""
    return (is_local(path) or not is_glob(path)) and is_directory(path)


def _is_unicode(name: str) -> bool:
    """Whether a name can be written: of a file whose name is no UTF-8 Python keeps the bytes in surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def digest_splits(splits: list[SourceSplit]) -> str:
    """Return a digest of which files there are, how large, and of what content where the storage says so."""
    return digest_json([[split.path, *split.marker] for split in splits])


def fixed_folder(path: str) -> str:
    """Return the deepest folder that all files lie in which a file's path or a glob can name."""
    folder = folder_of(path)
    while is_glob(folder):
        folder = folder_of(folder)
    return folder


def folder_of(path: str) -> str:
    """Return the folder of a file's path, empty where it names none."""
    folder = path.rpartition("/")[0]
    return folder + "/" if folder.endswith(":/") or (not folder and path.startswith("/")) else folder
