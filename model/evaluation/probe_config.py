"""What `parti evaluate probe` is told."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from model.tokenizers import Reading
from parti_data.config import StageConfig
from parti_data.errors import ConfigError

Share = Annotated[float, Field(gt=0, lt=1)]


class ProbeConfig(StageConfig):
    """A linear probe: how well a class is told by what a block of a prior makes of an image's tokens.

    A class is the first caption of a row, or what `label_pattern` finds in it. The prior is told no caption. Features
    are held of as many blocks at once as fit 2 GiB, at least one; those of a block take 4 bytes for each row and
    channel, pixels 48 KiB a row at 64 px: 1 GB for the 20,000 rows of the default.
    """

    prior: str
    """The file that train prior wrote, of a family whose decoder is one stream: vim, dalle or igpt."""
    tokens: str
    """A directory of token shards: what the probe is trained on."""
    validation: str | Share = 0.1
    """Another directory, or a share of the images of `tokens`, by their keys: what block and penalty are chosen on."""
    test: str | Share = 0.2
    """The same for what the accuracy is told of."""
    rows: PositiveInt = 20_000
    """Of each directory at most, the first: shards are shuffled."""
    label_pattern: str = ""
    """A regular expression with one group, such as "(circle|square)": a row's class is what the group holds where it
    first matches. Rows in which it matches nothing, or that have no caption, are left out and counted."""
    block: NonNegativeInt | Literal["best"] = "best"
    """Whose test accuracy is told: after so many blocks, 0 for what the first one reads; "best" of those from 1 on by
    the validation rows.
    Source: VIM's 10 of 24 and 15 of 36, arXiv 2110.04627v3, section 5.3."""
    penalties: Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)] = (
        1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6,
    )  # fmt: skip
    """Of the squared weights; each block's is chosen on the validation rows. VIM's paper does not state how its probe
    is trained; L-BFGS is iGPT's way on small sets."""
    image_tokenizer: str = ""
    """What decodes the tokens, for a probe of pixels beside; none: no such probe."""
    tokenizer: Reading = Field(default_factory=Reading)
    """How that file is read, where it does not tell."""
    side_px: PositiveInt = 64
    """Pictures with a larger side are averaged down to it before their pixels are probed."""
    batch_size: PositiveInt = 32
    seed: NonNegativeInt = 0
    """Of the weights of the untrained network that is probed beside."""
    device: Literal["auto", "cpu"] = "auto"

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"prior", "tokens", "image_tokenizer", "device"})

    @field_validator("label_pattern")
    @classmethod
    def _refuse_bad_pattern(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"it should be a regular expression ({error})") from None
        if pattern and groups != 1:
            raise ValueError(f"it should have one group, and has {groups}")
        return pattern

    @property
    def shares(self) -> dict[str, float]:
        """The parts that are shares of `tokens`."""
        parts = {"test": self.test, "validation": self.validation}
        return {name: part for name, part in parts.items() if not isinstance(part, str)}

    @property
    def directories(self) -> dict[str, str]:
        """The parts that have directories of their own."""
        parts = {"test": self.test, "validation": self.validation}
        return {name: part for name, part in parts.items() if isinstance(part, str)}

    def refuse_no_training(self) -> None:
        """Raise ConfigError where nothing of `tokens` is left to train the probe on."""
        if (taken := sum(self.shares.values())) >= 1:
            raise ConfigError(
                f"validation and test: expected shares of less than 1 together, found {taken:g}; lower them or name "
                "directories"
            )

    def deciding(self) -> dict[str, Any]:
        """Return what the output's bytes depend on; files and finished directories are told by their digests."""
        values = super().deciding()
        for name in self.directories:
            del values[name]
        return values
