"""Names of lengths and times as files write them -> mm, um and seconds."""

from __future__ import annotations

_MM = {
    "m": 1e3,
    "dm": 1e2,
    "cm": 10.0,
    "mm": 1.0,
    "um": 1e-3,
    "nm": 1e-6,
    "pm": 1e-9,
    "meter": 1e3,
    "decimeter": 1e2,
    "centimeter": 10.0,
    "millimeter": 1.0,
    "micrometer": 1e-3,
    "micron": 1e-3,
    "nanometer": 1e-6,
    "picometer": 1e-9,
    "å": 1e-7,
    "angstrom": 1e-7,
    "inch": 25.4,
    "in": 25.4,
    "mil": 0.0254,
    "thou": 0.0254,
    "foot": 304.8,
    "ft": 304.8,
    "km": 1e6,
    "kilometer": 1e6,
}
_SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "millisecond": 1e-3,
    "us": 1e-6,
    "usec": 1e-6,
    "microsecond": 1e-6,
    "ns": 1e-9,
    "nanosecond": 1e-9,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
}
_NO_LENGTHS = ("", "pixel", "px", "voxel", "?", "???", "none", "unknown", "reference frame")
_UM_PER_MM = 1000.0


def length(name: str) -> tuple[str, float] | None:
    """Unit of ours, and how many of it one of the named is: ``microns`` -> ("um", 1.0); None if unknown.

    Metric names below a millimetre become um, all others mm. ``pixel`` and its like are ("pixel", 1.0).
    """
    if name.strip() == "Mm":  # the one metric name that its lower case changes: a million metres
        return None
    plain = _plain(name)
    if plain in _NO_LENGTHS or plain.removesuffix("s") in _NO_LENGTHS:
        return "pixel", 1.0
    factor = _of(_MM, plain)
    if factor is None:
        return None
    return ("um", round(factor * _UM_PER_MM, 12)) if factor < 1e-2 else ("mm", factor)


def seconds(name: str) -> float | None:
    """How many seconds one of the named time is; None if unknown."""
    return _of(_SECONDS, _plain(name))


def common(units: dict[str, str]) -> tuple[str, dict[str, float]] | None:
    """One unit for axes that each have their own name of it, and the factor of each.

    Parameters
    ----------
    units : axis -> name

    Returns
    -------
    unit, axis -> factor
        um where one axis is in um; None where a name is unknown, or where some axes have none.
    """
    found = {axis: length(name) for axis, name in units.items()}
    known = {axis: one for axis, one in found.items() if one is not None}
    kinds = {unit for unit, _ in known.values()}
    if len(known) < len(found) or ("pixel" in kinds and len(kinds) > 1):
        return None
    unit = "um" if "um" in kinds else next(iter(kinds), "pixel")
    return unit, {
        axis: factor * (_UM_PER_MM if unit == "um" and own == "mm" else 1.0)
        for axis, (own, factor) in known.items()
    }


def _plain(name: str) -> str:
    """Lower case, ``u`` for every micro sign (also as ImageJ escapes it), American spelling, no dot."""
    text = name.strip().replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u")
    return text.lower().rstrip(".").replace("metre", "meter")


def _of(table: dict[str, float], plain: str) -> float | None:
    singular = {"inches": "inch", "feet": "foot"}.get(plain, plain[:-1] if plain.endswith("s") else plain)
    return table.get(plain, table.get(singular))
