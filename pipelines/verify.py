"""Check a finished directory: its files against the manifest, its ledger against the counts, its tokens against the
tokenizers that are said to have made them.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from parti_data.errors import PartiError, ShardError
from parti_data.ledger import KEPT, OUTCOMES, PairDirectory
from parti_data.manifest import MANIFEST, Manifest, ShardRecord, read_manifest
from parti_data.quality import read_run_quality
from parti_data.storage import file_size, is_file, join, sha256_file
from parti_data.token_directory import STAGES
from parti_data.token_shard import ShardMetadata, order_hash, read_metadata, read_row_group, token_matrix
from parti_data.views import Views

ENCODED_AGAIN = 64
"""Rows whose images are encoded again and compared."""


def verify(directory: str) -> list[str]:
    """Return what was found good, a line each; raises ShardError with the first fault and the number of faults."""
    manifest = read_manifest(directory)
    faults = [fault for shard in manifest.shards for fault in check_file(directory, shard)]
    if not faults and manifest.stage in ("filter", "shard"):
        faults += check_ledger(directory, manifest)
    if quality := read_run_quality(directory, manifest):
        faults += check_file(directory, quality.sheet)
    if not faults and manifest.stage in STAGES:
        faults += [fault for shard in manifest.shards for fault in check_tokens(directory, shard, manifest)]
    if faults:
        rest = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ShardError(f"{faults[0]}{rest}; remove what is broken and {MANIFEST} to make it again")
    lines = [f"{directory}: {len(manifest.shards)} files of {manifest.stage} as the manifest says"]
    if quality:
        lines.append(f"{directory}: {', '.join(' '.join(figure) for figure in quality.figures())}")
    return lines + (check_encoding(directory, manifest) if manifest.stage == "tokenize" else [])


def check_file(directory: str, shard: ShardRecord) -> Iterator[str]:
    """Yield what is wrong with a file's presence, size or digest."""
    path = join(directory, shard.name)
    if not is_file(path):
        yield f"{path}: expected a file of {shard.bytes} bytes, found none"
    elif file_size(path) != shard.bytes:
        yield f"{path}: expected {shard.bytes} bytes, found {file_size(path)}"
    elif (found := sha256_file(path)) != shard.sha256:
        yield f"{path}: expected SHA-256 {shard.sha256[:12]}, found {found[:12]}"


def check_ledger(directory: str, manifest: Manifest) -> Iterator[str]:
    """Yield where the ledger's outcomes do not add up to the manifest's counts."""
    outcomes = Counter(row.outcome for row in PairDirectory(directory).ledger())
    for outcome in OUTCOMES:
        if outcomes[outcome] != manifest.counts.get(outcome, 0):
            yield f"{directory}: expected {manifest.counts.get(outcome, 0)} rows {outcome}, found {outcomes[outcome]}"
    if outcomes[KEPT] != sum(manifest.details["kept"]):
        yield f"{directory}: expected {sum(manifest.details['kept'])} kept rows by file, found {outcomes[KEPT]}"


def check_tokens(directory: str, shard: ShardRecord, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with a token shard's metadata, rows, order, or the range of its ids."""
    path = join(directory, shard.name)
    try:
        metadata, groups = read_metadata(path)
        if metadata != ShardMetadata.model_validate(manifest.details["metadata"]):
            yield f"{path}: expected the metadata that the manifest states, found other"
        for name, expected in manifest.config.get("execution", {}).items():
            if (found := getattr(metadata, name)) != expected:
                yield f"{path}: expected {name} {expected!r} as the run was configured, found {found!r}"
        if sum(groups) != shard.rows:
            yield f"{path}: expected {shard.rows} rows, found {sum(groups)}"
        last = -1
        for group in range(len(groups)):
            table = read_row_group(path, group)
            highest = int(token_matrix(table).max(initial=0))
            if highest >= metadata.codebook_size:
                yield f"{path}: expected tokens below {metadata.codebook_size}, found {highest} in row group {group}"
            text = table.column("text_ids").combine_chunks().flatten().flatten().to_numpy()
            if int(text.max(initial=0)) >= metadata.text_vocabulary_size:
                yield f"{path}: expected text ids below {metadata.text_vocabulary_size}, found {text.max()}"
            places = zip(table.column("key").to_pylist(), table.column("view").to_pylist(), strict=True)
            for key, view in places:
                place = order_hash(key, view, manifest.config["seed"])
                if place < last:
                    yield f"{path}: expected rows in the order of their hash, found {key} out of order"
                last = place
    except ShardError as error:
        yield str(error)


def check_encoding(directory: str, manifest: Manifest) -> list[str]:
    """Encode some rows' images and captions again; raises ShardError where ids differ, says so where it cannot."""
    try:
        import torch

        from model.tokenizers import Execution, Reading
        from pipelines.encode_images import encode_rows, open_tokenizers
    except ModuleNotFoundError as error:  # a ledger, and all else of a shard, is verified without them
        return [
            f"{directory}: tokens not encoded again, for want of {error.name}; pip install 'parti[pipelines,model]'"
        ]

    places = manifest.details["places"]
    torch.set_num_threads(1)  # as encode does: another number of threads may change a token
    try:
        pairs = PairDirectory(places["source"])
        execution = Execution(**manifest.config.get("execution", {}))
        reading = Reading(**manifest.details.get("tokenizer", {}))
        image_tokenizer, text_tokenizer = open_tokenizers(
            places["image_tokenizer"], places["text_tokenizer"], execution, reading
        )
    except PartiError as error:
        return [f"{directory}: tokens not encoded again, for want of what made them ({error})"]
    for name, tokenizer in (("image_tokenizer", image_tokenizer), ("text_tokenizer", text_tokenizer)):
        if tokenizer.fingerprint != manifest.inputs[name]:
            raise ShardError(
                f"{places[name]}: expected the {name} {manifest.inputs[name][:12]} that made {directory}, found "
                f"{tokenizer.fingerprint[:12]}; the file was replaced, so tokenize into a new directory"
            )
    views = Views.model_validate(manifest.config.get("views", {}))
    first = read_row_group(join(directory, manifest.shards[0].name), 0).slice(0, -(-ENCODED_AGAIN // views.num_views))
    stated = {(row["key"], row["view"]): row for row in first.to_pylist()}
    keys = {key for key, _ in stated}
    rows = list(islice((row for row in pairs.kept() if row.key in keys), len(keys)))
    if len(rows) < len(keys):
        raise ShardError(
            f"{directory}: expected the pairs of {len(stated)} rows in {places['source']}, found {len(rows)}; the "
            "source was replaced, so tokenize into a new directory"
        )
    again = encode_rows(pairs, iter(rows), image_tokenizer, text_tokenizer, views)
    for row in (row for row in again if (row.key, row.view) in stated):
        for name in ("box", "flipped", "image_tokens", "text_ids"):
            if not _equal(stated[row.key, row.view][name], getattr(row, name)):
                raise ShardError(
                    f"{directory}: expected the {name} that its tokenizer gives for {row.key}, found others; "
                    "tokenize into a new directory"
                )
    return [f"{directory}: {len(stated)} rows encoded again, all ids equal"]


def _equal(stated: object, found: object) -> bool:
    return stated == (found.tolist() if isinstance(found, np.ndarray) else found)
