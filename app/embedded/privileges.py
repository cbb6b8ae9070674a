"""Under which identity PostgreSQL runs: it refuses root, and users without an account."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import msgspec

from app.embedded.children import Credentials
from app.embedded.errors import EmbeddedError

PROBE_SECONDS_MAX = 20
NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534")


class _Identity(msgspec.Struct, frozen=True):
    """An identity as the servers' programs see it, and who it is as the owner of files."""

    description: str
    credentials: Credentials
    owner: int
    group: int


def postgres_credentials(postgres: Path, data_dir: Path) -> Credentials:
    """Choose an identity under which the program ``postgres`` runs and may write in ``data_dir``.

    As root, ``data_dir`` and the cluster in it are given to that identity; nothing outside is changed.

    Raises:
        EmbeddedError: PostgreSQL refuses the caller, and no other identity is at hand. The message names the remedies.
    """
    if os.geteuid() != 0 and _has_account():
        return Credentials()
    obstacles = []
    for identity in _identities():
        obstacle = _obstacle(identity, postgres, data_dir)
        if not obstacle:
            _give(data_dir / "postgres", identity)
            return identity.credentials
        obstacles.append(f"{identity.description}: {obstacle}")
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root or as a user without an account (this is user {os.geteuid()}), and here it "
        f"can run neither as user nobody nor in a user namespace ({'; '.join(obstacles)}). Either make the "
        f"installation {postgres.parents[1]}, the directories above it and those above {data_dir} accessible to other "
        f"users (chmod o+rX), or enable unprivileged user namespaces (sysctl user.max_user_namespaces, "
        f"kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns). Or run OrderTape as an "
        f"ordinary user with an account, or set DATABASE_URL to use a server of your own."
    )


def _has_account() -> bool:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def _identities() -> list[_Identity]:
    """The identities to try, best first. The last one leaves the files to the caller, as a refusal should."""
    namespace = _Identity("in a user namespace", Credentials(prefix=NAMESPACE), os.geteuid(), os.getegid())
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return [namespace]
    credentials = Credentials(user=nobody.pw_uid, group=nobody.pw_gid)
    return [_Identity("as user nobody", credentials, nobody.pw_uid, nobody.pw_gid), namespace]


def _obstacle(identity: _Identity, postgres: Path, data_dir: Path) -> str:
    """What keeps this identity from running PostgreSQL in ``data_dir``, given to it; empty if nothing does."""
    try:
        os.chown(data_dir, identity.owner, identity.group)
        version = _probe(identity.credentials, str(postgres), "--version")
        access = _probe(identity.credentials, "test", "-w", str(data_dir), "-a", "-x", str(data_dir))
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if version.returncode:
        return version.stderr.strip() or f"{postgres} does not run"
    return f"{data_dir} is out of reach" if access.returncode else ""


def _probe(credentials: Credentials, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*credentials.prefix, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROBE_SECONDS_MAX,
        cwd="/",
        user=credentials.user,
        group=credentials.group,
        extra_groups=None if credentials.user is None else [],
    )


def _give(cluster: Path, identity: _Identity) -> None:
    """Change the cluster's owner, its top directory last: an interrupted change is taken up again."""
    if not cluster.exists() or cluster.stat().st_uid == identity.owner:
        return
    for folder, _, names in os.walk(cluster, topdown=False):
        for name in names:
            os.lchown(Path(folder, name), identity.owner, identity.group)
        os.lchown(folder, identity.owner, identity.group)
