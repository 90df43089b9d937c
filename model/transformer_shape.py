"""What every transformer here is told of its blocks."""

from dataclasses import dataclass

from model.layers import BlockShape, FeedForwardKind, NormKind
from model.noble import NobleShape
from model.shapes import refuse_below, refuse_no_share, refuse_remainder


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """The architecture of the blocks."""

    width: int = 1024
    hidden: int = 4096
    num_heads: int = 16
    dropout: float = 0.1
    feed_forward: FeedForwardKind = "relu"
    """`relu` is Parti's (figure 5). Gated ones, geglu and swiglu, are today's practice; they have three matrices, so
    that two thirds of `hidden` keep the number of parameters."""
    biases: bool = True
    """Whether the feed-forward adds vectors. The papers do not say; the sizes that Parti prints count matrices
    alone."""
    norm: NormKind = "layer"
    """`layer` is Parti's (section 3); `rms` is today's practice: no mean is taken, nothing is added."""
    qk_norm: bool = False
    """Whether the queries and keys of each head are normed, which keeps scores from growing in large models trained in
    bfloat16 (Chameleon, arXiv 2405.09818). Parti states none."""
    noble: NobleShape | None = None
    """The nonlinear branch beside every linear layer of every block; none, as in the papers of priors: plain layers."""

    def __post_init__(self) -> None:
        refuse_remainder("width", self.width, "num_heads", self.num_heads)
        refuse_below("hidden", self.hidden, 1)
        refuse_no_share("dropout", self.dropout)

    @property
    def head_width(self) -> int:
        """Channels a head."""
        return self.width // self.num_heads

    @property
    def block(self) -> BlockShape:
        """The architecture of each block."""
        return BlockShape(
            self.width, self.hidden, self.num_heads, self.feed_forward, self.biases, self.norm, self.qk_norm,
            self.dropout, self.noble,
        )  # fmt: skip
