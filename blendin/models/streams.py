"""In which CUDA stream a second thread reads, and from when on what it found may be used elsewhere.

Kernels of one stream follow each other; those of two do not, and the caching allocator gives memory
that one has freed to that one again, whatever the other still does with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class ReadingStream:
    """The stream of a thread that reads with a model beside another thread.

    It has one to itself, on a device of its own too: what the other thread takes from there (the
    logits, to where steps are decided) would queue behind the next read. On other devices than
    CUDA's there is nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        """Makes no stream yet.

        Args:
            device: of the model's logits.
        """
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def mark(self) -> torch.cuda.Event | None:
        """What a read has to wait for: all that the asking thread has launched there so far."""
        if self._device.type != "cuda":
            return None
        return torch.cuda.current_stream(self._device).record_event()

    @contextmanager
    def reading(self, asked: torch.cuda.Event | None) -> Iterator[None]:
        """Within it this thread launches a read; at its end all of it is done.

        Args:
            asked: when it was asked for, in the thread that did.
        """
        if asked is None:
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):  # its device is the current one, too
            self._stream.wait_event(asked)
            try:
                yield
            finally:
                # Or whoever takes the answer would wait for it in a stream, and so would its host.
                self._stream.synchronize()

    def taken(self, found: Tensor) -> None:
        """The asking thread uses what was found: its memory is not to be given away before."""
        if found.device.type == "cuda":
            found.record_stream(torch.cuda.current_stream(found.device))
