"""What schemathesis makes of the OpenAPI document, sent to a real service: no 5xx, and every answer
is as the document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.search.serving import served

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXAMPLES = 10
"""Of each address, method and mode."""


@pytest.fixture(scope="module")
def client(built: Any) -> Iterator[httpx.Client]:
    with served(built.store) as opened:
        yield opened


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_the_document_says(client: httpx.Client, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{client.base_url}/api/v1/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 14
    wrong: dict[str, str] = {}
    for operation in operations:

        def ask(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        asking = hypothesis.given(case=operation.as_strategy(generation_mode=mode))(ask)
        try:
            SETTINGS(asking)()
        except Unsatisfiable:  # nothing that this address could be told is wrong
            assert mode is GenerationMode.NEGATIVE
        except Exception as error:
            wrong[operation.label] = str(error)
    assert wrong == {}
    assert client.get("/healthz").status_code == 200


SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
