"""Check a finished directory: its files against the manifest, its ledger against the counts, its tokens row by row and
against the tokenizers that are said to have made them.
"""

from collections import Counter
from collections.abc import Iterator

from parti_data.figures import say_bytes
from parti_data.ledger import KEPT, OUTCOMES, PairDirectory
from parti_data.manifest import Manifest, ShardRecord, read_manifest
from parti_data.progress import show_progress
from parti_data.quality import read_run_quality
from parti_data.storage import file_size, is_file, join, sha256_file
from parti_data.threads import map_in_threads
from parti_data.token_directory import STAGES, TokenDirectory, open_token_directory
from pipelines.findings import Findings
from pipelines.verify_tokens import check_tokens

SAMPLE = 64
"""Pictures that are encoded again and compared, unless told."""


def verify(directory: str, sample: int = SAMPLE) -> list[str]:
    """Return what was found good, a line each; raises ShardError with the faults, a line each."""
    manifest = read_manifest(directory)
    quality = read_run_quality(directory, manifest)
    findings = Findings([f"{directory}: {len(manifest.shards)} files of {manifest.stage} as the manifest says"], [])
    if quality:
        findings.lines.append(f"{directory}: {', '.join(' '.join(figure) for figure in quality.figures())}")
    broken = check_files(directory, [*manifest.shards, *([quality.sheet] if quality else [])])
    findings.faults.extend(broken.values())
    if manifest.stage in STAGES:
        findings.add(_check_tokens(open_token_directory(directory), set(broken), sample))
    elif manifest.stage in ("filter", "shard") and not broken:
        findings.faults.extend(check_ledger(directory, manifest))
    findings.refuse_faults(directory)
    return findings.lines


def check_files(directory: str, files: list[ShardRecord]) -> dict[str, str]:
    """Return what is wrong with the presence, size or digest of files, by their names."""
    broken: dict[str, str] = {}
    total, done = sum(file.bytes for file in files), 0
    with show_progress("verify files", len(files)) as bar:
        found = map_in_threads(lambda file: find_file_fault(directory, file), files)
        for number, (file, fault) in enumerate(zip(files, found, strict=True), 1):
            if fault:
                broken[file.name] = fault
            done += file.bytes
            bar.update(number, f"{say_bytes(done)} of {say_bytes(total)}")
    return broken


def find_file_fault(directory: str, file: ShardRecord) -> str:
    """Return what is wrong with a file's presence, size or digest, or nothing."""
    path = join(directory, file.name)
    try:
        if not is_file(path):
            return f"{path}: expected a file of {file.bytes} bytes, found none"
        if (size := file_size(path)) != file.bytes:
            return f"{path}: expected {file.bytes} bytes, found {size}"
        if (found := sha256_file(path)) != file.sha256:
            return f"{path}: expected SHA-256 {file.sha256[:12]}, found {found[:12]}"
    except OSError as error:
        return (
            f"{path}: expected a file of {file.bytes} bytes, found one that cannot be read ({error.strerror or error})"
        )
    return ""


def check_ledger(directory: str, manifest: Manifest) -> Iterator[str]:
    """Yield where the ledger's outcomes do not add up to the manifest's counts."""
    pairs = PairDirectory(directory)
    outcomes = Counter(row.outcome for row in pairs.ledger())
    for outcome in OUTCOMES:
        if outcomes[outcome] != manifest.counts.get(outcome, 0):
            yield f"{directory}: expected {manifest.counts.get(outcome, 0)} rows {outcome}, found {outcomes[outcome]}"
    if outcomes[KEPT] != len(pairs):
        yield f"{directory}: expected {len(pairs)} kept rows by file, found {outcomes[KEPT]}"


def _check_tokens(directory: TokenDirectory, broken: set[str], sample: int) -> Findings:
    findings = check_tokens(directory, broken)
    if findings.faults or broken or not sample or not directory.num_rows:
        return findings
    try:
        from pipelines.verify_pictures import check_pictures
    except ModuleNotFoundError as error:  # all else of a shard is verified without them
        findings.lines.append(
            f"{directory.path}: tokens not encoded again, for want of {error.name}; pip install "
            "'parti[pipelines,model]'"
        )
        return findings
    findings.add(check_pictures(directory, sample))
    return findings
