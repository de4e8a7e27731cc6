"""Protocols by name: they say what the readers say, and the galleries of other benchmarks lie within them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.evaluate.protocols import PROTOCOLS, gallery_of
from supportset.evaluate.splits import Split
from supportset.extract.readers import list_readers
from supportset.store.errors import UsageError

READERS = {name: (reader, sizes) for reader in list_readers() for name, sizes in reader.protocols.items()}


@pytest.mark.parametrize("name", [name for name in READERS if name != "demo"])
def test_every_readers_protocol_is_known_with_its_size(name: str) -> None:
    reader, sizes = READERS[name]
    assert PROTOCOLS[name].dataset == reader.name
    assert PROTOCOLS[name].clips == sizes.get("test")


@pytest.mark.parametrize(
    ("name", "clips"), [("mveb-msrvtt", 879), ("mveb-msvd", 660), ("mveb-vatex", 1000), ("mveb-activitynet", 4884)]
)
def test_galleries_of_mveb_are_lists_within_a_protocol(name: str, clips: int) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.clips == clips
    assert protocol.within is not None
    around = PROTOCOLS[protocol.within]
    assert around.dataset == protocol.dataset
    assert around.clips is not None
    assert clips <= around.clips


def test_a_list_with_strangers_is_refused() -> None:
    split = Split("test", ("a", "b", "c"), (), frozenset({"c"}))
    assert gallery_of(split, "list.txt", ("c", "a")) == Split("test", ("a", "c"), (), frozenset({"c"}))
    with pytest.raises(UsageError, match=r"list\.txt: 1 of 2 listed clips, such as 'z', are not in split 'test'"):
        gallery_of(split, "list.txt", ("a", "z"))


def test_the_command_lists_sizes_captions_and_sources() -> None:
    printed = CliRunner().invoke(cli, ["protocols"]).output
    assert "msrvtt-1ka-9k" in printed
    assert "MSRVTT_JSFUSION_test.csv" in printed
    assert "879 of msrvtt-1ka-9k, listed with --gallery" in printed
    told = json.loads(CliRunner().invoke(cli, ["protocols", "--json"]).output)
    assert told["msrvtt"]["msrvtt-1ka-9k"] == {"train": 9000, "test": 1000}
