"""The deployment `ecs`: the requests of Prefect's own worker to an imitated Amazon, under the shipped policy."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import botocore.session
import pytest
import yaml
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.validate import ParamValidator
from moto import settings
from moto.moto_api import recorder
from moto.server import ThreadedMotoServer
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from prefect.utilities.schema_tools.validation import ValidationError, validate
from prefect_aws.workers import ECSWorker
from prefect_aws.workers.ecs_worker import ECSJobConfiguration

FOLDER = Path(__file__).parents[2] / "deployments" / "ecs"
REGION = "eu-west-1"
SECRET = "planted-secret-0815"
SECRET_ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prefect-a1B2c3"


@pytest.fixture
def amazon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """Amazon on loopback, which allows this process what the policy of the worker allows; its subnet and group."""
    monkeypatch.chdir(tmp_path)  # where moto writes its record of requests
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        variables = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
            "AWS_ACCESS_KEY_ID": "administrator",
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        session = boto3.Session()
        session.client("ecs").create_cluster(clusterName="campaigns")
        subnets = session.client("ec2").describe_subnets()["Subnets"]
        groups = session.client("ec2").describe_security_groups()["SecurityGroups"]
        policy, iam = (FOLDER / "worker-policy.json").read_text(), session.client("iam")
        iam.create_user(UserName="worker")
        iam.put_user_policy(UserName="worker", PolicyName="worker", PolicyDocument=policy)
        key = iam.create_access_key(UserName="worker")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on, permissions count
        recorder.start_recording()
        yield {"subnets": [subnets[0]["SubnetId"]], "security_groups": [groups[0]["GroupId"]]}
    finally:
        recorder.stop_recording()
        moto.stop()


def requests_to(service: str) -> dict[str, Any]:
    """Return the parameters of the requests to a service, by operation, as they went over the wire."""
    found: dict[str, Any] = {}
    for record in map(json.loads, recorder.download_recording().splitlines()):
        target, _, operation = record["headers"].get("X-Amz-Target", "").partition(".")
        if target.startswith(service):
            assert operation not in found
            found[operation] = json.loads(base64.b64decode(record["body"]))
    return found


def wrong_choices(shape: Shape, value: Any) -> list[str]:
    """Return the values that are none of those that the model of a service lists, which botocore does not check."""
    if isinstance(shape, StructureShape):
        return [wrong for name, part in value.items() for wrong in wrong_choices(shape.members[name], part)]
    if isinstance(shape, ListShape):
        return [wrong for part in value for wrong in wrong_choices(shape.member, part)]
    if isinstance(shape, MapShape):
        return [wrong for part in value.values() for wrong in wrong_choices(shape.value, part)]
    return [f"{shape.name}: {value}"] if getattr(shape, "enum", None) and value not in shape.enum else []


async def start(flow_run: FlowRun, **variables: Any) -> None:
    """Let Prefect's worker start a run, by the template and the variables of its deployment and its own."""
    template = json.loads((FOLDER / "base-job-template.json").read_text())
    deployments = yaml.safe_load((FOLDER / "prefect.yaml").read_text())["deployments"]
    (given,) = {json.dumps(each["work_pool"]): each["work_pool"]["job_variables"] for each in deployments}.values()
    values = {**given, **variables}
    validate(values, template["variables"], raise_on_error=True)  # as the server does
    configuration = await ECSJobConfiguration.from_template_and_values(template, values)
    configuration.prepare_for_flow_run(flow_run)
    await ECSWorker(work_pool_name="ecs").run(flow_run, configuration)


def test_a_run_is_one_task_on_fargate_that_sees_the_file_system_and_holds_no_secret(
    amazon: dict[str, list[str]],
) -> None:
    run, address = FlowRun(id=uuid4(), flow_id=uuid4(), deployment_id=uuid4()), "http://10.0.0.10:4200/api"
    own = {PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: SECRET, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(own):
        with pytest.raises(ValidationError, match="1000 is not one of"):  # Fargate has no such machine
            asyncio.run(start(run, cpu=1000))
        asyncio.run(start(run, cpu=2048, prefect_api_auth_string_secret_arn=SECRET_ARN, **amazon))

    sent = requests_to("AmazonEC2ContainerService")
    model = botocore.session.get_session().get_service_model("ecs")
    assert {*sent} == {"RegisterTaskDefinition", "RunTask"}
    for operation, request in sent.items():
        shape = model.operation_model(operation).input_shape
        assert ParamValidator().validate(request, shape).generate_report() == ""
        assert wrong_choices(shape, request) == []
    definition, task = sent["RegisterTaskDefinition"], sent["RunTask"]
    (container,), (override,) = definition["containerDefinitions"], task["overrides"]["containerOverrides"]
    assert (task["launchType"], task.get("capacityProviderStrategy")) == ("FARGATE", None)  # never FARGATE_SPOT
    assert (definition["cpu"], definition["memory"]) == ("2048", "4096")
    assert definition["taskRoleArn"].endswith("role/surveyor-campaign")
    network = {"subnets": amazon["subnets"], "securityGroups": amazon["security_groups"], "assignPublicIp": "DISABLED"}
    assert task["networkConfiguration"] == {"awsvpcConfiguration": network}
    mounts = {each["sourceVolume"]: each["containerPath"] for each in container["mountPoints"]}
    volumes = {each["name"]: each["efsVolumeConfiguration"]["fileSystemId"] for each in definition["volumes"]}
    assert (mounts, volumes) == ({"campaigns": "/campaigns"}, {"campaigns": "fs-0123456789abcdef0"})
    assert override["command"] == ["prefect", "flow-run", "execute"]
    environment = {each["name"]: each["value"] for each in [*container["environment"], *override["environment"]]}
    assert environment["PREFECT__FLOW_RUN_ID"] == str(run.id)
    assert environment["PREFECT_API_URL"] == address
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert container["secrets"] == [{"name": "PREFECT_API_AUTH_STRING", "valueFrom": SECRET_ARN}]
    assert SECRET not in recorder.download_recording() + json.dumps(sent)


def test_the_policies_name_operations_that_amazon_has() -> None:
    session = botocore.session.get_session()
    for policy in ("task-policy.json", "worker-policy.json"):
        for statement in json.loads((FOLDER / policy).read_text())["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            # Two are permissions of operations that have other names.
            for service, _, operation in (
                each.partition(":") for each in {*actions} - {"iam:PassRole", "s3:ListBucket"}
            ):
                assert operation in session.get_service_model(service).operation_names
