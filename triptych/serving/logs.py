"""Log lines: JSON or text on stderr, each with service, replica and request id; JSON also with trace and span, where
there are any. Set up once, in `__main__`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from triptych import traces
from triptych.serving import request_id
from triptych.serving.config import ServingConfig

_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; whatever is passed as `extra` becomes a key."""

    def __init__(self, service: str, replica_id: str) -> None:
        super().__init__()
        self._fixed = {"service": service, "replica": replica_id}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._fixed,
            "request_id": request_id.current.get(),
            **(traces.exemplar() or {}),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same facts for people."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        request = request_id.current.get()
        line = f"{time} {record.levelname.lower():7} {self._service} {f'[{request}] ' if request else ''}"
        line += record.getMessage() + extra
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logs(config: ServingConfig, replica_id: str = "") -> None:
    """Replaces the root logger's handlers; `logging.getLogger(__name__).info(text, extra={...})` then does."""
    handler = logging.StreamHandler(sys.stderr)
    is_json = config.log_format == "json"
    handler.setFormatter(JsonFormatter(config.service, replica_id) if is_json else TextFormatter(config.service))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
