"""What a test of single requests cannot know."""

import re
import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    # Streams are asked to end, so that their answers can be read to the end.
    if case.operation.path in ("/v1/events", "/v1/sessions/{id}/logs"):
        query = dict(case.query or {})
        if case.operation.path == "/v1/events" or query.get("follow") in (True, "true", "True", ""):
            case.query = {**query, "follow": "false"}
    # A key that another request has used is refused with another body, as it should be.
    headers = case.headers or {}
    for name, value in list(headers.items()):
        if name.lower() == "idempotency-key" and re.fullmatch("[!-~]{1,128}", str(value)):
            headers[name] = uuid.uuid4().hex
