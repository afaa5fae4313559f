"""Signals that end a process, met as Ctrl-C is: what it was writing is removed, one line said."""

from __future__ import annotations

import signal
import threading
from typing import Final, NoReturn

INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as shells have it."""

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
"""Of ``kill``, batch systems and containers; of a terminal that is closed."""


class Ended(KeyboardInterrupt):
    """The process was told to end by a signal other than that of Ctrl-C.

    Attributes:
        status: the exit status, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.status = 128 + number


def meet_signals() -> None:
    """Raise :class:`KeyboardInterrupt` in the main thread at the first signal to end.

    The second one ends the process at once: the next run removes what is left then. Signals that
    are ignored, as under ``nohup``, or that a program has a handler of its own for, stay as they
    are.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    usual = {signal.SIG_DFL, signal.default_int_handler}
    for number in (signal.SIGINT, *_ENDING):
        if signal.getsignal(number) in usual:
            signal.signal(number, _raise)


def ending(interrupt: KeyboardInterrupt) -> tuple[str, int]:
    """What to say of an interruption, and the exit status."""
    if isinstance(interrupt, Ended):
        return str(interrupt), interrupt.status
    return "interrupted", INTERRUPTED


def _raise(number: int, frame: object) -> NoReturn:
    for other in (signal.SIGINT, *_ENDING):
        if signal.getsignal(other) is _raise:
            signal.signal(other, signal.SIG_DFL)
    raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)
