"""Decode every file of a directory, each with 64 MB of memory and 2 s more than there was; print the reasons."""

import resource
import sys
from pathlib import Path

from hostile_images import LIMITS, SRGB

from parti_data.images import Drop, decode

MORE_BYTES, MORE_S = 64 << 20, 2


def allow_a_little_more() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + MORE_S, resource.RLIM_INFINITY))


def main() -> None:
    assert SRGB
    for path in sorted(Path(sys.argv[1]).iterdir()):
        image = path.read_bytes()
        allow_a_little_more()
        found = decode(image, LIMITS)
        print(found.reason if isinstance(found, Drop) else "")


if __name__ == "__main__":
    main()
