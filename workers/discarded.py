"""What Celery logs of a message that it cannot use: all but its content, which may be the text of items."""

from __future__ import annotations

import logging

from celery.worker.consumer import consumer

_REPORTS = {
    consumer.UNKNOWN_FORMAT: "it is no task",
    consumer.UNKNOWN_TASK_ERROR: "no task has this name",
    consumer.INVALID_TASK_ERROR: "it is no valid task",
    consumer.MESSAGE_DECODE_ERROR: "it is no JSON",
}


class WithoutBody(logging.Filter):
    """Takes body, headers and traceback out of these reports."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass; a report of a message loses the message."""
        why = _REPORTS.get(record.msg)
        if why is not None:
            fields = {"why": why}
            if record.msg == consumer.UNKNOWN_TASK_ERROR and isinstance(record.args, tuple):
                fields["task"] = str(record.args[0]).encode("ascii", "backslashreplace").decode()[:100]
            record.__dict__.update(msg="message_discarded", args=(), exc_info=None, exc_text=None, fields=fields)
        return True
