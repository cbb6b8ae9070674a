"""The warden's command line: ``python -m app.embedded --data-dir DIR``; it serves until its standard input ends."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from app.embedded.warden import Launch, keep


def main() -> int:
    """Return 0 after an ordered stop, 1 when the servers did not start or ended by themselves."""
    parser = argparse.ArgumentParser(prog="python -m app.embedded", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path(".ordertape"), help="default: %(default)s")
    parser.add_argument("--start-timeout-seconds", type=int, default=60, help="for each server; default: %(default)s")
    parser.add_argument("--without-postgres", action="store_true", help="start Valkey alone")
    options = parser.parse_args()
    launch = Launch(options.data_dir, options.start_timeout_seconds, postgres=not options.without_postgres)
    return asyncio.run(keep(launch))


if __name__ == "__main__":
    sys.exit(main())
