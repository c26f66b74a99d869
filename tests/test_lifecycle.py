"""Ctrl-C is held back where a stop would do harm, and obeyed where it is pressed twice."""

import signal
import threading

import pytest

from k2lib.lifecycle import interrupts_held


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_comes_through_where_it_is_let() -> None:
    with interrupts_held() as held:
        held.check()
        press()
        with pytest.raises(KeyboardInterrupt):
            held.check()
        held.check()


def test_ctrl_c_pressed_twice_comes_at_once() -> None:
    with interrupts_held():
        press()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_ctrl_c_that_was_held_can_be_let_through_afterwards() -> None:
    with interrupts_held() as held:
        press()
    with pytest.raises(KeyboardInterrupt):
        held.check()


def test_afterwards_ctrl_c_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_held():
        assert signal.getsignal(signal.SIGINT) is not before
    with interrupts_held(), interrupts_held():
        press()
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_that_ends_a_process_is_left_alone() -> None:
    with interrupts_held():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_holds_nothing_back() -> None:
    seen = []

    def hold() -> None:
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
