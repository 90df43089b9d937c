"""Numbers as people read them."""

import math

_MINUTE_S = 60
_HOUR_S = 3600


def say_count(number: int) -> str:
    """Return a whole number with its thousands apart; from a million on in three digits."""
    if number < 1_000_000:
        return f"{number:,}"
    unit, name = (1_000_000_000, "billion") if number >= 1_000_000_000 else (1_000_000, "million")
    return f"{number / unit:.3g} {name}"


def say_share(share: float) -> str:
    """Return a share of one as a percentage; what is neither none nor all never reads as such."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 < share < 1:
        return ">99.9 %"
    return f"{share:.0%}".replace("%", " %") if share in (0, 1) else f"{100 * share:.1f} %"


def say_seconds(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"


def say_bytes(number: float) -> str:
    """Return a size in decimal units, three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{say_figure(number)} {unit}"
        number /= 1000
    return f"{say_figure(number)} TB"


def say_figure(number: float) -> str:
    """Return a number in three digits, without an exponent where it is of everyday size."""
    if not number:
        return "0"
    if not 1e-4 <= abs(number) < 1e6:
        return f"{number:.3g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
