"""Files side by side in one range of addresses: what is where, for how long, and what happens where it cannot be."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from supportset.store.files import address_range, disk_reads
from supportset.store.files.address_range import AddressRange
from supportset.store.files.mapping import LocalMapping

PAGE = mmap.PAGESIZE

FAULT = (-signal.SIGSEGV, -signal.SIGBUS)  # macOS gives the second

pytestmark = pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="files are mapped one by one here")


def is_mapped(address: int) -> bool:
    with open("/proc/self/maps") as maps:
        spans = [line.split()[0].split("-") for line in maps]
    return any(int(low, 16) <= address < int(high, 16) for low, high in spans)


def start_of(addresses: AddressRange) -> int:
    return int(np.asarray(addresses).ctypes.data)


def in_a_child(touch: object) -> int:
    """What a child process dies of, or leaves with."""
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            assert callable(touch)
            os._exit(0 if touch() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_files_lie_where_they_were_mapped(tmp_path: Path) -> None:
    contents = [os.urandom(2 * PAGE + 5), os.urandom(100)]
    addresses = AddressRange(6 * PAGE - 1)
    assert addresses.size == 6 * PAGE
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    with open(tmp_path / "0", "rb") as file:
        addresses.map_file(file.fileno(), PAGE, PAGE, 2 * PAGE)
    with open(tmp_path / "1", "rb") as file:
        addresses.map_file(file.fileno(), 0, 4 * PAGE, 2 * PAGE)  # up to the end, which the file has not
    view = np.asarray(addresses)
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    assert view[PAGE : 2 * PAGE + 5].tobytes() == contents[0][PAGE:]
    assert view[4 * PAGE : 4 * PAGE + 100].tobytes() == contents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_it_is_given_back_with_the_last_view(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * PAGE)
    addresses = AddressRange(3 * PAGE)
    with open(tmp_path / "a", "rb") as file:
        addresses.map_file(file.fileno(), 0, PAGE, PAGE)
    start = start_of(addresses)
    view = np.asarray(addresses)[PAGE : 2 * PAGE].view(np.uint16).reshape(-1, 4)[5:7]
    del addresses
    gc.collect()
    assert (view == 0x7878).all()
    assert is_mapped(start)
    del view
    gc.collect()
    assert not is_mapped(start + PAGE)


def test_addresses_without_a_file_are_nobodys() -> None:
    """A mistake would end the process at once, and read nothing that is not a file's."""
    addresses = AddressRange(2 * PAGE)
    assert in_a_child(lambda: ctypes.string_at(start_of(addresses) + PAGE, 1)) in FAULT


def test_it_lives_through_a_fork(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * PAGE)
    (tmp_path / "b").write_bytes(b"b" * PAGE)
    addresses = AddressRange(2 * PAGE)
    LocalMapping(tmp_path / "a").place(addresses, 0, 0, PAGE)

    def more() -> bool:
        LocalMapping(tmp_path / "b").place(addresses, 0, PAGE, PAGE)
        return bytes(np.asarray(addresses)[::PAGE]) == b"ab"

    assert in_a_child(more) == 0
    assert bytes(np.asarray(addresses)[:2]) == b"aa"
    assert in_a_child(lambda: np.asarray(addresses)[PAGE] == ord("b")) in FAULT  # the other child's alone


@pytest.mark.parametrize("place", [(1, 0, PAGE), (0, 1, PAGE), (0, 2 * PAGE, PAGE), (0, -PAGE, PAGE), (0, 0, 0)])
def test_nothing_is_mapped_outside(tmp_path: Path, place: tuple[int, int, int]) -> None:
    (tmp_path / "a").write_bytes(b"a" * PAGE)
    with open(tmp_path / "a", "rb") as file, pytest.raises(OSError, match="outside"):
        AddressRange(2 * PAGE).map_file(file.fileno(), *place)


def test_a_place_that_could_not_be_filled_is_never_given_back() -> None:
    """A system may have freed it, and given it to somebody else since."""
    addresses = AddressRange(PAGE)
    reading, writing = os.pipe()
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        addresses.map_file(reading, 0, 0, PAGE)  # a pipe cannot be mapped
    os.close(reading)
    os.close(writing)
    assert not addresses._release.alive


def test_limited_addresses_are_not_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 40, 1 << 40))
    with pytest.raises(OSError, match="here"):
        AddressRange(PAGE)


def test_systems_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_range.sys, "platform", "sunos5")
    address_range._libc.cache_clear()
    try:
        with pytest.raises(OSError, match="here"):
            AddressRange(PAGE)
    finally:
        monkeypatch.undo()
        address_range._libc.cache_clear()
    AddressRange(PAGE)


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is counted")
def test_a_placed_file_is_closed_and_comes_when_asked_for(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    (tmp_path / "a").write_bytes(content)
    descriptor = os.open(tmp_path / "a", os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    before = len(os.listdir("/proc/self/fd"))
    mapped = LocalMapping(tmp_path / "a")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    addresses = AddressRange(1 << 21)
    mapped.place(addresses, PAGE, 8 * PAGE, (1 << 20) - PAGE)
    mapped.expect_random()
    assert len(os.listdir("/proc/self/fd")) == before
    reads = disk_reads()
    mapped.ask([(PAGE, 2 * PAGE + 3), (500_001, 1 << 20), (PAGE, PAGE)])
    if os.stat(tmp_path).st_dev >> 8:  # on a block device, so that evicting is possible
        asked = disk_reads() - reads
        assert asked * 512 >= (1 << 20) - 500_001
        assert asked * 512 <= (1 << 20) - 500_001 + 5 * PAGE  # and nothing around it
    part = np.asarray(addresses)[8 * PAGE : 7 * PAGE + (1 << 20)]
    assert part.tobytes() == content[PAGE:]
