"""Names with service and unit, values read at scrape time, nothing global."""

from prometheus_client import generate_latest

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
