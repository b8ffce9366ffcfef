"""A stock client of the engine: validates the server's OpenAPI document, generates a client from
it and uses that client. Run by openapi.rs with the folder of scripts/openapi on PYTHONPATH.

    openapi.py ADDRESS MOUNT FOLDER     the token is on standard input
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

address, mount, folder = sys.argv[1:]
token = sys.stdin.readline().strip()
METHODS = ("get", "post", "patch", "delete")


def get(path):
    """Status and body of an answer of the server, without any generated client."""
    request = urllib.request.Request(f"{address}/v1/{path}", headers={"X-Vault-Token": token})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def documents():
    """The server's document with one mount of the engine, and its part that is that mount."""
    _, whole = get("sys/internal/specs/openapi")

    def is_ours(item):
        ids = (item[method]["operationId"] for method in METHODS if method in item)
        return any(it.startswith("smtp-") for it in ids)

    # Other tests have mounts of their own in this server, with the same names for everything.
    mine = {path: item for path, item in whole["paths"].items() if path.startswith(f"/{mount}/")}
    assert mine and all(map(is_ours, mine.values())), mine.keys()
    others = {path: item for path, item in whole["paths"].items() if not is_ours(item)}
    schemas = whole["components"]["schemas"]
    schemas = {name: schema for name, schema in schemas.items() if name.startswith("Smtp")}
    part = {**whole, "paths": mine, "components": {"schemas": schemas}}
    return {**whole, "paths": others | mine}, part


def errors_of(document):
    from openapi_spec_validator import OpenAPIV30SpecValidator

    return [error.message for error in OpenAPIV30SpecValidator(document).iter_errors()]


def generate(document):
    """Generates a client package; a warning would mean that it lacks something."""
    with open(f"{folder}/openapi.json", "w") as file:
        json.dump(document, file)
    with open(f"{folder}/config.json", "w") as file:
        json.dump({"post_hooks": []}, file)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"]
    command += ["--path", f"{folder}/openapi.json", "--config", f"{folder}/config.json"]
    command += ["--meta", "none", "--output-path", f"{folder}/smtp_client"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    sys.path.insert(0, folder)


def use():
    """Reads, rotates, reads again, and fails in two ways."""
    from smtp_client import AuthenticatedClient
    from smtp_client.api.secrets import smtp_read_tenant_admin, smtp_write_tenant_rotate
    from smtp_client.models import (
        SmtpReadTenantAdminResponse,
        SmtpWriteTenantRotateRequest,
        SmtpWriteTenantRotateResponse,
    )

    client = AuthenticatedClient(
        base_url=f"{address}/v1", token=token, prefix="", auth_header_name="X-Vault-Token"
    )

    def read():
        answer = smtp_read_tenant_admin.sync_detailed(tenant="acme", client=client)
        assert answer.status_code == 200, answer
        # The document describes what the server's envelope has under `data`.
        return SmtpReadTenantAdminResponse.from_dict(answer.parsed["data"])

    def rotate(tenant):
        body = SmtpWriteTenantRotateRequest(reason="asked by a generated client")
        return smtp_write_tenant_rotate.sync_detailed(tenant=tenant, client=client, body=body)

    before = read()
    answer = rotate("acme")
    assert answer.status_code == 200, answer
    rotated = SmtpWriteTenantRotateResponse.from_dict(answer.parsed["data"])
    after = read()
    assert (before.version, rotated.version, after.version) == (1, 2, 2)
    assert str(after.state) == "settled" and after.last_rotated >= before.last_rotated

    refused = rotate("ACME")
    assert refused.status_code == 400, refused
    assert refused.parsed.errors[0].startswith("invalid_tenant: "), refused.parsed
    assert refused.parsed.data.code == "invalid_tenant", refused.parsed
    unknown = rotate("nobody")
    assert unknown.status_code == 404, unknown
    assert "unknown_tenant: " in unknown.parsed.errors[0], unknown.parsed
    return before.password, after.password


def check_pattern(document):
    """The pattern of a tenant's name takes exactly what the engine takes."""
    item = document["paths"][f"/{mount}/{{tenant}}/status"]
    (pattern,) = (it["schema"]["pattern"] for it in item["parameters"] if it["name"] == "tenant")
    names = ["a", "a-b_c", "0" * 64, "0" * 65, "A", "-a", "a_", "a.b", "%C3%A4"]
    for name in names:
        status, _ = get(f"{mount}/{name}/status")
        taken = re.search(pattern, name) is not None
        assert status == (404 if taken else 400), f"{name}: {status}"


whole, part = documents()
assert errors_of(part) == [], errors_of(part)
# Built-in engines have errors of their own there; none may come from this one.
errors = errors_of(whole)
named = [error for error in errors if re.search(f"/{mount}/|smtp-|Smtp", error)]
assert named == [], named
check_pattern(part)
generate(part)
before, after = use()
print(json.dumps({"before": before, "after": after, "errors_of_others": len(errors)}))
