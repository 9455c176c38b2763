"""A request to stop that Python swallowed is raised again at the next step."""

import signal
import sys
import threading

import pytest

from edgewright.cli.interrupt import check, terminable
from edgewright.cli.output import working


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lost_request_ends_the_next_step(number, capsys):
    with terminable(), working("compile") as progress:
        progress("lower")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        # Nobody passed it on, as when it was raised inside a finaliser.
        with pytest.raises(KeyboardInterrupt):
            progress("verify")
    assert "verify" not in capsys.readouterr().err


def test_what_comes_after_the_command_starts_afresh():
    with terminable(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    check()
    with terminable():
        check()


def test_a_second_signal_finds_no_lock_taken():
    """`timeout` and a kill of the group both tell a process to end, the second while the first is handled."""
    called = []

    def watch(frame, event, argument):
        called.append(frame.f_code.co_filename)

    with terminable(), pytest.raises(KeyboardInterrupt):
        sys.setprofile(watch)
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            sys.setprofile(None)
    assert threading.__file__ not in called
