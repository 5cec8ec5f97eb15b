"""The document of the routes."""

import json

from unit.web.frame.test_application import ROUTES

from qemu_node.web.frame.openapi import describe


def test_every_route_is_in_the_document_with_its_right() -> None:
    document = json.loads(json.dumps(describe(ROUTES)))
    echo = document["paths"]["/api/v1/vms/{vm_id}/echo"]["post"]
    assert echo["x-right"] == "control"
    assert echo["parameters"][0]["name"] == "vm_id"
    schema = echo["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Text"}
    assert "security" not in document["paths"]["/bug"]["get"]
    assert set(document["components"]["schemas"]) == {"ProblemBody", "Text"}
