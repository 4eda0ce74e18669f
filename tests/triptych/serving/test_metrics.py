"""Names with service and unit, values read at scrape time, nothing global; exemplars where the scraper takes them."""

import urllib.request

import pytest
from prometheus_client import generate_latest

from triptych import traces
from triptych.serving.metrics import Metrics


def test_names_carry_service_and_unit() -> None:
    metrics = Metrics("encoder")
    metrics.counter("cache_hits", "images found in the cache").inc()
    metrics.histogram_ms("queued", "time in the queue").observe(3)
    metrics.gauge("waiting", "requests that wait", lambda: 7)
    page = generate_latest(metrics.registry).decode()
    assert "triptych_encoder_cache_hits_total 1.0" in page
    assert 'triptych_encoder_queued_ms_bucket{le="5.0"} 1.0' in page
    assert "triptych_encoder_waiting 7.0" in page


def test_two_of_the_same_service_do_not_collide() -> None:
    first, second = Metrics("llm"), Metrics("llm")
    first.observe_call("/a/B", "OK", 2.0)
    labels = {"method": "/a/B", "code": "OK"}
    assert first.registry.get_sample_value("triptych_llm_calls_total", labels) == 1
    assert second.registry.get_sample_value("triptych_llm_calls_total", labels) is None


@pytest.mark.parametrize(("accept", "has_exemplar"), [("application/openmetrics-text", True), ("text/plain", False)])
def test_exemplars_over_http(accept: str, has_exemplar: bool) -> None:
    metrics = Metrics("llm")
    traces.configure("console", "llm")
    with traces.received("Generate", None) as span:
        metrics.observe_call("/a/B", "OK", 2.0)
    traces.close()
    port = metrics.listen("127.0.0.1", 0)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:
        page = response.read().decode()
    assert 'triptych_llm_call_ms_bucket{le="2.0",method="/a/B"} 1.0' in page
    assert (f'trace_id="{span.trace_id}"' in page) == has_exemplar


def test_described_is_what_is_scraped() -> None:
    metrics = Metrics("llm")
    metrics.histogram("batch_images", "images at a time", (1, 2))
    assert [(m.name, m.kind, m.labels) for m in metrics.described] == [
        ("calls_total", "counter", ("method", "code")),
        ("call_ms", "histogram", ("method",)),
        ("batch_images", "histogram", ()),
    ]
