"""What is to be forgotten: images by key, rows by URL or by host; given one by one or a line each in a file.

A URL names a row whose address is the same but for the scheme, the host's case, its default port, a user and a
fragment. A host names all addresses of it and of its subdomains: example.com also img.example.com, not notexample.com.
The addresses of a row are its attributes whose name ends with url, whatever its case, but for a licence's, and its
source_key where that is a URL.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute

from parti_data.errors import ConfigError
from parti_data.rules import host_of
from parti_data.storage import digest_json, file_size, is_file, read_bytes

pc: Any = pyarrow.compute  # its functions are made when it is imported, where pyright sees none

MAX_LIST_BYTES = 256 << 20
MAX_URL_CHARS = 2048
"""Ledgers keep no more of a URL."""
_KEY = re.compile(r"[0-9a-f]{32}")
_HOST = re.compile(r"[^\s/:?#@]+\.[^\s/:?#@.]+")
_NETLOC = r"^\s*(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//(?P<netloc>[^/?#]*)"
_ADDRESS = r"(?i)url$"
_LICENCE = r"(?i)licen[cs]e"
_FEW = 32
"""So many hosts are looked for one by one; each costs a fiftieth of taking all addresses apart."""
_DEFAULT_PORTS = (None, 80, 443)


class Names(NamedTuple):
    """What names rows."""

    keys: frozenset[str]
    urls: dict[str, str]
    """As they were given, by what is compared of them."""
    hosts: frozenset[str]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.keys) + len(set(self.urls.values())) + len(self.hosts)

    @property
    def are_addresses(self) -> bool:
        """Whether any of them is to be looked for among addresses."""
        return bool(self.urls or self.hosts)

    def digest(self) -> str:
        """Return a digest that tells these names from others."""
        return digest_json([sorted(self.keys), sorted(self.urls), sorted(self.hosts)])

    def each(self) -> list[str]:
        """Return all of them in words."""
        words = {"key": self.keys, "url": set(self.urls.values()), "host": self.hosts}
        return [f"{kind} {name}" for kind, names in words.items() for name in sorted(names)]


def read_names(keys: Iterable[str], urls: Iterable[str], hosts: Iterable[str], lists: Iterable[str]) -> Names:
    """Return the names given one by one and those of list files; raises ConfigError for what is none, or for none."""
    given = [("key", key, f"--key {key}") for key in keys]
    given += [("url", url, f"--url {url}") for url in urls]
    given += [("host", host, f"--host {host}") for host in hosts]
    for path in lists:
        given += _read_list(path)
    found: dict[str, list[str]] = {"key": [], "url": [], "host": []}
    for kind, text, where in given:
        found[kind].append(_checked(kind, text.strip(), where))
    if not given:
        raise ConfigError("forget: expected what is to be forgotten, found none; give --key, --url, --host or --list")
    return Names(frozenset(found["key"]), _compared(found["url"]), frozenset(found["host"]))


def _compared(urls: list[str]) -> dict[str, str]:
    """Return the URLs by what is compared of them; of one that is too long for a ledger also what is kept of it."""
    return {comparable(part): url for url in urls for part in (url[:MAX_URL_CHARS], url)}


def _read_list(path: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, text and place of each line of a list file; empty lines and those that begin with # say nothing."""
    if not is_file(path):
        raise ConfigError(f"--list {path}: expected a file with a key, URL or host a line, found none; check the path")
    if (size := file_size(path)) > MAX_LIST_BYTES:
        raise ConfigError(f"--list {path}: expected at most {MAX_LIST_BYTES} bytes, found {size}; split it")
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"--list {path}: expected text in UTF-8, found {error}; save it as UTF-8") from None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield _kind_of(text), text, f"--list {path}, line {number}"


def _kind_of(text: str) -> str:
    if _KEY.fullmatch(text.lower()):
        return "key"
    return "url" if "//" in text else "host"


