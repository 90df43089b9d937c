"""What `parti tokenize` would take: batches of kept pairs encoded on one thread, then on all."""

import time

import torch

from model.tokenizers import ImageTokenizer
from model.tokenizers.mixups import TRIED
from parti_data.errors import SourceError
from parti_data.figures import say_bytes, say_count
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.step_times import take_steps
from parti_data.storage import file_size
from parti_data.token_shard import TokenRow, to_table, write_token_shard
from pipelines.encode_images import encode_rows, open_tokenizers, shard_metadata
from pipelines.plan.estimate import START_S, Block, Plan, Step, measure_speedup, seconds_a_pair, steps_of
from pipelines.plan.pair_slices import read_slices
from pipelines.plan.say import say_means, say_time
from pipelines.plan.scratch import marginal
from pipelines.slice_gate import reconstruct
from pipelines.token_fragments import count_shards
from pipelines.tokenize import TokenizeConfig, plan_fragments

BASE_BYTES = 500 << 20
"""What the program with torch takes before it has read anything."""
PIXEL_BYTES = 6
"""What a worker holds of a pixel while a picture is decoded and resized."""
TORCH_START_S = 2.0
"""What importing torch adds to the start, measured on one core of an AMD Zen 5."""
_TRIES = 2
"""Another range of pixels, and red and blue swapped."""
_TIMES_WRITTEN = 2
"""A row goes into a fragment, and from there into its shard."""


def plan_tokenize(config: TokenizeConfig, num_pairs: int, workers: int) -> Plan:
    """Encode some pairs and return what the stage would take; raises SourceError where none is kept."""
    pairs = PairDirectory(config.source)
    if not len(pairs):
        raise SourceError(f"{config.source}: expected kept pairs, found none; see its ledger for the reasons")
    image_tokenizer, text_tokenizer = open_tokenizers(
        config.image_tokenizer, config.text_tokenizer, config.execution, config.tokenizer
    )
    metadata = shard_metadata(image_tokenizer, text_tokenizer, "", "", config.views, config.execution)
    views = config.views.num_views
    torch.set_num_threads(1)

    def encode(rows: list[LedgerRow]) -> tuple[Block, list[TokenRow]]:
        take_steps()
        encoded = list(
            encode_rows(pairs, iter(rows), image_tokenizer, text_tokenizer, config.views, config.decode_processes)
        )
        seconds = take_steps().seconds
        del seconds["ledger"]  # the rows are here already
        return Block(len(rows), seconds), encoded

    def write(path: str, count: int) -> float:
        write_token_shard(path, to_table(encoded[:count], metadata), metadata)
        return file_size(path)

    batch_size = image_tokenizer.batch_size
    slices = read_slices(pairs, max(num_pairs // views, 1), max(batch_size // views, 1))
    encode(slices.rows[0][:1])  # what is loaded at the first use is no part of a pair's time
    results = [encode(rows) for rows in slices.rows]
    encoded = [row for _, rows in results for row in rows if row.view == 0]  # views of one image share what compresses
    speedup = measure_speedup(encode, slices.rows, workers)
    row_write_s, row_bytes = marginal(write, len(encoded))
    write_s = views * row_write_s
    alone_s = slices.ledger_row_s + _TIMES_WRITTEN * write_s
    blocks = [[block] for block, _ in results]
    steps = steps_of(blocks)
    if config.quality.sample:
        encode_s = next(step.seconds for step in steps if step.name == "encode") / views
        inspect_s = measure_gate(results[0][1], encode_s, config, image_tokenizer)
        steps.append(Step("inspect", inspect_s))
        alone_s += inspect_s / speedup
    seconds = seconds_a_pair(blocks).scaled(len(pairs) / speedup, len(pairs) * alone_s)
    rows = slices.all()
    return Plan(
        "tokenize",
        [
            ("source", f"{config.source}, {say_count(len(pairs))} kept pairs"),
            ("sampled", f"{say_count(len(rows))} pairs in {len(slices.rows)} places, in batches of {batch_size}"),
            ("a pair", f"{say_means(rows)}, {_say_views(views)}{say_count(metadata.num_tokens)} tokens"),
        ],
        [Step("ledger", slices.ledger_row_s), *steps, Step("write", _TIMES_WRITTEN * write_s)],
        workers,
        speedup,
        [
            ("time", say_time(seconds.scaled(1, START_S + TORCH_START_S))),
            ("tokens", _say_shards(len(pairs), row_bytes, config)),
            ("memory", f"about {say_bytes(_memory(rows, row_bytes, config, workers))}"),
        ],
        [],
    )


def measure_gate(rows: list[TokenRow], encode_s: float, config: TokenizeConfig, tokenizer: ImageTokenizer) -> float:
    """Return the seconds of a pair that the gate takes, by decoding some of the source's first rows.

    It decodes a sample of each slice, and of the first encodes and decodes a few twice more.
    """
    pairs, floors = PairDirectory(config.source), config.quality
    rows = rows[: floors.candidates]
    started = time.perf_counter()
    reconstruct(rows, 0, pairs, tokenizer, floors)
    picture_s = (time.perf_counter() - started) / len(rows)
    slices = plan_fragments(len(pairs), config.pairs_per_fragment)
    sampled = sum(min(floors.sample, (last - first) * config.views.num_views) for _, first, last in slices)
    return (sampled * picture_s + _TRIES * min(floors.sample, TRIED) * (encode_s + picture_s)) / len(pairs)


def _say_shards(num_pairs: int, row_bytes: float, config: TokenizeConfig) -> str:
    num_rows = num_pairs * config.views.num_views
    size, num_shards = say_bytes(num_rows * row_bytes), count_shards(num_rows, config.rows_per_shard)
    return f"{size} in {say_count(num_shards)} shards, twice that meanwhile"


def _say_views(count: int) -> str:
    return f"{say_count(count)} views of " if count > 1 else ""


def _memory(rows: list[LedgerRow], row_bytes: float, config: TokenizeConfig, workers: int) -> float:
    """Return the bytes held at once: a fragment's rows or a shard's, and a large picture, for each worker."""
    held = max(config.rows_per_fragment, config.rows_per_shard) * 4 * row_bytes
    return BASE_BYTES + workers * (held + PIXEL_BYTES * max(row.width * row.height for row in rows))
