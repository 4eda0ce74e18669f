"""What must hold of the rendered objects, for the defaults, each example, and with everything switched on."""

import json
import os
import re
from typing import Any
from unittest.mock import patch

import pytest

from services.orchestrator.discovery.kubernetes import STAGE_LABEL
from tests.helm.charts import Object, of_kind, pod, pod_labels, render, selects, service_of, values_of, workloads
from tests.helm.conftest import ALL
from tests.helm.settings import CONFIGS
from triptych.serving.config import ServingConfig

Objects = dict[tuple[str, str], Object]
GATED = ("encoder", "llm", "decoder", "orchestrator")


def serving(objects: Objects) -> list[Object]:
    return [found for found in workloads(objects) if service_of(found) in GATED]


def environment(container: Object) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_four_services(objects: Objects) -> None:
    assert {service_of(found) for found in serving(objects)} == set(GATED)


def test_none_is_ever_unavailable(objects: Objects) -> None:
    for found in of_kind(objects, "Deployment"):
        strategy = found["spec"]["strategy"]
        assert strategy["type"] == "RollingUpdate"
        assert strategy["rollingUpdate"]["maxUnavailable"] == 0
        assert strategy["rollingUpdate"]["maxSurge"]


def test_restricted(objects: Objects) -> None:
    """Pod Security "restricted", and a file system that cannot be written except for /tmp."""
    for found in workloads(objects):
        spec = pod(found)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is watches(found)
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volume = next(volume for volume in spec["volumes"] if volume["name"] == mounts["/tmp"])
            assert "emptyDir" in volume


def watches(workload: Object) -> bool:
    """Whether it is an orchestrator that finds components by their EndpointSlices."""
    container = pod(workload)["containers"][0]
    return container["name"] == "orchestrator" and "ORCHESTRATOR_KUBERNETES_SELECTOR" in environment(container)


def test_accounts_have_no_rights(objects: Objects) -> None:
    """But to read EndpointSlices, where the orchestrator watches them."""
    accounts = {found["metadata"]["name"]: found for found in of_kind(objects, "ServiceAccount")}
    used = {pod(found)["serviceAccountName"] for found in workloads(objects)}
    assert used == set(accounts)
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    rights = of_kind(objects, "Role", "RoleBinding")
    if not any(watches(found) for found in serving(objects)):
        assert rights == []
        return
    role, binding = rights
    (rule,) = role["rules"]
    assert rule == {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["get", "list", "watch"],
    }
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == ["triptych-orchestrator"]


def test_probes_and_draining(objects: Objects) -> None:
    for found in serving(objects):
        spec = pod(found)
        (container,) = spec["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"]["port"] == ports["health"]
        is_component = container["name"] != "orchestrator"
        assert container["readinessProbe"]["grpc"].get("service") == ("chain" if is_component else "")
        config = settings(container)
        assert [config.port, config.metrics_port, config.health_port] == [
            ports[name] for name in ("grpc", "metrics", "health")
        ]
        assert config.host == "0.0.0.0"
        slept = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] > config.drain_timeout_s + slept
        assert spec["enableServiceLinks"] is False


def settings(container: Object) -> ServingConfig:
    """As the process itself would read them; an unknown or wrong one ends it."""
    with patch.dict(os.environ, environment(container), clear=True):
        config = CONFIGS[container["name"]]
        assert issubclass(config, ServingConfig)
        return config.from_args([])


@pytest.mark.parametrize("service", GATED)
def test_every_setting_arrives(service: str) -> None:
    """As the class reads it: large numbers, fractions, lists, flags."""
    given: dict[str, Any] = {"max_message_bytes": 2**30 + 1, "drain_timeout_s": 7.5, "log_format": "text"}
    if service == "orchestrator":
        given |= {"llm_addresses": ["a:1", "b:2"], "embedding_cache_bytes": 0}
    elif service == "encoder":
        given |= {"backend": "onnxruntime", "export": "onnx-bf16", "max_pixels": 2**27}
    objects = render({service: {"config": given}})
    (container,) = pod(objects["Deployment", f"triptych-{service}"])["containers"]
    read = settings(container).model_dump(mode="json")
    assert {name: read[name] for name in given} == given


def test_every_pod_may_pull_its_images() -> None:
    """Redis' too, which a registry of ones own may mirror."""
    found = [pod(workload) for workload in workloads(render(values_of("everything")))]
    assert {json.dumps(spec.get("imagePullSecrets")) for spec in found} == {'[{"name": "registry"}]'}


