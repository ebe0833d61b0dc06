"""Requests to Amazon EC2, whose refusals and silence are told apart."""

from collections.abc import Mapping, Sequence
from typing import Any

from surveyor.errors import InputError, PoolFailed
from surveyor.pools.ec2.refusals import code_of, refusal_of
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.machines import QueueSilent, Refused

# They may be renewed while instances work; where none was ever accepted, somebody has to give some.
OF_CREDENTIALS = {"AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired"}


class MissingInstance(PoolFailed):
    """EC2 does not know an instance, or no longer."""


class EC2:
    """A client of EC2.

    Args:
        site: gives region and profile.

    Raises:
        InputError: boto3 is missing, or there is no such profile or region.
    """

    def __init__(self, site: EC2Site) -> None:
        self._client = _client_of(site)
        self._was_answered = False

    def ask(self, operation: str, instance_type: str = "", **arguments: Any) -> Any:  # Any: boto3 is untyped
        """Return the answer to a request.

        Args:
            operation: method of boto3's client.
            instance_type: type of the instance that is asked for, for messages.
            arguments: its arguments.

        Raises:
            NoCapacity: there is no room for an instance at present.
            MissingInstance: EC2 does not know an instance, or no longer.
            Refused: EC2 refuses, and would again.
            QueueSilent: EC2 does not answer, or not now.
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            answer = getattr(self._client, operation)(**arguments)
        except ClientError as error:
            raise self._meaning(error, instance_type) from error
        except BotoCoreError as error:
            has_to_be_given = isinstance(error, NoCredentialsError) and not self._was_answered
            kind = Refused if has_to_be_given else QueueSilent
            raise kind(f"EC2 cannot be asked: {error}") from error
        self._was_answered = True
        return answer

    def instances(self, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:  # Any: as boto3 gives it
        """Return the descriptions of the instances that pass some filters."""
        given = [{"Name": name, "Values": list(values)} for name, values in filters.items()]
        found: list[dict[str, Any]] = []  # Any: as boto3 gives it
        more: dict[str, str] = {}
        while True:
            page = self.ask("describe_instances", Filters=given, **more)
            found += [each for reservation in page["Reservations"] for each in reservation["Instances"]]
            if not page.get("NextToken"):
                return found
            more = {"NextToken": page["NextToken"]}

    def terminate(self, instances: Sequence[str]) -> list[str]:
        """Terminate instances, and return those that EC2 does not know, not yet or no longer.

        Raises:
            QueueSilent: EC2 does not answer, or refuses to end one, with its words; the others are ended.
        """
        try:
            self.ask("terminate_instances", InstanceIds=list(instances))
        except PoolFailed as error:
            if len(instances) > 1:  # one that is not known, or may not be ended, keeps EC2 from ending the others
                return self._terminate_each(instances)
            if isinstance(error, MissingInstance):
                return list(instances)
            raise QueueSilent(str(error)) from error
        return []

    def _terminate_each(self, instances: Sequence[str]) -> list[str]:
        unknown: list[str] = []
        failure = None
        for instance in instances:
            try:
                unknown += self.terminate([instance])
            except QueueSilent as error:
                failure = error
        if failure is not None:
            raise failure
        return unknown

    def _meaning(self, error: Any, instance_type: str) -> Exception:  # Any: botocore is untyped
        code = code_of(error)
        if code == "InvalidInstanceID.NotFound":
            return MissingInstance(str(error))
        if code in OF_CREDENTIALS and self._was_answered:
            return QueueSilent(str(error))
        return refusal_of(error, instance_type)


def _client_of(site: EC2Site) -> Any:  # Any: boto3 is untyped
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise InputError('pools of the kind ec2 need boto3: pip install "surveyor[aws]"') from error
    patience = Config(
        connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3}, tcp_keepalive=True
    )
    try:
        session = boto3.Session(profile_name=site.profile, region_name=site.region)
        return session.client("ec2", config=patience)
    except BotoCoreError as error:
        raise InputError(f"{error}; give the block a region and a profile that this machine knows") from error
