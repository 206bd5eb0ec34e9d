"""Presigned URLs are secrets for a quarter of an hour, and HTTP libraries write every URL to their logs: without its
signature, one opens nothing.
"""

import logging
import re

LOGGERS = ("httpx", "urllib3.connectionpool", "urllib3.util.retry")
"""Those that write URLs."""
_SECRET = re.compile(r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token))=[^&\s\"'>)]+")


def redacted(text: str) -> str:
    """The same without what makes a presigned URL open anything."""
    return _SECRET.sub(r"\1=hidden", text)


def hide_signatures() -> None:
    """Keep signatures out of the logs of the HTTP libraries of this process. Calling it again is no error."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Redaction) for each in logger.filters):
            logger.addFilter(_Redaction())


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        hidden = redacted(text)
        if hidden != text:
            record.msg, record.args = hidden, ()
        return True
