"""Every stage, as its own process, killed at random moments, a hundred in all, and started again: the same bytes?"""

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.run import Figure

MOMENTS = 17
"""Of each of six stages: 102 in all."""
TINY = [
    "architecture.image_side=32", "architecture.patch_side=8", "architecture.codebook_size=128",
    "architecture.encoder={num_layers=1,num_heads=2,width=64,hidden=128}",
    "architecture.decoder={num_layers=1,num_heads=2,width=64,hidden=128}",
    "architecture.code_width=16", "batch_size=16", "codebook.continuous_steps=20",
    "adversarial={start_step=10,r1_every=4,size={channel_base=128}}", "ema_decay=0.9", "augmentation=dalle",
    "batch_parts=2", "held_out_share=0.1",
]  # fmt: skip
"""With everything on that a killed run could forget."""
SHORT = ["schedule.num_steps=120", "schedule.lr=1e-3", "schedule.checkpoint_every=20", "schedule.log_every=10"]


def figures() -> Iterator[Figure]:
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(folder).items():
            seconds = _run([*command, f"output={folder}/{name}"])
            assert seconds is not None
            wanted = digests(Path(folder) / name)
            num_killed = equal = 0
            while num_killed < MOMENTS:
                output = f"{folder}/{name}-{num_killed}"
                kill_after_s = moments.uniform(0.3, 1.0) * seconds
                if _run([*command, f"output={output}"], kill_after_s) is not None:  # it was faster this time
                    shutil.rmtree(output)
                    continue
                _run([*command, f"output={output}"])
                num_killed, equal = num_killed + 1, equal + (digests(Path(output)) == wanted)
            yield Figure(f"kill_{name}_same_bytes_of_{MOMENTS}", equal, MOMENTS, "more")


def commands(folder: str) -> dict[str, list[str]]:
    prior = ["architecture.width=64", "architecture.hidden=128", "architecture.num_heads=2", "batch_size=16"]
    prior += [
        "architecture.num_encoder_layers=1",
        "architecture.num_decoder_layers=1",
        "architecture.max_text_length=32",
    ]
    tokenizers = [
        f"image_tokenizer={folder}/tokenizer/tokenizer.safetensors", f"text_tokenizer={folder}/text/text.model",
    ]  # fmt: skip
    source = f"source={folder}/filter"
    return {
        "filter": ["filter", "source.num_pairs=3000", "source.spoil_every=9", "source.pairs_per_split=1500"],
        "shard": ["shard", source, "pairs_per_shard=300"],
        "text": ["train", "text", source, "vocabulary_size=128"],
        "tokenizer": ["train", "tokenizer", source, *TINY, *SHORT],
        "tokens": [
            "tokenize",
            source,
            *tokenizers,
            "rows_per_shard=500",
            "rows_per_fragment=300",
            "quality.min_psnr_db=0",
        ],
        "prior": ["train", "prior", f"source={folder}/tokens", *prior, *SHORT],
    }  # fmt: skip


def digests(directory: Path) -> dict[str, str]:
    """Return the digest of every file but those that tell the time or the whole state of training."""
    told = [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".tar", ".safetensors", ".model")
    ]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in told}


def _run(words: list[str], kill_after_s: float | None = None) -> float | None:
    """Run `parti` and return the seconds it took; None where it was killed, after so many seconds."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pipelines.command_line", *words], stdout=subprocess.DEVNULL)
    try:
        code = process.wait(kill_after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return None
    assert code == 0, words
    return time.monotonic() - started
