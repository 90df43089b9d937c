"""Whether a skin tone in a prompt changes a picture where it should: skin darker and browner, all else as it was."""

from typing import NamedTuple

import numpy as np

TONE = ": medium-dark skin tone"
PLAIN_SKIN, TONED_SKIN = (255, 202, 40), (165, 108, 67)
"""The commonest colour of what differs between Noto Emoji's pictures without a tone and those with this one."""
_MAX_DISTANCE = 50
"""Of a pixel from a colour of skin, in levels: beyond it are shadows, orange clothes and blond hair."""
_MARGIN_PX = 3
"""Around skin, where a picture of tokens blurs; neither skin nor the rest."""
LEAST_SKIN_PX = 40


class ToneChange(NamedTuple):
    """What a tone changes between two pictures."""

    num_skin: int
    """Pixels that have the plain colour of skin in the picture without the tone."""
    plain: np.ndarray
    """Their mean colour, float64 (3,)."""
    toned: np.ndarray
    """The mean colour of the same pixels in the other picture."""
    rest: float
    """The mean difference of the pixels that are skin in neither picture, in levels."""

    def is_darker_and_browner(self) -> bool:
        """Whether skin goes at least half the way from yellow to brown: in brightness, and from red over blue."""
        if self.num_skin < LEAST_SKIN_PX:
            return False
        wanted = _brightness(np.array(PLAIN_SKIN)) - _brightness(np.array(TONED_SKIN))
        yellow = (PLAIN_SKIN[0] - PLAIN_SKIN[2]) - (TONED_SKIN[0] - TONED_SKIN[2])
        darker = _brightness(self.plain) - _brightness(self.toned)
        browner = (self.plain[0] - self.plain[2]) - (self.toned[0] - self.toned[2])
        red, green, blue = self.toned
        return bool(darker >= wanted / 2 and browner >= yellow / 2 and red > green > blue)

    @property
    def skin(self) -> float:
        """The difference of the skin's mean colours, in levels."""
        return float(np.abs(self.plain - self.toned).mean())


def compare_tones(plain: np.ndarray, toned: np.ndarray) -> ToneChange:
    """Return what differs between two pictures uint8 (S, S, 3); without skin, its colours are black."""
    before, after = plain.astype(np.float64), toned.astype(np.float64)
    skin = _is_near(before, PLAIN_SKIN)
    rest = ~_widen(skin | _is_near(after, TONED_SKIN))
    colours = (picture[skin].mean(0) if skin.any() else np.zeros(3) for picture in (before, after))
    difference = np.abs(before - after)[rest]
    return ToneChange(int(skin.sum()), *colours, float(difference.mean()) if rest.any() else 0.0)


def count_plain_skin(picture: np.ndarray) -> int:
    """Return how many pixels of a picture uint8 (S, S, 3) have the colour of skin without a tone."""
    return int(_is_near(picture.astype(np.float64), PLAIN_SKIN).sum())


def _is_near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.linalg.norm(picture - colour, axis=-1) < _MAX_DISTANCE


def _widen(mask: np.ndarray) -> np.ndarray:
    """Return the mask (S, S) with all that is within the margin, to the sides and to the corners."""
    side, margin = len(mask), _MARGIN_PX
    padded = np.pad(mask, margin)
    shifts = range(2 * margin + 1)
    return np.any([padded[y : y + side, x : x + side] for y in shifts for x in shifts], axis=0)


def _brightness(colour: np.ndarray) -> float:
    """Return the luma of a colour (3,). Source: ITU-R BT.601."""
    return float(colour @ (0.299, 0.587, 0.114))
