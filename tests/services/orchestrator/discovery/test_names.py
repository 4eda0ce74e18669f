import pytest

from services.orchestrator.discovery.names import Names
from services.orchestrator.discovery.place import Place


async def test_what_a_name_stood_for_last_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["llm:5"], ["10.0.0.1:5", "10.0.0.2:5"], ["llm:5"], ["10.0.0.2:5"]]

    async def resolve(name: str) -> list[str]:
        return answers.pop(0)

    monkeypatch.setattr("services.orchestrator.discovery.names.resolve", resolve)
    names = Names({"llm": ["llm:5"]})
    assert [place.address for place in await names.find()] == ["llm:5"]
    both = [Place("llm", "10.0.0.1:5", "llm"), Place("llm", "10.0.0.2:5", "llm")]
    assert await names.find() == both
    assert await names.find() == both, "the name server is away"
    assert await names.find() == both[1:]
