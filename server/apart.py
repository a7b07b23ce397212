"""A function in a process of its own, with which its imports and its memory go."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from hotfeast.server.errors import StartFailure
from hotfeast.server.logs import log_settings, set_up_logs
from hotfeast.server.settings import LogSettings

T = TypeVar("T")

# Beside requests, which are to have the processor first.
_NICE = 10


def run_apart(function: Callable[..., T], *arguments: object) -> T:
    """Calls a function in a new process, and waits for it.

    Args:
        function: Of a module; it, its arguments and what it returns are pickled.
        arguments: For it.

    Raises:
        StartFailure: The function raised it, or the process has ended without an answer.
    """
    # Not fork: gRPC's threads do not survive one.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_answer,
        args=(sender, log_settings(), function, arguments),
        name=function.__name__,
        daemon=True,
    )
    process.start()
    sender.close()
    try:
        failure, result = receiver.recv()
    except EOFError:
        process.join()
        raise StartFailure(
            f"the process of {function.__name__} has ended with exit code {process.exitcode}"
        ) from None
    finally:
        receiver.close()
    process.join()
    if failure is not None:
        raise StartFailure(failure)
    made: T = result
    return made


def _answer(
    sender: Connection,
    logs: LogSettings,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    # Meant for the parent, also where a terminal sends them to all.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    set_up_logs(logs)
    try:
        sender.send((None, function(*arguments)))
    except StartFailure as error:
        sender.send((str(error), None))
