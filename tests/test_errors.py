"""What is told of errors, and what is an interrupt."""

import pickle
import signal

import pytest

from llmsched_gym.errors import Interrupted, PolicyError, interrupted, one_line, printable, raised


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größe, 作業, a\nb", "plain, größe, 作業, a\nb"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\u202eb\ud800\x00\x9b", "a\\u202eb\\ud800\\x00\\x9b"),
    ],
)
def test_nothing_commands_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(ValueError(text)) == shown.replace("\n", " ")
    assert one_line(OSError(2, "No such file", text)) == shown.replace("\n", " ") + ": No such file"


def failing(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised_error:
        return raised_error


def test_what_code_of_the_user_raises_keeps_its_traceback_between_processes() -> None:
    error = raised("policy mine: episode 3", failing(KeyError("lost\x1b[1m")), frames=0)
    assert isinstance(error, PolicyError)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "policy mine: episode 3: KeyError: 'lost\\x1b[1m'"
    assert copy.details == error.details
    assert "in failing\n    raise error\n" in error.details
    assert "\x1b" not in error.details


def test_an_interrupt_is_one_in_whatever_disguise() -> None:
    disguised = ValueError("compiling failed")
    disguised.__context__ = KeyboardInterrupt()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        for error in (KeyboardInterrupt(), Interrupted(), disguised):
            assert interrupted(error)
            assert isinstance(raised("policy", error), Interrupted)
        signal.signal(signal.SIGINT, lambda *_: None)  # as in a command
        assert not interrupted(KeyboardInterrupt())
        assert isinstance(raised("policy", KeyboardInterrupt()), PolicyError)
        assert interrupted(Interrupted())
    finally:
        signal.signal(signal.SIGINT, handler)
