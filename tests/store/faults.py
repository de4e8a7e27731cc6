"""Faults of the file system, at the n-th operation of the store's write path."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supportset.store.files import local

OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "makedirs", "rename", "link", "unlink")


class Killed(BaseException):
    """Stands for ``kill -9``: from here on, no operation of the process takes place."""


class FaultyDisk:
    """Replaces the system calls that :mod:`supportset.store.files.local` makes.

    Parameters
    ----------
    monkeypatch : puts the calls back in the end
    at : number of the operation that fails, counted from 0; or the name of one and how many of this name are to go
        through before; none where it is never reached
    fault : ``kill``; or the errno of the error that is raised; or what is called before the operation, which then goes
        on: what other processes do while this one is suspended. Their operations, and those of other threads, are not
        counted
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        at: int | tuple[str, int],
        fault: int | str | Callable[[], object],
    ) -> None:
        self.name, self.at = at if isinstance(at, tuple) else ("", at)
        self.fault = fault
        self.count = 0
        self.struck = ""
        self._thread = threading.get_ident()
        self._away = False
        calls = {name: getattr(os, name) for name in dir(os) if not name.startswith("__")}
        calls["fsync"] = lambda descriptor: None  # counted, but not waited for
        calls |= {name: self._faulty(name, calls[name]) for name in OPERATIONS}
        monkeypatch.setattr(local, "os", SimpleNamespace(**calls))
        monkeypatch.setattr(local, "shutil", SimpleNamespace(rmtree=self._faulty("rmtree", shutil.rmtree)))

    def _faulty(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._away or threading.get_ident() != self._thread:
                return call(*args, **kwargs)
            if self.struck and self.fault == "kill":
                raise Killed
            if self.name in ("", name):
                self.count += 1
                if self.count == self.at + 1:
                    self.struck = name
                    self._strike(name, call, args, kwargs)
            return call(*args, **kwargs)

        return wrapped

    def _strike(self, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> None:
        if callable(self.fault):
            self._away = True
            try:
                self.fault()
            finally:
                self._away = False
            return
        if name == "write":  # the disk took half of it
            os.write(args[0], args[1][: len(args[1]) // 2])
        if name == "close":  # a descriptor is gone even where close reports an error
            call(*args, **kwargs)
        if name == "rmtree":  # half of it is gone
            files = sorted(file for file in Path(args[0]).rglob("*") if file.is_file())
            for file in files[: len(files) // 2]:
                file.unlink()
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault))
        raise Killed


FAULTS: tuple[int | str, ...] = ("kill", errno.ENOSPC)
