"""Tars put together header by header, so that any field can lie."""

import tarfile

BLOCK = 512
REGULAR, LINK, SYMLINK, DEVICE, DIRECTORY, SPARSE = b"0", b"1", b"2", b"3", b"5", b"S"
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, SOLARIS = b"L", b"K", b"x", b"g", b"X"


def header(name: bytes, size: int | bytes, kind: bytes = REGULAR, linkname: bytes = b"", rest: bytes = b"") -> bytes:
    """A header whose checksum fits; `size` as a number or as the 12 bytes of its field; `rest` from byte 345 on."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(
        name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0" + b" " * 8 + kind
        + linkname[:100].ljust(100, b"\0") + b"ustar\00000" + bytes(32) + bytes(32) + b"0000000\0" * 2
    )  # fmt: skip
    block = bytearray((bytes(block) + rest).ljust(BLOCK, b"\0"))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def member(name: bytes, content: bytes = b"", kind: bytes = REGULAR, **options) -> bytes:
    return header(name, len(content), kind, **options) + padded(content)


def record(keyword: bytes, value: bytes) -> bytes:
    """A pax record, its length counted in."""
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def pax(*records: bytes, kind: bytes = PAX) -> bytes:
    return member(b"pax", b"".join(records), kind)


def base256(number: int) -> bytes:
    """A size as GNU tar writes what octal digits cannot: the first bit set, then two's complement."""
    return number.to_bytes(12, "big", signed=True) if number < 0 else b"\x80" + number.to_bytes(11, "big")


END = bytes(2 * BLOCK)
PAIR = member(b"a.png", b"image") + member(b"a.txt", b"text")
FOUND = {"a": (b"image", ["text"])}
SPARSE_MAP = b"".join(b"%011o\0" % number for number in (0, 5) * 4) + b"\1" + b"%011o\0" % (1 << 30)

READ: dict[str, tuple[bytes, dict[str, tuple[bytes | None, list[str]]]]] = {
    "plain": (PAIR + END, FOUND),
    "absolute name": (member(b"/etc/passwd.png", b"image") + member(b"/etc/passwd.txt", b"text") + END,
                      {"/etc/passwd": (b"image", ["text"])}),
    "climbing name": (member(b"../../../etc/passwd.png", b"image") + member(b"../../../etc/passwd.txt", b"text") + END,
                      {"../../../etc/passwd": (b"image", ["text"])}),
    "url as a name": (member(b"file:///etc/passwd.png", b"i") + member(b"file:///etc/passwd.txt", b"t") + END,
                      {"file:///etc/passwd": (b"i", ["t"])}),
    "name that is not UTF-8": (member(b"\xff\xfe.png", b"i") + member(b"\xff\xfe.txt", b"t") + END,
                               {"\\udcff\\udcfe": (b"i", ["t"])}),
    "empty name": (PAIR + member(b"", b"x") + END, FOUND | {"": (None, [])}),
    "name of dots": (PAIR + member(b"...", b"x") + END, FOUND | {"": (None, [])}),
    "links": (member(b"l.png", kind=LINK, linkname=b"/etc/passwd") + member(b"s.png", kind=SYMLINK, linkname=b"/etc/x")
              + PAIR + END, FOUND),
    "device": (member(b"d.png", kind=DEVICE) + PAIR + END, FOUND),
    "fifo": (member(b"f.png", kind=b"6") + PAIR + END, FOUND),
    "directory": (member(b"d.png/", kind=DIRECTORY) + PAIR + END, FOUND),
    "unknown type": (member(b"u.png", b"x" * 700, kind=b"Z") + PAIR + END, FOUND),
    "GNU long name": (member(b"././@LongLink", b"n" * 300 + b".png\0", LONG_NAME) + member(b"cut", b"i")
                      + member(b"././@LongLink", b"n" * 300 + b".txt\0", LONG_NAME) + member(b"cut", b"t") + END,
                      {"n" * 300: (b"i", ["t"])}),
    "pax name": (pax(record(b"path", "nä.png".encode())) + member(b"cut", b"i")
                 + pax(record(b"path", "nä.txt".encode())) + member(b"cut", b"t") + END, {"nä": (b"i", ["t"])}),
    "pax name that is not UTF-8": (pax(record(b"path", b"\xff.png")) + member(b"cut", b"i")
                                   + pax(record(b"path", b"\xff.txt")) + member(b"cut", b"t") + END,
                                   {"\\udcff": (b"i", ["t"])}),
    "pax size": (pax(record(b"size", b"5")) + header(b"a.png", 0) + padded(b"image") + member(b"a.txt", b"text") + END,
                 FOUND),
    "pax of Solaris": (pax(record(b"size", b"5"), kind=SOLARIS) + header(b"a.png", 0) + padded(b"image")
                       + member(b"a.txt", b"text") + END, FOUND),
    "pax attributes of 60 kB": (pax(record(b"SCHILY.xattr.user.x", b"x" * 60_000)) + PAIR + END, FOUND),
    "pax times that are none": (pax(record(b"mtime", b"never"), record(b"uid", b"me")) + PAIR + END, FOUND),
    "pax charset that is none": (pax(record(b"hdrcharset", b"\xff\xff")) + PAIR + END, FOUND),
    "global path": (pax(record(b"path", b"all.png"), record(b"size", b"1"), kind=PAX_GLOBAL) + PAIR + END, FOUND),
    "10,000 global headers": (b"".join(
        pax(record(b"k%d" % n, b"v" * 90), kind=PAX_GLOBAL) + member(b"d", kind=DIRECTORY) for n in range(10_000)
    ) + PAIR + END, FOUND),
    "size in base 256": (header(b"a.png", base256(5)) + padded(b"image") + member(b"a.txt", b"text") + END, FOUND),
}  # fmt: skip
"""Odd tars that are read, and the pairs in them."""

