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
"""Of 64x64."""


class ToneChange(NamedTuple):
    """What a tone changes between two pictures."""

    num_skin: int
    """Pixels that have either colour of skin, in the picture that has fewer of them."""
    plain: np.ndarray
    """The mean colour of those in the picture without the tone, float64 (3,)."""
    toned: np.ndarray
    """The mean colour of those in the other picture."""
    rest: float
    """The mean difference of the pixels that are skin in neither picture, in levels."""

    def way(self) -> float:
        """Return which part of the way from yellow to brown skin goes, the lesser of two: in brightness, and in how
        much more red it has than blue. 0 where one of the pictures shows too little skin.
        """
        if self.num_skin < LEAST_SKIN_PX:
            return 0.0
        wanted = _measures(np.array(PLAIN_SKIN)) - _measures(np.array(TONED_SKIN))
        return float(((_measures(self.plain) - _measures(self.toned)) / wanted).min())

    def is_darker_and_browner(self) -> bool:
        """Whether skin goes at least half the way."""
        return self.way() >= 0.5

    @property
    def skin(self) -> float:
        """The difference of the skin's mean colours, in levels."""
        return float(np.abs(self.plain - self.toned).mean())


def compare_tones(plain: np.ndarray, toned: np.ndarray) -> ToneChange:
    """Return what differs between two pictures uint8 (S, S, 3); without skin, its colours are black."""
    pictures = plain.astype(np.float64), toned.astype(np.float64)
    skins = [_is_skin(picture) for picture in pictures]
    colours = (
        picture[skin].mean(0) if skin.any() else np.zeros(3) for picture, skin in zip(pictures, skins, strict=True)
    )
    rest = ~_widen(skins[0] | skins[1])
    difference = np.abs(pictures[0] - pictures[1])[rest]
    return ToneChange(int(min(skin.sum() for skin in skins)), *colours, float(difference.mean()) if rest.any() else 0.0)


def _is_skin(picture: np.ndarray) -> np.ndarray:
    near = [np.linalg.norm(picture - colour, axis=-1) < _MAX_DISTANCE for colour in (PLAIN_SKIN, TONED_SKIN)]
    return near[0] | near[1]


def _widen(mask: np.ndarray) -> np.ndarray:
    """Return the mask (S, S) with all that is within the margin, to the sides and to the corners."""
    side, margin = len(mask), _MARGIN_PX
    padded = np.pad(mask, margin)
    shifts = range(2 * margin + 1)
    return np.any([padded[y : y + side, x : x + side] for y in shifts for x in shifts], axis=0)


def _measures(colour: np.ndarray) -> np.ndarray:
    """Return the luma of a colour (3,) and its red less its blue. Source of the former: ITU-R BT.601."""
    return np.array([colour @ (0.299, 0.587, 0.114), colour[0] - colour[2]])
