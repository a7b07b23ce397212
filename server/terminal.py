"""What commands that run for long have in common on the terminal."""

import signal
import threading

from rich.console import Console

# Columns of a table in a file; on a narrower terminal figures are folded, and never cut.
_FILE_WIDTH = 140


def consoles() -> tuple[Console, Console]:
    """Where tables are printed, wide enough in a file, and where errors are."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    return console, Console(stderr=True)


def stop_on_signals() -> threading.Event:
    """What SIGINT or SIGTERM sets; a second one raises KeyboardInterrupt."""
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop
