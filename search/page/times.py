"""Times, sizes and rates as people read them."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any.

    >>> clock(65.4), clock(3725)
    ('1:05', '1:02:05')
    """
    whole = int(max(seconds, 0.0) + 0.5)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def span(start_s: float, end_s: float) -> str:
    """A part of a video; nothing for a picture, whose times are 0.

    >>> span(65, 72), span(0, 0)
    ('1:05–1:12', '')
    """
    if end_s <= 0:
        return ""
    first, last = clock(start_s), clock(end_s)
    return first if first == last else f"{first}\N{EN DASH}{last}"


def lasting(seconds: float) -> str:
    """A duration in words.

    >>> lasting(42), lasting(600), lasting(7300)
    ('42 s', '10 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes.

    >>> size(900), size(2_500_000)
    ('900 B', '2.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
