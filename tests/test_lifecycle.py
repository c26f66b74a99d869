"""Ctrl-C is held back where a stop would do harm, and obeyed where it is pressed twice."""

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from k2lib.cli.shared import sigterm_ends_it
from k2lib.lifecycle import interrupts_deferred, interrupts_kept


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_comes_through_where_it_is_let() -> None:
    with interrupts_deferred() as interrupt:
        interrupt.check()
        press()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.check()


def test_ctrl_c_pressed_twice_comes_at_once() -> None:
    with interrupts_deferred():
        press()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_ctrl_c_that_was_deferred_can_be_let_through_afterwards() -> None:
    with interrupts_deferred() as interrupt:
        press()
    with pytest.raises(KeyboardInterrupt):
        interrupt.check()


def test_afterwards_ctrl_c_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_deferred():
        assert signal.getsignal(signal.SIGINT) is not before
    with interrupts_deferred(), interrupts_deferred():
        press()
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_that_ends_a_process_is_left_alone() -> None:
    with interrupts_deferred():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.fixture
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, as the command line does."""
    with sigterm_ends_it():
        yield


@pytest.mark.usefixtures("ended_by_sigterm")
def test_sigterm_is_deferred_and_the_next_one_ends_the_process() -> None:
    with interrupts_deferred() as outer:
        with interrupts_deferred() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            with pytest.raises(KeyboardInterrupt):
                inner.check()
        outer.check()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("ended_by_sigterm")
def test_sigterm_interrupts_and_the_next_one_ends_the_process() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_defers_nothing() -> None:
    seen = []

    def hold() -> None:
        with interrupts_deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_ctrl_c_comes_through_whatever_a_library_makes_of_it() -> None:
    before, ended = signal.getsignal(signal.SIGINT), threading.Event()
    with pytest.raises(KeyboardInterrupt), interrupts_kept(ended.set):
        with suppress(KeyboardInterrupt):
            press()
        assert ended.wait(30)
    with pytest.raises(KeyboardInterrupt), interrupts_kept(ended.set):
        try:
            press()
        except KeyboardInterrupt:
            raise RuntimeError("the pending query was closed") from None
    with interrupts_kept(ended.set):
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_others_defer_stays_theirs() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_deferred() as interrupt:
        with interrupts_kept(lambda: None):
            press()
            assert signal.getsignal(signal.SIGINT) is before
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
