"""What the OpenAPI document allows, and what it forbids: the server keeps to it either way."""

from server.service import Service
from tests.server.schema_fuzz import fuzz_schema
from tests.server.serving import altered, is_idle, served, wait_until


def test_the_server_keeps_to_its_document(tiny_service: Service) -> None:
    with served(altered(tiny_service)) as url:
        report = fuzz_schema(url, max_examples=60)
    assert report.is_clean, report.output
    assert report.num_cases > 500
    wait_until(lambda: is_idle(tiny_service.engine))
