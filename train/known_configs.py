"""The configurations that come with the package, found by name: ``demo``, ``configs/demo.toml``, ``objective-demo``."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from supportset.store.errors import UsageError

CONFIGS = Path(str(files("supportset") / "configs"))
GRIDS = CONFIGS / "ablations"


def known(folder: Path) -> dict[str, Path]:
    """Name -> file of the configurations (`CONFIGS`) or grids (`GRIDS`) that come with the package."""
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_config(name: str | Path, folder: Path = CONFIGS, *, beside: Path = Path()) -> Path:
    """Find a configuration: the user's own file, or one of the package by its name.

    Parameters
    ----------
    name : str or Path
        Path of a TOML file, or the name of a known one: ``demo``, ``demo.toml``, ``configs/demo.toml``.
    folder : Path
        `CONFIGS`, or `GRIDS` to find a grid.
    beside : Path
        Folder that relative paths start from.

    Raises
    ------
    UsageError
        Neither; the message names the nearest known one.
    """
    if (own := beside / name).is_file():
        return own
    inside = Path(*Path(name).parts[1:]) if Path(name).parts[:1] == ("configs",) else Path(name)
    if not Path(name).is_absolute():
        candidates = (place / each for place in (folder, CONFIGS) for each in (inside, f"{inside}.toml"))
        if found := next((path for path in candidates if path.is_file()), None):
            return found
    names = known(folder)
    close = get_close_matches(inside.stem, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"{name}: no such configuration file; {hint}known by name: {', '.join(names)}")
