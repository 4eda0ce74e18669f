"""Whose queue a ScaledObject looks at: Prometheus knows pods by their names."""

import re

import pytest

from tests.helm.charts import render

HASH, LETTERS = "7d4f8c6b9d", "x2vqz"


def pod_name(deployment: str) -> str:
    """As Kubernetes makes it: what a ReplicaSet's pods are called has at most 58 characters and five random ones."""
    return f"{deployment}-{HASH}-"[:58] + LETTERS


@pytest.mark.parametrize("release", ["triptych", "r" * 34, "r" * 40, "r" * 53])
def test_scales_on_the_pods_of_one_component(release: str) -> None:
    """A second decoder's name may look like a hash."""
    values = {"decoder": {"autoscaling": {"enabled": True, "kind": "keda"}}, "more": {"decoder-2": {}, "decoder-b": {}}}
    for own in values["more"].values():
        own["service"] = "decoder"
    objects = render(values, release=release)
    ((_, name),) = [key for key in objects if key[0] == "ScaledObject"]
    query = objects["ScaledObject", name]["spec"]["triggers"][0]["metadata"]["query"]
    (pods,) = set(re.findall(r'pod=~"([^"]*)"', query))
    asked = [found for kind, found in objects if kind == "Deployment" and re.fullmatch(pods, pod_name(found))]
    assert asked == [name] or (len(release) == 53 and name in asked)  # whose pods are all called alike
