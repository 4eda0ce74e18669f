"""Names that are odd, and legal: YAML would take them for numbers, truth values or signs of its own."""

from typing import Any

import kubernetes_validate
import pytest

from tests.helm.charts import render

VERSION = "1.36"
NUMBER = "20240501"
ODD: dict[str, dict[str, Any]] = {
    "wildcard": {"ingress": {"enabled": True, "host": "*.example.com", "tlsSecretName": "tls"}},
    "no class": {"ingress": {"enabled": True, "host": "a.example", "className": ""}},
    "claims": {"decoder": {"checkpoint": {"pvc": {"claimName": NUMBER}}}, "tls": {"enabled": True}},
    "secrets": {
        "keys": {"secretName": NUMBER},
        "defaults": {"tlsSecretName": NUMBER},
        "ingress": {"enabled": True, "host": "a.example", "tlsSecretName": NUMBER},
        "tls": {"enabled": True, "certManager": {"enabled": False}},
    },
    "trainer": {
        "trainer": {"enabled": True, "workers": [{"name": "no", "queue": "1", "replicas": 1}]},
        "redis": {"passwordSecret": {"name": NUMBER, "key": "1"}},
    },
    "redis": {"trainer": {"enabled": True}, "redis": {"external": {"secretName": NUMBER, "key": "1"}}},
    "component": {"more": {"no": {"service": "decoder"}}},
}


@pytest.mark.parametrize("release", ["triptych", "true"])
@pytest.mark.parametrize("values", ODD.values(), ids=ODD)
def test_names_stay_text(values: dict[str, Any], release: str) -> None:
    for found in render(values, release=release).values():
        if found["kind"] not in ("Certificate", "Issuer"):
            assert kubernetes_validate.validate(found, VERSION, strict=True) == VERSION
        assert all(type(value) is str for value in found["metadata"]["labels"].values())
