"""Asking a model behind an OpenAI-compatible endpoint: cached, at a bounded rate, tried again when that makes sense."""

import base64
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Self

import urllib3
from pydantic import BaseModel, ConfigDict, Field

from services.trainer.data.files import read_json, write_first
from triptych.errors import FailedPrecondition, InvalidArgument, Unavailable

PASSING = (408, 409, 429, 500, 502, 503, 504)  # worth another try
REFUSED = (400, 413, 422)  # this request, not all of them
MAX_BACKOFF_S = 60


class Refused(Exception):
    """The endpoint will not answer this one request (too large, against its policy)."""


class Endpoint(BaseModel):
    """Where to ask, whom, and how fast. The key itself never stands in a recipe: `api_key_env` names its variable."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    base_url: str = Field(pattern=r"^https?://", description="up to and without /chat/completions")
    model: str = Field(min_length=1)
    api_key_env: str = ""
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=1)
    requests_per_minute: float = Field(60, gt=0)
    max_concurrency: int = Field(4, ge=1)
    timeout_s: float = Field(120, gt=0)
    max_retries: int = Field(6, ge=0)
    backoff_s: float = Field(
        1.0, ge=0, description="before the second retry; doubles with each, unless Retry-After says"
    )

    def key(self) -> str:
        """Raises InvalidArgument when the variable is named but not set."""
        if not self.api_key_env:
            return ""
        if not (key := os.environ.get(self.api_key_env, "")):
            raise InvalidArgument(f"api_key_env: the environment has no {self.api_key_env}")
        return key


class RateLimit:
    """Lets callers through at even distances, whichever thread they come from."""

    def __init__(self, per_minute: float) -> None:
        self._distance_s = 60 / per_minute
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._distance_s
        time.sleep(max(0.0, turn - time.monotonic()))


class _PacedRetry(urllib3.Retry):
    """Another try waits for its turn as a first one does."""

    def __init__(self, *, rate: RateLimit, **settings: Any) -> None:
        super().__init__(**settings)
        self._rate = rate

    def new(self, **changed: Any) -> Self:
        return super().new(rate=self._rate, **changed)

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        super().sleep(response)
        self._rate.wait()


class Writer:
    """Answers to (text, picture) requests. `cache` holds one file for each: a run that goes on asks nothing twice."""

    def __init__(self, endpoint: Endpoint, cache: Path) -> None:
        self.endpoint, self.cache = endpoint, cache
        self._rate = RateLimit(endpoint.requests_per_minute)
        self._retry = _PacedRetry(
            rate=self._rate,
            total=endpoint.max_retries,
            redirect=False,  # a key goes where the recipe says, and nowhere else
            allowed_methods=None,  # POST too: asking twice costs, but changes nothing
            status_forcelist=PASSING,
            backoff_factor=endpoint.backoff_s,
            backoff_max=MAX_BACKOFF_S,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(maxsize=endpoint.max_concurrency)

    def ask(self, text: str, picture: bytes = b"", media_type: str = "image/jpeg") -> str:
        """The model's answer. Raises Refused, Unavailable (no answer after all retries) or FailedPrecondition (the
        endpoint answers, but not as such an endpoint does, or not to us)."""
        body = json.dumps(self._body(text, picture, media_type), sort_keys=True).encode()
        path = self.cache / f"{hashlib.sha256(body).hexdigest()}.json"
        if not path.is_file():
            write_first(path, {"model": self.endpoint.model, "text": text, "answer": self._post(body)})
        answer = read_json(path)["answer"]
        if answer is None:
            raise Refused("no text in the answer")
        return str(answer)

    def _body(self, text: str, picture: bytes, media_type: str) -> dict[str, Any]:
        content: str | list[dict[str, Any]] = text
        if picture:
            url = f"data:{media_type};base64,{base64.b64encode(picture).decode()}"
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
        return {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.endpoint.temperature,
            "max_tokens": self.endpoint.max_tokens,
        }

    def _post(self, body: bytes) -> str | None:
        self._rate.wait()
        url = f"{self.endpoint.base_url.rstrip('/')}/chat/completions"
        headers = {"Content-Type": "application/json"}
        if key := self.endpoint.key():
            headers["Authorization"] = f"Bearer {key}"
        try:
            response = self._pool.request(
                "POST", url, body=body, headers=headers, retries=self._retry, timeout=self.endpoint.timeout_s
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{url}: {error}") from error
        if response.status in REFUSED:
            raise Refused(f"{response.status} {_message(response.data)}")
        if response.status in PASSING:
            raise Unavailable(f"{url}: still {response.status} after {self.endpoint.max_retries} retries")
        if response.status != 200:
            raise FailedPrecondition(f"{url}: {response.status} {_message(response.data)}")
        return _answer(response.data, url)


def _answer(body: bytes, url: str) -> str | None:
    """None for an answer without text, which was paid for all the same."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise FailedPrecondition(f"{url}: no chat completion: {body[:200]!r}") from error
    return content if isinstance(content, str) else None


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])[:200]
    except (ValueError, LookupError, TypeError):
        return repr(body[:200])
