"""Replicas as Kubernetes knows them: the EndpointSlices of the chart's Services, watched. Pods that are not ready are
among them, since it is the orchestrator that says when they are; those that end get no new requests from the moment
that they are told to.

Needs `get`, `list` and `watch` on endpointslices (discovery.k8s.io) in the namespace.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from services.orchestrator.discovery.place import Place
from triptych.card import KINDS
from triptych.errors import FailedPrecondition

log = logging.getLogger(__name__)

STAGE_LABEL: Final = "triptych/service"  # of the Service, and so of its slices: encoder, llm or decoder
SERVICE_LABEL: Final = "kubernetes.io/service-name"
PORT_NAME: Final = "grpc"
NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
WATCH_S: Final = 60  # then everything is listed anew: an event that was lost is missed no longer than that
RETRY_S: Final = 1.0
FIRST_LIST_S: Final = 10.0


class Kubernetes:
    """Follows the slices on a thread of its own. While the API server is away, the last known places hold."""

    def __init__(
        self,
        selector: str,
        namespace: str = "",
        connect: Callable[[], Any] | None = None,
        watch_s: float = WATCH_S,
    ) -> None:
        """`selector`: further labels of the slices, such as app.kubernetes.io/instance=NAME; `namespace`: by default
        the pod's own. `connect` makes the client."""
        self._selector = f"{STAGE_LABEL},{selector}" if selector else STAGE_LABEL
        self._namespace = namespace
        self._connect = connect or _connect
        self._watch_s = watch_s
        self._slices: dict[str, Mapping[str, Any]] = {}
        self._has_listed = threading.Event()
        self._is_stopping = threading.Event()

    async def start(self) -> None:
        """Returns after the first list, or after a while without one. Raises FailedPrecondition outside a cluster."""
        try:
            api = await asyncio.to_thread(self._connect)
        except ImportError as error:
            raise FailedPrecondition("discovery by Kubernetes needs pip install 'triptych[kubernetes]'") from error
        namespace = self._namespace or await asyncio.to_thread(_own_namespace)
        threading.Thread(target=self._follow, args=(api, namespace), name="endpointslices", daemon=True).start()
        await asyncio.to_thread(self._has_listed.wait, FIRST_LIST_S)

    async def find(self) -> Sequence[Place]:
        return list(places_of(list(self._slices.values())))

    async def stop(self) -> None:
        """The thread ends with its current call."""
        self._is_stopping.set()

    def _follow(self, api: Any, namespace: str) -> None:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        while not self._is_stopping.is_set():
            try:
                self._watch(api, namespace)
            except (ApiException, HTTPError, OSError, ValueError) as error:
                gone = getattr(error, "status", None) == 410  # the watch fell behind: list again at once
                if not gone:
                    log.warning("endpointslices cannot be watched", extra={"reason": str(error)[:500]})
                    self._is_stopping.wait(RETRY_S)

    def _watch(self, api: Any, namespace: str) -> None:
        from kubernetes.watch import Watch

        wanted = {"namespace": namespace, "label_selector": self._selector}
        listed = api.api_client.sanitize_for_serialization(api.list_namespaced_endpoint_slice(**wanted))
        self._slices = {_name(item): item for item in listed["items"]}
        self._has_listed.set()
        watch = Watch()
        version = listed["metadata"].get("resourceVersion")
        changes = watch.stream(
            api.list_namespaced_endpoint_slice,
            **wanted,
            resource_version=version,
            timeout_seconds=int(self._watch_s),
            _request_timeout=(FIRST_LIST_S, 2 * self._watch_s),
        )
        for change in changes:
            if self._is_stopping.is_set():
                return
            self._take_up(change["type"], change["raw_object"])

    def _take_up(self, kind: str, item: Mapping[str, Any]) -> None:
        slices = dict(self._slices)
        if kind == "DELETED":
            slices.pop(_name(item), None)
        elif kind in ("ADDED", "MODIFIED"):
            slices[_name(item)] = item
        self._slices = slices


def places_of(slices: Iterable[Mapping[str, Any]]) -> Iterator[Place]:
    """Every endpoint of every slice, ready or not. A certificate must be for the Service's name."""
    for item in slices:
        labels = item["metadata"].get("labels") or {}
        stage, port = labels.get(STAGE_LABEL, ""), _port(item.get("ports") or ())
        if stage not in KINDS or port is None:
            continue
        for endpoint in item.get("endpoints") or ():
            is_leaving = (endpoint.get("conditions") or {}).get("terminating") is True
            for address in endpoint.get("addresses") or ():
                host = f"[{address}]" if item.get("addressType") == "IPv6" else address
                yield Place(stage, f"{host}:{port}", labels.get(SERVICE_LABEL, ""), is_leaving=is_leaving)


def _port(ports: Sequence[Mapping[str, Any]]) -> int | None:
    """The one called grpc; the only one, whatever its name."""
    named = [port for port in ports if port.get("name") == PORT_NAME] or (list(ports) if len(ports) == 1 else [])
    return named[0].get("port") if named else None


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _own_namespace() -> str:
    with suppress(OSError):
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return "default"


def _connect() -> Any:
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise FailedPrecondition(f"no Kubernetes API to ask: {error}") from error
    return client.DiscoveryV1Api()
