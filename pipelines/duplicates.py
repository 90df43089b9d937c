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
    max_distance: int = Field(default=15, ge=0, le=31)
    """Bits of the perceptual hash, of 256, in which images that look alike may differ. 15 finds copies of pictures like
    photographs, crops of 5% included; drawings and icons that differ in little need 4 or less, and lose crops."""
    mirrored: bool = False
    """Whether an image looks like its mirror image."""
