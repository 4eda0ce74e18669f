"""EndpointSlices as a real HTTP server with Kubernetes' ways serves and streams them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kmock import KubernetesEmulator
from kubernetes import client

from services.orchestrator.discovery.kubernetes import Kubernetes, places_of
from services.orchestrator.discovery.place import Place

SLICES = "/apis/discovery.k8s.io/v1/namespaces/art/endpointslices"


def slice_of(name: str, stage: str, *ips: str, terminating: tuple[str, ...] = (), ready: bool = True) -> dict[str, Any]:
    endpoints = [
        {
            "addresses": [ip],
            "conditions": {"ready": ready and ip not in terminating, "serving": True, "terminating": ip in terminating},
        }
        for ip in ips
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "art",
            "labels": {"triptych/service": stage, "kubernetes.io/service-name": f"triptych-{stage}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "metrics", "port": 9090}, {"name": "grpc", "port": 50051}],
        "endpoints": endpoints,
    }


def place(ip: str, stage: str = "llm", *, is_leaving: bool = False) -> Place:
    return Place(stage, f"{ip}:50051", f"triptych-{stage}", is_leaving=is_leaving)


@asynccontextmanager
async def watching(kmock: KubernetesEmulator) -> AsyncIterator[Kubernetes]:
    def connect() -> client.DiscoveryV1Api:
        return client.DiscoveryV1Api(client.ApiClient(client.Configuration(host=str(kmock.url).rstrip("/"))))

    found = Kubernetes("app.kubernetes.io/instance=art", "art", connect, watch_s=1)
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


async def until(found: Kubernetes, *expected: Place) -> None:
    for _ in range(500):
        if sorted(await found.find(), key=str) == sorted(expected, key=str):
            return
        await asyncio.sleep(0.02)
    assert sorted(await found.find(), key=str) == sorted(expected, key=str)


async def test_pods_come_end_and_go(kmock: KubernetesEmulator) -> None:
    await kmock.post(SLICES, json=slice_of("llm-a", "llm", "10.0.0.1"))
    async with watching(kmock) as found:
        await until(found, place("10.0.0.1"))
        await kmock.post(SLICES, json=slice_of("decoder-a", "decoder", "10.0.0.9", ready=False))
        await until(found, place("10.0.0.1"), place("10.0.0.9", "decoder"))
        ending = slice_of("llm-a", "llm", "10.0.0.1", "10.0.0.2", terminating=("10.0.0.1",))
        await kmock.patch(f"{SLICES}/llm-a", json=ending, headers={"Content-Type": "application/merge-patch+json"})
        leaving = place("10.0.0.1", is_leaving=True)
        await until(found, leaving, place("10.0.0.2"), place("10.0.0.9", "decoder"))
        await kmock.delete(f"{SLICES}/decoder-a")
        await until(found, leaving, place("10.0.0.2"))


async def test_asks_for_the_labels_of_the_release(kmock: KubernetesEmulator) -> None:
    async with watching(kmock):
        requests = kmock["get"]
        asked = [requests[number].params.get("labelSelector") for number in range(len(requests))]
    assert set(asked) == {"triptych/service,app.kubernetes.io/instance=art"}


async def test_what_is_known_holds_while_the_server_is_away(
    kmock: KubernetesEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    await kmock.post(SLICES, json=slice_of("llm-a", "llm", "10.0.0.1"))
    async with watching(kmock) as found:
        found._slices["llm-b"] = slice_of("llm-b", "llm", "10.0.0.2")

        def away(*_: object, **__: object) -> None:
            raise ConnectionRefusedError("nobody there")

        api = type("Api", (), {"list_namespaced_endpoint_slice": away, "api_client": client.ApiClient()})()
        with pytest.raises(ConnectionRefusedError):
            found._watch(api, "art")
        assert len(await found.find()) == 2


def test_slices_that_say_nothing_for_us() -> None:
    other = slice_of("redis", "redis", "10.0.0.1")
    portless = slice_of("llm", "llm", "10.0.0.1") | {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}
    empty = slice_of("llm", "llm") | {"endpoints": None}
    unlabelled = slice_of("llm", "llm", "10.0.0.1") | {"metadata": {"name": "x"}}
    assert list(places_of([other, portless, empty, unlabelled])) == []


def test_only_port_and_ipv6() -> None:
    six = slice_of("llm", "llm", "fd00::1") | {"addressType": "IPv6", "ports": [{"name": None, "port": 7}]}
    assert [found.address for found in places_of([six])] == ["[fd00::1]:7"]