def test_checkpoints_are_not_shared(objects: Objects) -> None:
    sources = []
    for found in serving(objects):
        spec = pod(found)
        volumes = [volume for volume in spec["volumes"] if volume["name"] == "checkpoint"]
        if service_of(found) == "orchestrator":
            assert volumes == []
            continue
        (volume,) = volumes
        (mount,) = (m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "checkpoint")
        assert mount["readOnly"] is True
        assert settings(spec["containers"][0]).model_dump(mode="json")["checkpoint"] == mount["mountPath"]
        if "emptyDir" not in volume:  # which is the pod's own
            sources.append(json.dumps([volume, mount.get("subPath")], sort_keys=True))
    assert len(sources) == len(set(sources))


def test_what_is_fetched_is_compared_with_a_digest(objects: Objects) -> None:
    for found in serving(objects):
        spec = pod(found)
        if any(volume["name"] == "checkpoint" and "emptyDir" in volume for volume in spec["volumes"]):
            last = spec["initContainers"][-1]
            assert last["image"] == spec["containers"][0]["image"]
            assert last["command"][:3] == ["python", "-m", "triptych.fetch"]
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", last["command"][last["command"].index("--digest") + 1])


def test_ports_are_nobody_elses(objects: Objects) -> None:
    """But of those that play the same part: pods may share a network."""
    ports = {
        service_of(found): {port["containerPort"] for port in pod(found)["containers"][0]["ports"]}
        for found in serving(objects)
    }
    assert sum(map(len, ports.values())) == len(set().union(*ports.values())) == 3 * len(GATED)


