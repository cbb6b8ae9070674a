"""Where a server listens: a unix socket in the data directory, or a loopback port where its path would be too long."""

from __future__ import annotations

import os
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
SOCKET_PATH_BYTES_MAX = 100


def fits_socket(path: Path) -> bool:
    """Whether a unix socket may have this path on every platform."""
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX


def free_port() -> int:
    """A loopback port that nobody listens on now; a server that finds it taken a moment later says so in its log."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
