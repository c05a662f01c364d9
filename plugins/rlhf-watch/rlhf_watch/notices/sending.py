"""Sends a notice with one more attempt; a failure is a line of the log."""

from __future__ import annotations

import logging
import threading
import time
from urllib.error import HTTPError, URLError

from rlhf_watch.notices.address import Address, Notice

logger = logging.getLogger(__name__)
PAUSE = 1.0  # seconds before the second attempt


def send(address: Address, notice: Notice) -> None:
    """Delivers it; what fails is logged without the address, and nothing is raised."""
    for pause in (PAUSE, None):
        try:
            address.deliver(notice)
            return
        except Exception as error:  # whatever it is, an alarm that nobody receives stops no training
            reason = _reason(error)
        if pause:
            time.sleep(pause)
    logger.warning("the alarm of %s was not sent to %s: %s", notice.monitor, address, reason)


def send_beside(address: Address, notice: Notice) -> None:
    """Sends in a thread, so that a training waits for no server; a process that ends does wait."""
    threading.Thread(target=send, args=(address, notice)).start()


def _reason(error: Exception) -> str:
    """The kind of an error and its code: its text may hold the address."""
    code = getattr(error, "code", None) or getattr(error, "smtp_code", None)
    cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    return f"{type(cause).__name__} {code}" if code else type(cause).__name__
