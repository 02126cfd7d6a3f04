"""The API's own description, and requests that schemathesis makes from it: no answer but those that it promises."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from liveserver import random_model, serving
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from groundup.server.app import create_app
from groundup.server.limits import Limits
from groundup.tokenizers.byte_char import ByteTokenizer

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


SCHEMA = schemathesis.openapi.from_dict(create_app({"bytes": random_model(ByteTokenizer())}).openapi())


@pytest.fixture(scope="module")
def quick():
    """A server whose answers are short, so that many can be asked for; in the end nothing is left in it."""
    with serving({"bytes": random_model(ByteTokenizer())}, limits=Limits(tokens=16)) as live:
        yield live
        assert sum(model.worker.requests() for model in live.server.models.values()) == 0
        assert live.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("mode", list(GenerationMode))
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_request_gets_an_answer_that_is_not_described(mode, data, quick):
    case = data.draw(SCHEMA.as_strategy(generation_mode=mode))
    case.validate_response(case.call(base_url=quick.url, timeout=60), checks=CHECKS)


def test_the_description_is_complete(live):
    paths = live.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/models", "/v1/models/{model}", "/health", "/metrics"} == set(paths)
    body = live.get("/openapi.json").json()["components"]["schemas"]["CompletionRequest"]
    assert body["additionalProperties"] is False
    for name, field in body["properties"].items():
        assert field.get("description"), name
