"""The files of deploy/ and prefect.yaml fit each other, the flows, and the schemas of what reads them."""

import json
import re
import tomllib
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flows.prune import PRUNED
from pipeline.stages.order import STAGES

POOLS = ("cpu", "gpu", "train")


def pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def deployments(root: Path) -> dict[str, Any]:
    """Name → deployment."""
    found = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    return {each["name"]: each for each in found}


@pytest.fixture(scope="module")
def services(root: Path) -> dict[str, Any]:
    """The services of the compose file."""
    return yaml.safe_load((root / "deploy" / "compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def manifests(root: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k deploy/kubernetes` creates."""
    folder = root / "deploy" / "kubernetes"
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [each for name in named for each in yaml.safe_load_all((folder / name).read_text())]


def test_every_flow_is_deployed_and_no_schedule_is_on(deployments):
    assert set(deployments) == set(PRUNED)
    assert all(each["entrypoint"].rpartition(":")[2] == name for name, each in deployments.items())
    assert all(each["tags"] == ["rlip"] for each in deployments.values())
    schedules = [each for deployment in deployments.values() for each in deployment.get("schedules", ())]
    assert len(schedules) == 2 and not any(schedule["active"] for schedule in schedules)


def test_forms_for_parameters_describe_each_of_them(deployments):
    for name, deployment in deployments.items():
        schema = resolve_name(deployment["entrypoint"].replace(".py:", ":").replace("/", ".")).parameters
        assert all(field.get("description") for field in schema.properties.values()), name
        if "start" in schema.properties:
            start = schema.properties["start"]
            assert (start["type"], start["default"]) == ("string", "ingest") and "anyOf" not in start
            assert start["enum"] == [stage.name for stage in STAGES]


def test_stages_that_compute_on_a_gpu_are_in_the_pools_that_have_one(deployments):
    for stage in STAGES:
        pool = deployments[stage.name]["work_pool"]
        assert (pool["name"] in ("gpu", "train")) == (stage.uses_gpu), stage.name
        slots = pool["job_variables"]["env"].get("RLIP_GPU_SLOTS")
        assert (slots is not None) == (stage.uses_gpu) == (pool["job_variables"].get("gpus") == 1)
        assert ("device_requests" in pool["job_variables"].get("container_create_kwargs", {})) == stage.uses_gpu


def test_containers_of_flow_runs_find_the_server_of_the_compose_file(root, services):
    defaults = json.loads((root / "deploy" / "pools" / "docker.json").read_text())["variables"]["properties"]
    url = urlsplit(defaults["env"]["default"]["PREFECT_API_URL"])
    assert url.hostname in services and defaults["networks"]["default"] == ["rlip_default"]
    worker = services["cpu"]["environment"]
    assert worker["PREFECT_API_URL"] == url.geturl() and "worker-home:/var/lib/prefect" in services["cpu"]["volumes"]
    assert worker["RLIP_CACHE"].startswith("/var/lib/prefect/"), "paid answers would go with the container"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_templates_of_pools_define_every_variable_that_they_use(root, kind):
    template = json.loads((root / "deploy" / "pools" / f"{kind}.json").read_text())
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    assert set(template["variables"]["required"]) <= used


def test_compose_passwords_must_be_given_and_ports_are_on_loopback(root, services):
    text = (root / "deploy" / "compose.yaml").read_text()
    secret = re.findall(r"\$\{(\w*(?:PASSWORD|AUTH|USER))(:\?)?", text)
    assert secret and all(required for _, required in secret)
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == set(re.findall(r"^(\w+)=$", (root / "deploy" / "example.env").read_text(), re.MULTILINE))
    for name, service in services.items():
        if "tls" not in service.get("profiles", ()):
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    server = services["server"]["environment"]
    assert server["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true" and "PREFECT_SERVER_API_AUTH_STRING" in server
    workers = [" ".join(service["command"]) for service in services.values() if "worker" in service.get("command", "")]
    assert [re.findall(r"--pool (\w+)", command) for command in workers] == [[pool] for pool in POOLS]
    assert all(set(service.get("depends_on", ())) <= set(services) for service in services.values())
    assert services["postgres"]["healthcheck"]["test"][-2:] == ["-h", "127.0.0.1"], "its socket answers too early"


def test_kubernetes_objects_name_each_other_and_hold_no_secret(manifests):
    assert "Secret" not in {each["kind"] for each in manifests}
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in manifests
        if each["kind"] in ("Deployment", "StatefulSet")
    ]
    for each in manifests:
        if each["kind"] == "Service":
            assert [have for have in labels if each["spec"]["selector"].items() <= have.items()], each["metadata"]
        if each["kind"] in ("Deployment", "StatefulSet"):
            selected = each["spec"]["selector"]["matchLabels"]
            assert selected.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    (ingress,) = [each for each in manifests if each["kind"] == "Ingress"]
    assert ingress["spec"]["tls"] and {each["metadata"]["name"] for each in manifests if each["kind"] == "Service"} >= {
        "prefect"
    }
    (workers,) = [each["spec"]["template"]["spec"] for each in manifests if each["metadata"]["name"] == "workers"]
    started = [" ".join(each["args"]) for each in workers["containers"]]
    no_pool = "--no-create-pool-if-not-found"  # it would have Prefect's template
    assert started == [f"prefect worker start --pool {pool} --type kubernetes {no_pool}" for pool in POOLS]
    by_secret = [each["data"] for each in manifests if each["metadata"]["name"] == "worker" and "data" in each]
    assert [[*each.values()] for each in by_secret] == [["rlip", "PREFECT_API_AUTH_STRING"]], "jobs hold no password"
    kept = {each["metadata"]["name"] for each in manifests if "volumeClaimTemplates" in each.get("spec", {})}
    assert kept == {"postgres", "redis"}, "PostgreSQL counts GPU slots, and Redis knows until when they are taken"
    maps = {each["metadata"]["name"] for each in manifests if each["kind"] == "ConfigMap"}
    assert set(re.findall(r"'configMapRef': {'name': '([\w-]+)'}", str(manifests))) == maps
    watched = (
        r"'PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES', 'valueFrom': {'fieldRef': {'fieldPath': 'metadata.nam"
    )
    assert len(re.findall(watched, str(manifests))) == len(POOLS), "a role may watch its own namespace only"


def test_kubernetes_objects_and_jobs_of_flow_runs_fit_the_schemas(root, manifests):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (make dev)")
    template = json.loads((root / "deploy" / "pools" / "kubernetes.json").read_text())
    text = json.dumps(template["job_configuration"]["job_manifest"])
    given = {"labels": {}, "env": [], "command": ["prefect", "flow-run", "execute"], "name": "flow"}
    variables = template["variables"]["properties"]
    for name in set(re.findall(r'"{{ (\w+) }}"', text)):
        value = given[name] if name in given else variables[name]["default"]
        text = text.replace(f'"{{{{ {name} }}}}"', json.dumps(value))
    job = json.loads(text.replace("{{ name }}", "flow"))
    for field in ("parallelism", "completions"):  # Prefect asks for them in this place, where Kubernetes ignores them
        assert job["spec"]["template"]["spec"].pop(field) == 1
    for each in (*manifests, job):
        validator.validate(each, "1.33", strict=True)


def test_constraints_state_versions_that_fit_and_hashes_and_no_place(root):
    text = (root / "constraints.txt").read_text()
    pins = [
        Requirement(line) for line in re.findall(r"^(\w.*) \\\n    --hash=sha256:[0-9a-f]{64}\b", text, re.MULTILINE)
    ]
    assert len(pins) == len(re.findall(r"^\w", text, re.MULTILINE)) > 100 and "://" not in text and " /" not in text
    stated = pyproject(root)
    extras = stated["project"]["optional-dependencies"]
    asked = [*stated["project"]["dependencies"], *stated["dependency-groups"]["install"]]
    asked += [line for extra in extras.keys() - {"trackio"} for line in extras[extra]]
    for wanted in map(Requirement, asked):
        found = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
        versions = [clause.version for pin in found for clause in pin.specifier if clause.operator == "=="]
        assert wanted.name == "rlip" or versions, f"{wanted.name}: make lock"
        assert all(wanted.specifier.contains(version) for version in versions), f"{wanted}: make lock"


def test_the_image_holds_every_package_and_the_extras_that_it_names(root):
    project = pyproject(root)
    text = (root / "Dockerfile").read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    copied = {word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]}
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied
    kept = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied and all((root / name).exists() for name in copied)
    (home,) = re.findall(r"PREFECT_HOME=(\S+)", text)  # else the server, which is not root, serves no pages
    assert f"PREFECT_UI_STATIC_DIRECTORY={home}/" in text and f"install -d -o rlip {home}" in text
    assert "install -y --no-install-recommends g++" in text, "Triton compiles its launcher"
