"""Fixture of diagnostic commands."""

from collections.abc import Callable

import pytest

from groundup.cli import main


@pytest.fixture
def command(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; returns exit status, standard output and standard error."""

    def call(*argv: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in argv])
        return exit_.value.code, *capsys.readouterr()

    return call
