"""The process that extracts for a server: orders in on standard input, events out on standard output, as JSON lines.

It may die without the server. It ends when its input ends: with the server, or when the server wants it to.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, Any

from supportset._process import prepare_process

NICE = 10  # the searches of the server go first


class Lines:
    """Writes events, each whole, from any thread."""

    def __init__(self, out: IO[str]) -> None:
        self._out, self._lock = out, threading.Lock()

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        line = json.dumps({"event": event, **facts}, default=str)
        with self._lock:
            self._out.write(f"{line}\n")
            self._out.flush()


def main() -> None:
    """Work through rounds until the input ends, or SIGTERM."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the events
    os.nice(NICE)
    prepare_process()
    tell, orders = Lines(out), SimpleQueue[str | None]()
    lines = os.fdopen(os.dup(0), encoding="utf-8")  # a thread that waits in sys.stdin would disturb the end
    first = lines.readline()
    threading.Thread(target=_read, args=(lines, orders), daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _work(json.loads(first), _orders(orders), tell)
    except KeyboardInterrupt:
        os._exit(130)  # everything is sealed, and torch takes seconds to be taken down
    except BrokenPipeError:  # the server is gone
        os._exit(1)


def _work(first: dict[str, Any], orders: Iterator[dict[str, Any]], tell: Lines) -> None:
    from supportset.extract.progress.interrupted import Interrupted
    from supportset.search.ingest.messages import Order
    from supportset.search.ingest.rounds import EncoderMissing, Rounds
    from supportset.store.errors import SupportsetError

    rounds = None
    for order in orders:
        try:
            rounds = rounds or Rounds(Order(**first), tell)
            result = rounds.round(**order)
        except Interrupted:
            raise KeyboardInterrupt from None
        except EncoderMissing as error:
            tell("refused", {"message": str(error), "encoder": True})
        except SupportsetError as error:
            tell("refused", {"message": str(error), "encoder": False})
        else:
            tell("round", asdict(result))


def _orders(lines: SimpleQueue[str | None]) -> Iterator[dict[str, Any]]:
    while (line := lines.get()) is not None:
        yield json.loads(line)


def _read(lines: IO[str], orders: SimpleQueue[str | None]) -> None:
    """Pass orders on; at the end of the input interrupt what runs, which seals complete clips."""
    for line in lines:
        orders.put(line)
    orders.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
