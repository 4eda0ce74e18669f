"""Who may come in and what may go out: certificates, keys, tokens, spans."""

import pytest

from tests.helm.charts import DIGEST, of_kind, pod, render, service_of
from tests.helm.test_objects import Objects, serving, settings


def test_certificates_are_for_the_names_that_are_called(objects: Objects) -> None:
    """Each component's own, from the secret that it mounts; without TLS the processes are told so."""
    certificates = {found["metadata"]["name"]: found["spec"] for found in of_kind(objects, "Certificate")}
    for found in serving(objects):
        (container,) = pod(found)["containers"]
        config = settings(container)
        volumes = {volume["name"]: volume for volume in pod(found)["volumes"]}
        assert config.insecure is ("tls" not in volumes)
        if config.insecure:
            assert config.tls is None
            assert certificates == {}
            continue
        name, service = found["metadata"]["name"], service_of(found)
        stage = objects["Service", f"triptych-{service}"]["metadata"]["name"]
        assert {stage, "localhost"} <= set(certificates[name]["dnsNames"])
        assert {"server auth", "client auth"} <= set(certificates[name]["usages"])
        assert volumes["tls"]["secret"]["secretName"] == certificates[name]["secretName"]
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "tls")
        assert mount == {"name": "tls", "mountPath": str(config.tls_dir), "readOnly": True}  # no subPath: renewed
        issuer = certificates[name]["issuerRef"]
        assert ("Issuer", issuer["name"]) in objects or issuer["kind"] == "ClusterIssuer"
    secrets = [spec["secretName"] for spec in certificates.values()]
    assert len(secrets) == len(set(secrets))


def test_certificates_of_ones_own() -> None:
    values = {"tls": {"enabled": True, "certManager": {"enabled": False}}, "llm": {"tlsSecretName": "mine"}}
    objects = render(values)
    assert of_kind(objects, "Certificate", "Issuer") == []
    for service, secret in (("llm", "mine"), ("decoder", "triptych-decoder-tls")):
        volumes = pod(objects["Deployment", f"triptych-{service}"])["volumes"]
        assert {"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}} in volumes


def test_the_orchestrator_has_the_keys(objects: Objects) -> None:
    for found in serving(objects):
        (container,) = pod(found)["containers"]
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        keys_file = settings(container).model_dump().get("keys_file")
        assert ("/keys" in mounted) is (keys_file is not None)
        if keys_file is not None:
            assert service_of(found) == "orchestrator"
            assert str(keys_file) == "/keys/keys.json"


def test_spans_may_leave(objects: Objects) -> None:
    """Where they are sent somewhere, the network policy lets them go there, and nowhere else."""
    for found in serving(objects):
        traces = settings(pod(found)["containers"][0]).traces
        rules = objects["NetworkPolicy", found["metadata"]["name"]]["spec"]["egress"]
        away = [rule for rule in rules if str(rule["ports"][0]["port"]) == traces.rpartition(":")[2]]
        assert (away != []) is traces.startswith("otlp")
        assert all(rule["to"] for rule in away)


@pytest.mark.parametrize(
    ("jwks", "port"), [("https://a.example/keys", 443), ("https://a.example:8443/x:1/keys", 8443), ("/jwks.json", None)]
)
def test_the_provider_of_tokens_may_be_asked(jwks: str, port: int | None) -> None:
    config = {"jwt_jwks": jwks, "jwt_issuer": "https://a.example", "jwt_audience": "us"}
    objects = render({"orchestrator": {"config": config}})
    rules = objects["NetworkPolicy", "triptych-orchestrator"]["spec"]["egress"]
    anywhere = [entry["port"] for rule in rules if "to" not in rule for entry in rule["ports"]]
    assert anywhere == ([port] if port else [])


@pytest.mark.parametrize(
    ("component", "config", "ports"),
    [
        ("encoder", {"backend": "triton", "triton_address": "triton.models:8001"}, [8001]),
        ("orchestrator", {"encoder_addresses": ["a:50061", "b:50061"], "llm_addresses": ["c:50062"]}, [50061, 50062]),
        ("orchestrator", {}, []),
        ("encoder", {}, []),
    ],
)
def test_addresses_in_settings_may_be_reached(component: str, config: dict[str, object], ports: list[int]) -> None:
    """Which the chart knows nothing of but their ports."""
    objects = render({component: {"config": config}})
    rules = objects["NetworkPolicy", f"triptych-{component}"]["spec"]["egress"]
    assert [entry["port"] for rule in rules if "to" not in rule for entry in rule["ports"]] == ports


@pytest.mark.parametrize("values", [{"networkPolicy": {"fetchPorts": []}}, {"orchestrator": {"apiPorts": []}}])
def test_no_ports_are_none(values: dict[str, dict[str, object]]) -> None:
    """To Kubernetes, a rule without ports is one for all of them."""
    fetched = {"source": "fetch", "digest": DIGEST, "fetch": {"url": "hf://a/b@c/llm"}}
    values.setdefault("orchestrator", {})["discovery"] = "endpointslices"
    objects = render({"llm": {"checkpoint": fetched}} | values)
    for policy in of_kind(objects, "NetworkPolicy"):
        assert all(rule["ports"] for rule in policy["spec"]["egress"])
