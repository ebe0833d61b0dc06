"""Requests to Google Compute Engine, whose refusals and silence are told apart.

Seven requests of its REST interface are enough. Google's own client of it takes most of a minute to import.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from surveyor.errors import InputError, PoolFailed
from surveyor.pools.gcp.refusals import refusal_of
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.machines import QueueSilent

ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE"  # the variable by which Google's own programs find another one
COMPUTE = "https://compute.googleapis.com/compute/v1/"
SCOPE = "https://www.googleapis.com/auth/compute"
ANSWER_S = 30.0
OPERATION_S = 45.0  # Google answers a request to wait after two minutes at the latest
NOT_FOUND = 404


class Compute:
    """A client of Compute Engine.

    Args:
        site: gives the project.

    Raises:
        InputError: google-auth is missing, or there are no credentials.
    """

    def __init__(self, site: GCPSite) -> None:
        self._session = _session()
        base = os.environ.get(ENDPOINT, COMPUTE).rstrip("/")
        self._url = f"{base}/projects/{site.project}"

    def create(
        self, zone: str, body: Mapping[str, Any], request_id: str
    ) -> str | None:  # Any: nested, as Google takes it
        """Create an instance, and wait a while for the outcome; a repeated request creates nothing twice.

        Returns the name of the operation if it goes on, to be asked about later; None if the instance is there.

        Args:
            zone: its zone.
            body: its description.
            request_id: a UUID of this request.

        Raises:
            NoCapacity: the zone has no room for it at present.
            Refused: Google refuses, and would again.
            QueueSilent: Google does not answer, or not now.
        """
        what = f"to create an instance of {body['machineType'].rpartition('/')[2]} in {zone}"
        address = f"zones/{zone}/instances?requestId={request_id}"
        operation = self._ask("POST", address, what, json=body)
        name = str(operation["name"])
        if operation.get("status") != "DONE":
            try:
                operation = self._ask("POST", f"zones/{zone}/operations/{name}/wait", what, within_s=OPERATION_S)
            except QueueSilent:
                return name
        if failure := _failure_of(operation, what):
            raise failure
        return None if operation.get("status") == "DONE" else name

    def creation(self, zone: str, operation: str) -> tuple[bool, Exception | None]:
        """Return whether the creation of an instance is over, and why it failed; None if it did not.

        Args:
            zone: zone of the instance.
            operation: name of the operation.

        Raises:
            Refused: the credentials may not ask.
            QueueSilent: Google does not answer.
        """
        found = self._ask("GET", f"zones/{zone}/operations/{operation}", "to get an operation")
        return found.get("status") == "DONE", _failure_of(found, f"to create an instance in {zone}")

    def instances(self, label: str, value: str) -> Iterator[dict[str, Any]]:  # Any: as Google gives it
        """Yield the descriptions of the instances of the project that have a label."""
        more = ""
        while True:
            address = f"aggregated/instances?filter=labels.{label}%3D{value}{more}"
            page = self._ask("GET", address, "to list instances")
            for of_zone in page.get("items", {}).values():
                yield from of_zone.get("instances", [])
            if not page.get("nextPageToken"):
                return
            more = f"&pageToken={page['nextPageToken']}"

    def preempted(self, zone: str) -> set[str]:
        """Return the names of the instances of a zone that Google has taken away lately, 500 of them at most."""
        newest = "filter=operationType%3D%22compute.instances.preempted%22&orderBy=creationTimestamp%20desc"
        page = self._ask("GET", f"zones/{zone}/operations?{newest}", "to list operations")
        return {str(each["targetLink"]).rpartition("/")[2] for each in page.get("items", ())}

    def delete(self, zone: str, name: str) -> None:
        """Delete an instance with its disk; one that is gone is passed over.

        Raises:
            QueueSilent: Google does not answer, or refuses; with its words.
        """
        try:
            self._ask("DELETE", f"zones/{zone}/instances/{name}", "to delete an instance")
        except PoolFailed as error:
            raise QueueSilent(str(error)) from error

    def console(self, zone: str, name: str) -> str:
        """Return the output of an instance on its first serial port."""
        answer = self._ask("GET", f"zones/{zone}/instances/{name}/serialPort?port=1", "to read a serial port")
        return str(answer.get("contents", ""))

    def _ask(
        self,
        method: str,
        address: str,
        what: str,
        json: Mapping[str, Any] | None = None,
        within_s: float = ANSWER_S,
    ) -> dict[str, Any]:  # Any: as Google gives it
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        try:
            answer = self._session.request(method, f"{self._url}/{address}", json=json, timeout=within_s)
        except (RequestException, GoogleAuthError) as error:
            raise QueueSilent(f"Compute Engine cannot be asked: {error}") from error
        try:
            content: dict[str, Any] = answer.json() if answer.content else {}
        except ValueError:
            content = {"error": {"message": answer.text[:500]}}
        if answer.ok or (answer.status_code == NOT_FOUND and method == "DELETE"):
            return content
        raise refusal_of(answer.status_code, content.get("error", {}), what)


def _failure_of(operation: Mapping[str, Any], what: str) -> Exception | None:  # Any: as Google gives it
    error = operation.get("error")
    return refusal_of(200, error, what) if error else None


def _session() -> Any:  # Any: google-auth is untyped
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import AuthorizedSession
    except ImportError as error:
        raise InputError('pools of the kind gcp need google-auth: pip install "surveyor[gcp]"') from error
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except DefaultCredentialsError as error:
        raise InputError(f"Google's client finds no credentials: {error}") from error
    return AuthorizedSession(credentials)
