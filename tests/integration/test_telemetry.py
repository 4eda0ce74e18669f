"""What four real processes tell of a request: one trace through all of them, and metrics that move as they must."""

import io
import json
from typing import Any

import pytest
from PIL import Image

from tests.integration.processes import SERVICES, STAGES, System, wait_until
from triptych import traces
from triptych.client import Client
from triptych.errors import InvalidArgument
from triptych.requests import Params


def spans(system: System) -> list[dict[str, Any]]:
    lines = [line for service in SERVICES for line in system.log(service).splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"span"')]


def path_of(span: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> str:
    """Names from the root."""
    parent = by_id.get(span["parent_id"])
    return f"{path_of(parent, by_id)}/{span['span']}" if parent else str(span["span"])


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def test_one_trace_through_all(system: System, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    traces.configure("console", "client")
    try:
        client.edit(png("#123456"), "make it blue", steps=40, seed=1)
    finally:
        traces.close()
    root = json.loads(capsys.readouterr().err.splitlines()[-1])
    mine = lambda: [span for span in spans(system) if span["trace_id"] == root["trace_id"]]  # noqa: E731
    wait_until(lambda: "Respond" in {span["span"] for span in mine()}, "the trace is whole", 10)
    found = mine()
    paths = {path_of(span, {other["span_id"]: other for other in [*found, root]}) for span in found}
    start = "respond/Respond"
    assert paths >= {
        f"{start}/queue",
        f"{start}/embed/call encoder/Encode/queue",
        f"{start}/embed/call encoder/Encode/encode batch",
        *(f"{start}/call llm/Generate/{name}" for name in ("receive", "queue", "prefill", "draw")),
        *(f"{start}/call decoder/Decode/{name}" for name in ("receive", "queue", "denoise")),
    }
    denoise = [span for span in found if span["span"] == "denoise"]
    assert [(span["first_step"], span["num_steps"]) for span in denoise] == [(0, 32), (32, 8)]
    assert all(span["duration_ms"] >= span["running_ms"] > 0 for span in denoise)


def test_metrics_move(system: System, client: Client) -> None:
    before = {service: system.metrics(service) for service in SERVICES}
    params = Params(steps=3, seed=1)
    edits = ("make it blue", "make it green")
    usages = [client.chat().send(text, [png("#654321")], "edit", params).done.usage for text in edits]
    with pytest.raises(InvalidArgument):
        client.chat().send("make nothing blue", (), "edit")
    after = {service: system.metrics(service) for service in SERVICES}

    def rise(service: str, name: str) -> float:
        name = f"triptych_{service}_{name}"
        assert name in after[service], name
        return after[service][name] - before[service].get(name, 0)

    described = {replica.kind: replica.description for replica in client.components().replicas}
    short = {stage: told.generation for stage, told in described.items()}
    assert rise("orchestrator", 'requests_total{status="OK",task="edit"}') == 2
    assert rise("orchestrator", 'requests_total{status="INVALID_ARGUMENT",task="edit"}') == 1
    assert rise("orchestrator", 'request_ms_count{task="edit"}') == 3
    assert rise("orchestrator", 'first_event_ms_count{task="edit"}') == 2
    assert rise("orchestrator", f'chain_requests_total{{chain="{"-".join(short[s] for s in STAGES)}"}}') == 2
    assert rise("orchestrator", "embedding_cache_misses_total") == 1
    assert rise("orchestrator", "embedding_cache_hits_total") == 1
    for stage, num_calls in (("encoder", 1), ("llm", 2), ("decoder", 2)):
        labels = f'{{generation="{short[stage]}",stage="{stage}",status="OK"}}'
        assert rise("orchestrator", f"stage_calls_total{labels}") == num_calls
        assert after["orchestrator"][f'triptych_orchestrator_replicas{{stage="{stage}",state="serving"}}'] == 1
        assert after["orchestrator"][f'triptych_orchestrator_replicas{{stage="{stage}",state="unreachable"}}'] == 0
        assert rise(stage, "queued_ms_count") == num_calls
        card = described[stage].card
        shown = f'{{generation="{short[stage]}",name="{card.name}",version="{card.version}"}}'
        assert after[stage][f"triptych_{stage}_component_info{shown}"] == 1
        assert after[stage][f"triptych_{stage}_probe_cosine"] > 0.99
    assert rise("encoder", "images_total") == 1
    assert rise("encoder", "batch_images_sum") == rise("encoder", "batch_images_count") == 1
    assert rise("encoder", "batch_ms_count") == rise("encoder", "running_ms_count") == 1
    assert rise("llm", 'step_ms_count{phase="prefill"}') == rise("llm", 'step_ms_count{phase="draw"}') == 2
    assert rise("llm", "first_token_ms_count") == 2
    assert rise("llm", "prompt_tokens_total") == sum(usage.num_prompt_tokens for usage in usages) > 0
    assert rise("llm", "generated_tokens_total") == sum(usage.num_generated_tokens for usage in usages) > 0
    ends = [name for name in after["llm"] if name.startswith("triptych_llm_finished_total")]
    assert sum(after["llm"][name] - before["llm"].get(name, 0) for name in ends) == 2
    assert rise("decoder", "steps_total") == rise("decoder", 'step_ms_count{phase="denoise"}') == 6
    assert rise("decoder", "images_total") == 2
    respond = 'method="/triptych.v1.OrchestratorService/Respond"'
    assert rise("orchestrator", f'transport_bytes_total{{direction="in",{respond}}}') > len(png("#654321")) * 2
    encode = 'method="/triptych.v1.EncoderService/Encode"'
    assert rise("encoder", f'transport_bytes_total{{direction="out",{encode}}}') > 512
