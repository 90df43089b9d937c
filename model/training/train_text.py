"""The job that trains a SentencePiece model on the captions of kept pairs."""

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt

from parti_data.config import StageConfig
from parti_data.ledger import PairDirectory
from parti_data.manifest import Beginning, Manifest, begin, manifest_digest, record_shard
from parti_data.storage import join, publish_bytes
from parti_data.text import END, TextTokenizer, train_sentencepiece

TEXT_TOKENIZER = "text.model"


class TrainTextConfig(StageConfig):
    """What `parti train text` is told."""

    source: str
    """A directory that filter or shard finished."""
    vocabulary_size: Annotated[int, Field(gt=END + 1)] = 16_000
    """Pieces, more than the special ones. Source: Parti, section 2.2."""
    lower_case: bool = False
    """Whether captions, and later prompts, are read in lower case, as DALL-E reads them (section 2.2)."""
    seed: NonNegativeInt = 0

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"source"})


def train_text(config: TrainTextConfig) -> Manifest:
    """Train and write a SentencePiece model; return the manifest."""
    inputs = {"source": manifest_digest(config.source)}
    begun = begin(config.output, Beginning(stage="train_text", config=config.deciding(), inputs=inputs))
    if isinstance(begun, Manifest):
        return begun
    pairs = PairDirectory(config.source)
    captions = (caption for row in pairs.kept() for caption in row.captions)
    path = join(config.output, TEXT_TOKENIZER)
    model = train_sentencepiece(captions, config.vocabulary_size, config.seed, config.lower_case)
    publish_bytes(path, model)
    tokenizer = TextTokenizer(path)
    details = {"fingerprint": tokenizer.fingerprint, "vocabulary_size": tokenizer.vocabulary_size}
    return begun.finish([record_shard(config.output, TEXT_TOKENIZER, 0)], {"pairs": len(pairs)}, details)
