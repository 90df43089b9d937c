"""What `parti sample` is told."""

from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from model.sampling.completion import Completion
from model.sampling.decoding import DecodingExecution
from model.sampling.generate import Sampling
from model.sampling.ranking import Ranking
from model.tokenizers import Reading
from parti_data.config import StageConfig
from parti_data.errors import ConfigError


class SampleConfig(StageConfig):
    """What is drawn, by what, and which of it is kept."""

    prior: str
    """The file that train prior wrote."""
    image_tokenizer: str
    tokenizer: Reading = Field(default_factory=Reading)
    """How a published image tokenizer is read, as tokenize was told."""
    text_tokenizer: str = ""
    """Of a prior that reads text, or of a ranker that does."""
    upsampler: str = ""
    """The file that train upsampler wrote: each sample is also written larger; empty: it is not."""
    prompts: list[str] = Field(default_factory=list)
    prompts_file: str = ""
    """A .tsv with a column Prompt and perhaps Category and Challenge, as PartiPrompts.tsv; or a prompt a line. For a
    prior of classes prompts are their names; one that reads nothing has none, and `samples_per_prompt` are drawn."""
    completion: Completion | None = None
    """Pictures whose first rows are kept; none: images are drawn whole."""
    samples_per_prompt: PositiveInt = 4
    """Drawn; all are kept unless they are ranked."""
    ranking: Ranking | None = None
    """By what a prompt's samples are ranked, and how many are kept; none: they are not ranked."""
    sampling: Sampling = Field(default_factory=Sampling)
    execution: DecodingExecution = Field(default_factory=DecodingExecution)
    batch_size: PositiveInt = 64
    seed: NonNegativeInt = 0

    UNDECIDING: ClassVar[frozenset[str]] = frozenset(
        {"prior", "image_tokenizer", "text_tokenizer", "upsampler", "prompts_file"}
    )

    def refuse_unfit(self) -> None:
        """Raise ConfigError where the tables do not fit together."""
        if not self.ranking:
            return
        if bool(self.ranking.model) == bool(self.ranking.clip):
            found = "both" if self.ranking.clip else "neither"
            raise ConfigError(f"ranking: expected either a model or a table clip, found {found}; give one of them")
        if self.ranking.keep > self.samples_per_prompt:
            raise ConfigError(
                f"ranking.keep: expected at most the {self.samples_per_prompt} samples of a prompt, found "
                f"{self.ranking.keep}; lower it or raise samples_per_prompt"
            )

    def deciding(self) -> dict[str, Any]:
        """Return what the output's bytes depend on; files are told by their digests."""
        values = super().deciding()
        if self.completion:
            for name in ("pictures", "source", "num_pictures"):
                del values["completion"][name]
        if self.ranking:
            del values["ranking"]["model"]
        if self.ranking and self.ranking.clip:
            del values["ranking"]["clip"]["weights"]
        return values
