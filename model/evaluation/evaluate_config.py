"""What `parti evaluate` is told: a table, or a switch, for each thing that is measured."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt

from model.training.image_config import ImageSource
from parti_data.caption_ids import TextReading
from parti_data.config import StageConfig, StrictModel
from parti_data.errors import ConfigError
from parti_data.images import ImageLimits

Figure = Literal["fid", "inception_score", "precision_recall"]
Preprocessing = Literal["dalle_listing_2", "resize_center", "squash", "adm", "dalle", "chameleon", "var", "taming"]


class HeldOutLossSettings(StrictModel):
    """The loss of a prior on token shards that it was not trained on."""

    prior: str
    """The file that train prior wrote."""
    tokens: str
    """A directory of token shards."""
    text: TextReading = Field(default_factory=TextReading)
    """Which caption of a row is read, and its ids; no more of them than the prior takes."""
    batch_size: PositiveInt = 8
    """Rows at a time, whose logits are held: 32 MiB each at 1,024 tokens of 8,192 codes, and as much for their loss."""


class FidelitySettings(StrictModel):
    """Samples against real images, by the features of an Inception network."""

    inception: str
    """The file of its weights, pytorch-fid's pt_inception-2015-12-05-6726825d.pth."""
    real: ImageSource = ""
    """Real images: a directory that filter or shard finished, or a `source` table as filter's; or a directory that
    evaluate finished with the same settings, whose features are taken. None for the Inception score alone."""
    figures: Annotated[tuple[Figure, ...], Field(strict=False, min_length=1)] = get_args(Figure)
    num_images: PositiveInt | None = None
    """So many of both, drawn at random; none: all that there are. Parti has 30,000 (section 4.2)."""
    preprocessing: Preprocessing = "resize_center"
    """How a square of the samples' side is made of a real image. Parti has DALL-E's listing 2, a random cut near the
    middle (section 4.1)."""
    limits: ImageLimits = Field(default_factory=ImageLimits)
    """What an image of a `source` table may be and cost; a finished directory brings its own."""
    batch_size: PositiveInt = 32
    decode_threads: PositiveInt = 2
    """That read a `source` table through once, before the images are drawn."""
    seed: NonNegativeInt = 0

    @property
    def compares(self) -> bool:
        """Whether a figure is of both, samples and real images."""
        return self.figures != ("inception_score",)


class ClipSettings(StrictModel):
    """How well samples fit their prompts, by a CLIP model of open_clip's."""

    model: str
    """Its name there, such as ViT-B-32. Weights of OpenAI's are those of ViT-B-32-quickgelu: under the plain name they
    load as well, and score with another activation."""
    weights: str
    """A local file of its weights; nothing is downloaded."""
    batch_size: PositiveInt = 32


class PageSettings(StrictModel):
    """A page on which samples are looked through, of several models side by side."""

    models: dict[str, str] = Field(default_factory=dict)
    """Directories that sample finished, by the names that the page shows; none: `samples` alone."""
    title: str = "Samples"
    samples_per_prompt: PositiveInt = 4
    """Shown at most."""


class CurveSettings(StrictModel):
    """How the share of right pictures of synthetic scenes changes with a setting of sample."""

    samples: list[str] = Field(min_length=2)
    """Directories that sample finished, whose configs differ in one number, such as sampling.guidance."""


class CompletionsSettings(StrictModel):
    """Completed pictures of synthetic scenes against the pictures whose rows were given."""

    source: str
    """The directory that filter or shard finished and that completion.source named."""


class EvaluateConfig(StageConfig):
    """What `parti evaluate` is told."""

    samples: str = ""
    """A directory that sample finished; for all but `held_out`, `curve` and a page with models of its own."""
    scenes: bool = False
    """Whether samples of synthetic scenes are judged against their prompts."""
    best_of: bool = False
    """Whether their share of right pictures is also told for the best of k candidates of a prompt, k from 1 on; for
    ranked samples of which all were kept."""
    completions: CompletionsSettings | None = None
    curve: CurveSettings | None = None
    held_out: HeldOutLossSettings | None = None
    fidelity: FidelitySettings | None = None
    clip: ClipSettings | None = None
    page: PageSettings | None = None
    device: Literal["auto", "cpu"] = "auto"
    """Where networks run: on a GPU where there is one."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"samples", "device"})

    def refuse_nothing(self) -> None:
        """Raise ConfigError where nothing is measured, or no samples are named to measure."""
        on_samples = (
            self.scenes or self.completions or self.fidelity or self.clip or (self.page and not self.page.models)
        )
        if not (on_samples or self.held_out or self.page or self.curve):
            raise ConfigError(
                "evaluate: expected something to measure, found nothing; add scenes=true, or a table completions, "
                "held_out, fidelity, clip, curve or page"
            )
        if self.best_of and not self.scenes:
            raise ConfigError("best_of: expected with scenes=true alone, found without; add it or leave best_of out")
        if on_samples and not self.samples:
            raise ConfigError("samples: expected a directory that sample finished, found none; add samples=…")
        if self.fidelity and self.fidelity.compares and not self.fidelity.real:
            raise ConfigError(
                "fidelity.real: expected real images to compare with, found none; add fidelity.real=DIR or leave only "
                "inception_score in fidelity.figures"
            )

    def deciding(self) -> dict[str, Any]:
        """Return what the output's bytes depend on; files and finished directories are told by their digests."""
        values = super().deciding()
        paths = {
            "completions": ("source",), "held_out": ("prior", "tokens"), "fidelity": ("inception", "decode_threads"),
            "clip": ("weights",),
        }  # fmt: skip
        for table, names in paths.items():
            for name in names if values[table] else ():
                del values[table][name]
        if self.fidelity and isinstance(self.fidelity.real, str):
            del values["fidelity"]["real"]
        if self.page:
            values["page"]["models"] = list(self.page.models)
        if self.curve:
            del values["curve"]["samples"]
        return values