def _checked(kind: str, text: str, where: str) -> str:
    """Return a name as it is looked for; raises ConfigError."""
    if kind == "key":
        if not _KEY.fullmatch(text.lower()):
            raise ConfigError(f"{where}: expected a key of 32 hex digits as in the ledger, found {text!r}; correct it")
        return text.lower()
    if kind == "url":
        if not host_of(text):
            raise ConfigError(f"{where}: expected a URL like https://example.com/cat.jpg, found {text!r}; correct it")
        return text
    host = plain_host(text.strip("."))
    if not _HOST.fullmatch(host):
        raise ConfigError(f"{where}: expected a host such as example.com, found {text!r}; correct it")
    return host


def plain_host(host: str) -> str:
    """Return a host in lower case, in ASCII where it can be written so."""
    try:
        return host.lower().encode("idna").decode()
    except UnicodeError:
        return host.lower()


def comparable(url: str) -> str:
    """Return what is compared of a URL: its host, its port where it is no default, its path and its query."""
    try:
        parts = urlsplit(url.strip())
        port = "" if parts.port in _DEFAULT_PORTS else f":{parts.port}"
    except ValueError:
        return url
    query = f"?{parts.query}" if parts.query else ""
    return f"{plain_host(host_of(url))}{port}{parts.path or '/'}{query}"


class NamedRow(NamedTuple):
    """A row of a table, and the name that it has."""

    row: int
    name: str


def match_addresses(table: pa.Table, names: Names) -> Iterator[NamedRow]:
    """Yield the rows of a table (source_key, perhaps attributes) that a URL or a host names, once for each name."""
    wanted = {plain_host(host_of(url)) for url in names.urls.values()}
    rows, urls = _addresses(table)
    netlocs = pc.struct_field(pc.extract_regex(urls, _NETLOC), "netloc").dictionary_encode()
    maybe = pc.indices_nonzero(_may_be_of(netlocs.dictionary, wanted | names.hosts))
    hosts = {place: plain_host(host_of(f"//{netlocs.dictionary[place]}")) for place in maybe.to_pylist()}
    named = {place: found for place, host in hosts.items() if (found := _names_of(host, names.hosts))}
    places = {place for place, host in hosts.items() if host in wanted} | named.keys()
    if not places:
        return
    chosen = pc.indices_nonzero(pc.is_in(netlocs.indices, pa.array(sorted(places), netlocs.indices.type)))
    for entry in chosen.to_pylist():
        row = rows[entry].as_py()
        yield from (NamedRow(row, f"host {host}") for host in named.get(netlocs.indices[entry].as_py(), ()))
        if (url := names.urls.get(comparable(urls[entry].as_py()))) is not None:
            yield NamedRow(row, f"url {url}")


def _may_be_of(netlocs: pa.Array, hosts: Collection[str]) -> pa.Array:
    """Return which may be of one of the hosts: of a few hosts quickly, of many all."""
    if len(hosts) > _FEW:
        return pa.repeat(True, len(netlocs))
    found = pc.invert(pc.string_is_ascii(netlocs))
    for host in hosts:
        found = pc.or_(found, pc.match_substring(netlocs, host, ignore_case=True))
    return found


def _names_of(host: str, hosts: frozenset[str]) -> list[str]:
    """Return which of the hosts name a host: itself, and what it is a subdomain of."""
    labels = host.split(".")
    return [name for start in range(len(labels)) if (name := ".".join(labels[start:])) in hosts]


def _addresses(table: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Return the addresses of a table's rows, and the number of the row of each."""
    keys = table.column("source_key").combine_chunks()
    is_url = pc.fill_null(pc.match_substring(keys, "//"), False)
    rows, urls = [pc.indices_nonzero(is_url).to_numpy()], [keys.filter(is_url)]
    if "attributes" in table.column_names:
        attributes: Any = table.column("attributes").combine_chunks()
        starts = attributes.offsets.to_numpy()
        part = slice(int(starts[0]), int(starts[-1]))
        names, texts = attributes.keys[part], attributes.items[part]
        is_address = pc.and_not(pc.match_substring_regex(names, _ADDRESS), pc.match_substring_regex(names, _LICENCE))
        parents = np.repeat(np.arange(len(attributes)), np.diff(starts))
        rows.append(parents[is_address.to_numpy(zero_copy_only=False)])
        urls.append(texts.filter(is_address))
    return pa.array(np.concatenate(rows).astype(np.int64)), pa.concat_arrays(urls)