def test_services_lead_to_pods(objects: Objects) -> None:
    """One for each stage, to all pods of its components. Those that the orchestrator calls resolve to each pod, also
    before it is ready, and it is told their names."""
    addresses = set()
    for found in of_kind(objects, "Service"):
        name, spec = found["metadata"]["name"], found["spec"]
        chosen = [w for w in workloads(objects) if selects({"matchLabels": spec["selector"]}, pod_labels(w))]
        (service,) = {service_of(w) for w in chosen}
        assert name == f"triptych-{service}"
        assert chosen == [w for w in workloads(objects) if service_of(w) == service]
        for workload in chosen:
            named = {port["name"] for port in pod(workload)["containers"][0]["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= named
        if service in GATED[:3]:
            assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
            addresses.add(f"{name}:{spec['ports'][0]['port']}")
    (orchestrator,) = (found for found in serving(objects) if service_of(found) == "orchestrator")
    told = settings(pod(orchestrator)["containers"][0]).model_dump()
    if watches(orchestrator):
        wanted = {"matchLabels": dict(pair.split("=") for pair in told["kubernetes_selector"].split(","))}
        labels = [found["metadata"]["labels"] for found in of_kind(objects, "Service")]
        stages = {own[STAGE_LABEL] for own in labels if STAGE_LABEL in own and selects(wanted, own)}
        assert stages == set(GATED)
    else:
        assert {told[f"{service}_addresses"] for service in GATED[:3]} == {(address,) for address in addresses}


@pytest.mark.parametrize("name", ALL)
def test_another_component_changes_nothing_else(name: str) -> None:
    """It is found behind its stage's name: the orchestrator is not restarted."""
    values = values_of(name)
    before = render(values)
    values.setdefault("more", {})["decoder-b"] = {"service": "decoder", "checkpoint": {"source": "pvc"}}
    after = render(values)
    assert {key: after[key] for key in before} == before
    assert {name for _, name in after.keys() - before.keys()} == {"triptych-decoder-b"}


def test_a_stage_without_its_first_component() -> None:
    """What is left of a change of generations: the name that the orchestrator calls stays."""
    values = {"decoder": {"enabled": False}, "more": {"decoder-b": {"service": "decoder"}}}
    objects, before = render(values), render({})
    for key in ("Service", "triptych-decoder"), ("Deployment", "triptych-orchestrator"):
        assert objects[key] == before[key]
    assert ("Deployment", "triptych-decoder") not in objects
    without = render({"decoder": {"enabled": False}})
    assert ("Service", "triptych-decoder") not in without
    (orchestrator,) = pod(without["Deployment", "triptych-orchestrator"])["containers"]
    assert settings(orchestrator).model_dump()["decoder_addresses"] == ()


def test_every_selector_finds_its_pods(objects: Objects) -> None:
    """Of network policies, disruption budgets, spread constraints and monitors: the pods of one component."""
    labels = {found["metadata"]["name"]: pod_labels(found) for found in workloads(objects)}
    for found in of_kind(objects, "NetworkPolicy", "PodDisruptionBudget"):
        selector = found["spec"].get("podSelector") or found["spec"]["selector"]
        chosen = {name for name, own in labels.items() if selects(selector, own)}
        name = found["metadata"]["name"]
        assert chosen == {other for other in labels if other == name or other.startswith(f"{name}-")} - {f"{name}-next"}
    for found in serving(objects):
        (constraint,) = pod(found)["topologySpreadConstraints"]
        assert selects(constraint["labelSelector"], pod_labels(found))
    for found in of_kind(objects, "ServiceMonitor"):
        service = objects["Service", found["metadata"]["name"]]
        assert selects(found["spec"]["selector"], service["metadata"]["labels"])
        assert found["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def callers(policy: Object, port: str, labels: dict[str, dict[str, str]]) -> set[str]:
    """Which of our pods a policy lets in at a port."""
    return {
        name
        for rule in policy["spec"]["ingress"]
        if any(entry["port"] == port for entry in rule.get("ports", [{"port": port}]))
        for peer in rule["from"]
        if "podSelector" in peer
        for name, own in labels.items()
        if selects(peer["podSelector"], own)
    }


def test_only_the_orchestrator_reaches_components(objects: Objects) -> None:
    workload = {found["metadata"]["name"]: found for found in workloads(objects)}
    labels = {name: pod_labels(found) for name, found in workload.items()}
    policies = {found["metadata"]["name"]: found for found in of_kind(objects, "NetworkPolicy")}
    for name, found in workload.items():
        if (service := service_of(found)) not in GATED:
            continue
        policy = policies[name]
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for rule in policy["spec"]["ingress"]:
            assert rule["from"]
            assert rule["ports"]
        assert callers(policy, "grpc", labels) == (set() if service == "orchestrator" else {"triptych-orchestrator"})
        assert callers(policy, "metrics", labels) == set()
    allowed = [peer for rule in policies["triptych-orchestrator"]["spec"]["egress"] for peer in rule.get("to", ())]
    for name, found in workload.items():
        reached = any("podSelector" in peer and selects(peer["podSelector"], labels[name]) for peer in allowed)
        assert reached is (service_of(found) in {"encoder", "llm", "decoder"})


@pytest.mark.parametrize("name", ALL)
def test_upgrading_one_leaves_all_else_as_it_is(name: str) -> None:
    """The image's tag is in one object, and every other is the same to the byte."""
    before = render(values_of(name))
    for service in GATED:
        values = values_of(name)
        values.setdefault(service, {}).setdefault("image", {})["tag"] = "9.9.9"
        after = render(values)
        changed = [key for key in before | after if before.get(key) != after.get(key)]
        assert changed == [("Deployment", f"triptych-{service}")]


def test_scaling_on_ones_own_queue(objects: Objects) -> None:
    """On the histogram that every process of ours keeps."""
    scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    for found in scalers:
        workload = objects["Deployment", found["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in workload["spec"]
        named = {re.sub(r"_(mean|sum|count)$", "", n) for n in re.findall(r"triptych_\w+_ms_\w+", json.dumps(found))}
        assert named == {f"triptych_{service_of(workload)}_queued_ms"}
    assert len(scalers) in (0, len(serving(objects)))


def test_graphics_cards(objects: Objects) -> None:
    """A component that has one says so, and gets the images that can use it."""
    for found in serving(objects):
        (container,) = pod(found)["containers"]
        cards = [count for name, count in container["resources"]["limits"].items() if "gpu" in name]
        if service_of(found) == "orchestrator":
            assert cards == []
            assert container["image"].endswith(":0.1.0")
        else:
            assert settings(container).model_dump()["device"] == ("cuda" if cards else "cpu")
            assert container["image"].endswith("-gpu" if cards else "-cpu")


def test_examples_are_what_they_say() -> None:
    """In production no door is open; on a laptop nothing is asked for."""
    for name, is_guarded in (("production", True), ("cpu-laptop", False), ("defaults", False)):
        objects = render(values_of(name))
        (orchestrator,) = pod(objects["Deployment", "triptych-orchestrator"])["containers"]
        config = settings(orchestrator)
        assert (config.tls is not None) is (config.model_dump()["keys_file"] is not None) is is_guarded
        assert config.tls_require_client_cert is not is_guarded  # users have a key instead
        assert config.traces.startswith("otlp") is is_guarded


def test_redis_is_ours_or_theirs() -> None:
    ours, theirs = render({"trainer": {"enabled": True}}), render(values_of("production"))
    assert ("StatefulSet", "triptych-redis") in ours
    assert not any("redis" in name for _, name in theirs)
    (container,) = pod(theirs["Deployment", "triptych-trainer-node-a"])["containers"]
    broker = next(entry for entry in container["env"] if entry["name"] == "TRIPTYCH_BROKER")
    assert broker["valueFrom"]["secretKeyRef"] == {"name": "redis-url", "key": "url"}
    assert not any("trainer" in name for _, name in render({}))
