"""Tokens as other projects write them, and as no project should: files for `import-tokens`.

What is written how was read in the projects' own scripts, named at each function.
"""

import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd

CODES, SIDE = 64, 4
"""Codes of the codebook, and tokens a side, unless told."""


def draw_tokens(num_images: int, seed: int = 0, num_tokens: int = SIDE**2) -> np.ndarray:
    """Tokens (images, I) of images that all differ."""
    return np.random.default_rng(seed).integers(0, CODES, (num_images, num_tokens))


def write_dalle_mini(path: Path, tokens: list, captions: list) -> str:
    """dalle-mini, tools/dataset/encode_dataset.ipynb: pandas.DataFrame.from_dict, to_parquet; lists of ints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame.from_dict({"caption": captions, "encoding": [list(row) for row in tokens]}).to_parquet(path)
    return str(path)


def write_llamagen_classes(root: Path, views: np.ndarray, labels: list[int]) -> str:
    """LlamaGen, autoregressive/train/extract_codes_c2i.py: int64 (1, views, I), and a label (1,), by number."""
    codes, beside = root / "imagenet256_codes", root / "imagenet256_labels"
    codes.mkdir(parents=True), beside.mkdir()
    for number, (image, label) in enumerate(zip(views, labels, strict=True)):
        np.save(codes / f"{number}.npy", image[None].astype(np.int64))
        np.save(beside / f"{number}.npy", np.array([label], np.int64))
    return str(codes)


def write_llamagen_texts(root: Path, stem: str, tokens: np.ndarray, texts: list[list[str]]) -> tuple[str, str]:
    """LlamaGen, extract_codes_t2i.py and language/extract_t5_feature.py: STEM/LINE.npy of (1, I) for STEM.jsonl."""
    (root / "codes" / stem).mkdir(parents=True)
    (root / "captions").mkdir(exist_ok=True)
    for line, row in enumerate(tokens):
        np.save(root / "codes" / stem / f"{line}.npy", row[None].astype(np.int64))
    lines = [json.dumps({"image_path": f"{line}.jpg", "text": text}) for line, text in enumerate(texts)]
    (root / "captions" / f"{stem}.jsonl").write_text("\n".join(lines) + "\n")
    return str(root / "codes"), str(root / "captions")


def write_rar(path: Path, tokens: np.ndarray, classes: list[int]) -> str:
    """1d-tokenizer, scripts/pretokenization.py: json.dump of class_id and tokens, and a newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(tokens.tolist(), classes, strict=True)
    path.write_text("".join(json.dumps({"class_id": number, "tokens": row}) + "\n" for row, number in rows))
    return str(path)


def npy_bytes(array: np.ndarray) -> bytes:
    """What numpy.save writes."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_claiming(shape: str, content: bytes = b"") -> bytes:
    """A .npy whose header claims a shape, whatever follows it."""
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> str:
    """WebDataset: members of one key share their name up to the first dot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def write_npy_tar(path: Path, tokens: np.ndarray, captions: list[str]) -> str:
    """A .npy and a .txt under each key."""
    members = []
    for number, (row, caption) in enumerate(zip(tokens, captions, strict=True)):
        members += [(f"{number:06d}.npy", npy_bytes(row)), (f"{number:06d}.txt", caption.encode())]
    return write_tar(path, members)
