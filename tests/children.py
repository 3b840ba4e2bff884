"""Work in processes that are forked off."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from threading import Timer
from typing import Any


def in_child(work: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What some work returns in a child, as JSON; else what went wrong, as a text.

    Only a child that hangs takes so many seconds: any thread may stand still for some.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as told:
                try:
                    json.dump(work(), told)
                except BaseException:
                    json.dump(traceback.format_exc(), told)
        finally:
            os._exit(0)
    os.close(writing)
    ending = Timer(seconds, os.kill, (pid, signal.SIGKILL))
    ending.start()
    with os.fdopen(reading) as told:
        text = told.read()
    ending.cancel()  # before its number is free for another process
    os.waitpid(pid, 0)
    return json.loads(text) if text else "the child hangs"
