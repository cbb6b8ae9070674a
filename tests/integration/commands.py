"""Commands of `ordertape` in the process of a test, which need not wait for an interpreter to start."""

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from app.cli.main import main


def command_here(environment: Mapping[str, str], directory: Path, *command: str, status: int = 0) -> tuple[str, str]:
    """Run a command, which is to end with ``status``, and return its output and its error text.

    Args:
        environment: all variables that the command sees.
        directory: the working directory meanwhile; nothing else of this process may depend on either.
    """
    out, errors = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        for name in set(os.environ) - set(environment):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["ordertape", *command])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == status, errors.getvalue() + out.getvalue()
    return out.getvalue(), errors.getvalue()
