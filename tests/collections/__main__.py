"""Writes docs/collections anew; `make collections` calls it."""

import shutil
from pathlib import Path
from typing import Final

from tests.collections.bruno import bruno
from tests.collections.postman import postman

FOLDER: Final = Path(__file__).parents[2] / "docs" / "collections"


def files() -> dict[str, str]:
    """Return what the folder holds beside its README, by path."""
    return {
        "ordertape.postman_collection.json": postman(),
        **{f"bruno/{path}": content for path, content in bruno().items()},
    }


def main() -> None:
    """Write every file, and remove those that are no longer made."""
    shutil.rmtree(FOLDER / "bruno", ignore_errors=True)
    for path, content in files().items():
        target = FOLDER / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
