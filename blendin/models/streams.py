"""In which CUDA stream a second thread reads, and from when on what it found may be used elsewhere.

Kernels of one stream follow each other; those of two do not, and the caching allocator gives memory
that one has freed to that one again, whatever the other still does with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class Mark(NamedTuple):
    """A point in the work of the thread that asks.

    Attributes:
        stream: in which it works.
        event: what it had launched there by then.
    """

    stream: torch.cuda.Stream
    event: torch.cuda.Event


class ReadingStream:
    """Where a thread reads with a model, beside another one that works on.

    On a device of its own it launches into the stream that the asking thread uses there, so that
    both follow each other as if one thread launched all. Where another model runs on the device
    too, it has a stream to itself. On other devices than CUDA's there is nothing to do.
    """

    def __init__(self, device: torch.device, is_shared: bool) -> None:
        """Makes no stream yet.

        Args:
            device: of the model's logits.
            is_shared: whether other work is to go on there meanwhile.
        """
        self._device, self._is_shared = device, is_shared
        self._own: torch.cuda.Stream | None = None

    def mark(self) -> Mark | None:
        """What a read has to wait for: all that this thread has launched so far."""
        if self._device.type != "cuda":
            return None
        stream = torch.cuda.current_stream(self._device)
        return Mark(stream, stream.record_event())

    @contextmanager
    def reading(self, asked: Mark | None) -> Iterator[None]:
        """Within it this thread launches a read; at its end all of it is done.

        Args:
            asked: when it was asked for, in the thread that did.
        """
        if asked is None:
            yield
            return
        if self._is_shared and self._own is None:
            self._own = torch.cuda.Stream(self._device)
        stream = self._own or asked.stream
        with torch.cuda.stream(stream):  # its device is the current one, too
            stream.wait_event(asked.event)
            try:
                yield
            finally:
                # Or whoever takes the answer would wait for it in a stream, and so would its host.
                stream.synchronize()

    def taken(self, found: Tensor) -> None:
        """The asking thread uses what was found: its memory is not to be given away before."""
        if found.device.type == "cuda":
            found.record_stream(torch.cuda.current_stream(found.device))
