"""buf's STANDARD rules, read from the descriptors; `make proto-check` holds the generated code fresh."""

import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PROTOS = Path(__file__).parents[2] / "protos"
FILES = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))
MODULES = [".".join(path.with_suffix("").parts) + "_pb2" for path in FILES]


def descriptor(module: str) -> Any:
    return importlib.import_module(module).DESCRIPTOR


def upper_snake(name: str) -> str:
    """ImagePolicy -> IMAGE_POLICY, DType -> D_TYPE."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def all_messages(owner: Any) -> list[Any]:
    nested = owner.nested_types if hasattr(owner, "nested_types") else owner.message_types_by_name.values()
    return [message for one in nested for message in (one, *all_messages(one))]


def all_enums(file: Any) -> list[Any]:
    return [
        *file.enum_types_by_name.values(),
        *(enum for message in all_messages(file) for enum in message.enum_types_by_name.values()),
    ]


def test_every_proto_is_seen() -> None:
    assert len(FILES) >= 6


@pytest.mark.parametrize("module", MODULES)
def test_folder_is_package_is_python_package(module: str) -> None:
    file = descriptor(module)
    package = file.package
    assert file.name == f"{package.replace('.', '/')}/{Path(file.name).name}"
    assert module.startswith(f"{package}.")
    assert re.fullmatch(r"v\d+", package.split(".")[-1])
    assert re.fullmatch(r"[a-z0-9_]+\.proto", Path(file.name).name)


@pytest.mark.parametrize("module", MODULES)
def test_services_end_in_service(module: str) -> None:
    names = list(descriptor(module).services_by_name)
    assert [name for name in names if not re.fullmatch(r"([A-Z][a-z0-9]*)+Service", name)] == []


def test_requests_and_responses_are_named_for_their_rpc_and_never_shared() -> None:
    methods = [m for module in MODULES for s in descriptor(module).services_by_name.values() for m in s.methods]
    assert methods
    wrong = [
        method.full_name
        for method in methods
        if method.input_type.name != f"{method.name}Request" or method.output_type.name != f"{method.name}Response"
    ]
    uses = Counter(kind.full_name for method in methods for kind in (method.input_type, method.output_type))
    assert wrong == []
    assert [name for name, count in uses.items() if count > 1] == []


@pytest.mark.parametrize("module", MODULES)
def test_enum_values_are_prefixed_and_zero_is_unspecified(module: str) -> None:
    for enum in all_enums(descriptor(module)):
        prefix = upper_snake(enum.name)
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert [value.name for value in enum.values if not value.name.startswith(f"{prefix}_")] == []


@pytest.mark.parametrize("module", MODULES)
def test_names_are_spelled_as_buf_wants_them(module: str) -> None:
    messages = all_messages(descriptor(module))
    assert [m.name for m in messages if not re.fullmatch(r"([A-Z][a-z0-9]*)+", m.name)] == []
    fields = [f.name for m in messages for f in (*m.fields, *m.oneofs)]
    assert [name for name in fields if not re.fullmatch(r"_?[a-z][a-z0-9]*(_[a-z0-9]+)*", name)] == []


def test_services_have_no_two_homes() -> None:
    names = [name for module in MODULES for name in descriptor(module).services_by_name]
    assert len(names) == len(set(names))