REFUSED: dict[str, tuple[bytes, str]] = {
    "size below zero": (header(b"a.png", base256(-512)) + PAIR + END, "a member of -512 bytes"),
    "size far below zero": (PAIR + header(b"b.png", base256(-(2**62))) + END, "a member of -4611686018427387904 bytes"),
    "size beyond all": (header(b"a.png", base256(2**87)) + PAIR + END, "cut short in member 'a.png'"),
    "size just beyond the file": (member(b"a.txt", b"t") + header(b"a.png", 9000) + END, "cut short in member 'a.png'"),
    "directory of 8 GB": (header(b"d/", 8**11 - 1, DIRECTORY) + PAIR + END, "cut short in member 'd'"),
    "pax size below zero": (pax(record(b"size", b"-1024")) + PAIR + END, "a member of -1024 bytes"),
    "pax size of 5,000 digits": (pax(record(b"size", b"9" * 5000)) + PAIR + END, "after 0 pairs"),
    "pax size that is none": (pax(record(b"size", b"many")) + PAIR + END, "after 0 pairs"),
    "pax size beyond the file": (pax(record(b"size", b"9" * 30)) + PAIR + END, "cut short in member 'a.png'"),
    "pax header of 8 GB": (header(b"pax", 8**11 - 1, PAX) + PAIR + END, "an extended header of 8589934591 bytes"),
    "global header of 8 GB": (header(b"pax", 8**11 - 1, PAX_GLOBAL) + PAIR + END, "an extended header of 8589934591"),
    "long name of 8 GB": (header(b"n", 8**11 - 1, LONG_NAME) + PAIR + END, "an extended header of 8589934591 bytes"),
    "long link of 2**80": (header(b"n", base256(2**80), LONG_LINK) + PAIR + END, "an extended header of 120892581961"),
    "long name below zero": (header(b"n", base256(-1), LONG_NAME) + PAIR + END, "a member of -1 bytes"),
    "long name of 70 kB": (member(b"n", b"n" * 70_000, LONG_NAME) + PAIR + END, "of 70000 bytes, at most 65536,"),
    "1,000 long names": (member(b"n", b"x", LONG_NAME) * 1000 + PAIR + END, "over 8 extended headers before one"),
    "1,000 pax headers": (pax(record(b"path", b"x")) * 1000 + PAIR + END, "over 8 extended headers before one"),
    "pax record of length 0": (pax(b"0 path=x\n") + PAIR + END, "a pax header that is broken"),
    "pax record too long": (pax(b"99 path=x\n") + PAIR + END, "a pax header that is broken"),
    "pax records that overlap": (pax(b"0" * 30_000 + b"1 path=x\n") + PAIR + END, "a pax header that is broken"),
    "pax of 60,000 digits": (pax(b"1" * 60_000 + b" hdrcharset=x\n") + PAIR + END, "a pax header that is broken"),
    "pax header before nothing": (PAIR + pax(record(b"path", b"x")) + END, "after 1 pairs"),
    "pax header at the end of the file": (PAIR + pax(record(b"path", b"x")), "after 1 pairs"),
    "sparse": (header(b"a.png", 512, SPARSE, rest=bytes(41) + SPARSE_MAP) + bytes(4096) + END, "a sparse member"),
    "pax sparse 0.1": (pax(record(b"GNU.sparse.map", b"0,1" * 999)) + PAIR + END, "a sparse member"),
    "pax sparse 1.0": (pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0"),
                           record(b"GNU.sparse.realsize", b"9" * 30)) + PAIR + END, "a sparse member"),
    "checksum broken": (b"b" + PAIR[1:] + END, "after 0 pairs"),
    "second checksum broken": (PAIR[:1024] + b"b" + PAIR[1025:] + END, "found no header and no end mark at byte 1024"),
    "size that is no number": (header(b"a.png", b"x" * 12) + END, "after 0 pairs"),
    "no end mark": (PAIR, "found no header and no end mark"),
    "a member twice": (PAIR + PAIR + END, "found 'a.png' twice"),
    "a name of many lines twice": (member(b"\n\r\x1b[2J.png", b"x") * 2 + END, "found '\\n\\r\\x1b[2J.png' twice"),
    "a long name twice": ((member(b"n", b"n" * 4000, LONG_NAME) + member(b"x", b"x")) * 2 + END, "…' twice"),
    "a name of 5,000 bytes": (member(b"n", b"n" * 5000, LONG_NAME) + member(b"x", b"x") + END, "at most 4096 char"),
    "a hole of 1 MB, as a stopped download leaves it": (PAIR + bytes(1 << 20) + PAIR + END, "an end mark at byte"),
    "two tars joined": (PAIR + END + PAIR + END, "an end mark at byte"),
    "a hole to the end": (PAIR + bytes(1 << 20), "an end mark at byte"),
    "no captions": (member(b"a.png", b"image") + END, "found 1 pairs without one"),
}  # fmt: skip
"""Tars that are refused, and what the message says."""

assert tarfile.BLOCKSIZE == BLOCK
