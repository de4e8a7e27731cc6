"""Which part sets the pace, and what is claimed to follow from it."""

from __future__ import annotations

import pytest

from supportset.extract.progress.stage_timing import DECODING, MODEL, WRITING, Pace, Spent


@pytest.mark.parametrize(
    ("spent", "slowest"),
    [
        (Spent(computing=2, frames=8), DECODING),
        (Spent(computing=8, frames=2), DECODING),  # the model is idle for a fifth of the time, decoding never
        (Spent(computing=8, frames=2, room=5), MODEL),
        (Spent(computing=10, room=0.2), MODEL),
        (Spent(computing=10, frames=0.001), MODEL),  # the last clips are decoded: workers have nothing to wait for
        (Spent(computing=6, frames=1, store=3), WRITING),
        (Spent(computing=6, frames=3, store=2), DECODING),
        (Spent(computing=9.5, store=0.5, room=3), MODEL),  # now and then the store is slow: no matter
        (Spent(starting=60, computing=0.5, frames=0.2), None),  # starting is no work
    ],
)
def test_who_waits_less_is_slower(spent: Spent, slowest: str | None) -> None:
    assert spent.slowest() == slowest


def said(workers: int, *parts: Spent) -> str | None:
    pace = Pace()
    for part in parts:
        pace.add(part)
    return pace.in_words(workers)


def test_words_claim_what_was_measured_and_no_more() -> None:
    assert said(1, Spent(computing=0.2, frames=0.3)) is None
    assert said(2, Spent(computing=3, frames=7), Spent(computing=1, frames=3)) == (
        "decoding set the pace: the model waited for frames 71% of the time; one more decode worker (3), with a core "
        "of its own, could save up to 33% of it"
    )
    assert "could save up to 20%" in str(said(2, Spent(computing=8, frames=2))), "never more than the model waited"
    assert said(4, Spent(computing=19, frames=1, room=12)) == (
        "the model set the pace: it was at work 95% of the time, and the decode workers waited for it 60%; faster "
        "decoding could save at most 5%"
    )
    assert str(said(1, Spent(computing=9, room=8))).endswith("faster decoding would save nothing")
    assert "kept pace with each other" in str(said(4, Spent(computing=19, frames=1, room=1)))
    assert "waited for the store 40%" in str(said(4, Spent(computing=6, store=4)))


def test_now_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("supportset.extract.progress.stage_timing.time.monotonic", lambda: clock[0])
    pace = Pace()
    assert pace.now() is None
    for second in range(60):
        clock[0] = float(second)
        pace.add(Spent(computing=1.0, room=0.8) if second < 40 else Spent(computing=0.3, frames=0.7))
        if second == 39:
            assert pace.now() == MODEL
    assert pace.now() == DECODING
    assert pace.total.slowest() == MODEL
