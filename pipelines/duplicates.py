"""What becomes of images that occur more than once: the part of filter's config."""

from pydantic import Field, NonNegativeInt, PositiveInt

from parti_data.config import StrictModel


class Duplicates(StrictModel):
    """What becomes of images that occur more than once."""

    max_captions: PositiveInt = 16
    """Captions that a survivor takes at most."""
    max_captions_per_image: NonNegativeInt = 0
    """An image under more captions than this is a placeholder ("image not available") and dropped; 0 drops none."""
    near: bool = False
    """Whether images that look alike are merged too, exact duplicates first."""
    max_distance: int = Field(default=17, ge=0, le=31)
    """Bits of the perceptual hash, of 256, in which images that look alike may differ. 17 finds crops of 5% too; each
    bit more nearly doubles how many hashes are compared."""
    keep_variants: bool = True
    """Whether images that look alike are merged only where their thumbnails show one picture: skin tones, clocks, flags
    and charts that differ in little stay. Without it the hash alone decides, which needs `max_distance` 4 or less for
    drawings, and loses crops."""
    mirrored: bool = False
    """Whether an image looks like its mirror image."""

    def compares_looks(self) -> bool:
        """Whether thumbnails are compared."""
        return self.near and self.keep_variants
