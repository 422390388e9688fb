"""Where two configs differ."""

from typing import Any


def first_difference(there: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Return the dotted key and both values of the first difference between two JSON values."""
    if isinstance(there, dict) and isinstance(now, dict):
        pairs = [(name, there.get(name), now.get(name)) for name in {**there, **now}]
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        pairs = [(index, *pair) for index, pair in enumerate(zip(there, now, strict=True))]
    else:
        return None if there == now else (key, there, now)
    inner = (first_difference(old, new, f"{key}.{name}".strip(".")) for name, old, new in pairs)
    return next((difference for difference in inner if difference is not None), None)
