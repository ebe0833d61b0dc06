"""Requests to the API server of Kubernetes, whose refusals and silence are told apart."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surveyor.errors import InputError
from surveyor.pools.kubernetes.refusals import FORBIDDEN, UNAUTHORIZED, refusal_of
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.machines import QueueSilent, Refused

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PATIENCE_S = (5.0, 20.0)  # to connect, and for an answer
NOT_FOUND, THERE = (404,), (409,)
NO_LOG = (400, 404)  # a container has not begun, or is gone
MOST_LINES = 200  # of a log
END_S = 2  # so long after its deletion by its pool, a pod ends
OUTSIDE = (
    "this process runs outside the cluster, where its pods could not reach it: run the campaign in a pod, as "
    "deployments/kubernetes/README.md says. On a machine that the pods of the cluster do reach, name a context of "
    "kubectl's configuration in the block (context)"
)


class Kubernetes:
    """A client of the API server.

    Args:
        site: gives namespace and context.
        is_inside: whether pods have to reach this process.

    Raises:
        InputError: the package is missing, or there is no such context, or this process is outside the cluster.
    """

    def __init__(self, site: KubernetesSite, *, is_inside: bool = True) -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise InputError(
                'pools of the kind kubernetes need its client: pip install "surveyor[kubernetes]"'
            ) from error
        settings = client.Configuration()
        try:
            if site.context is None and (is_inside or "KUBERNETES_SERVICE_HOST" in os.environ):
                config.load_incluster_config(client_configuration=settings)
                own = NAMESPACE.read_text().strip()
            else:
                config.load_kube_config(context=site.context, client_configuration=settings)
                own = _namespace_of(site.context, *config.list_kube_config_contexts())
        except (config.ConfigException, OSError) as error:
            message = str(error).rstrip(". ")
            raise InputError(f"{message}; {OUTSIDE if site.context is None else 'name one that there is'}") from error
        self.namespace = site.namespace or own
        self._api: Any = client.CoreV1Api(client.ApiClient(settings))  # Any: the client is untyped
        self._was_answered = False

    def create(self, pod: Mapping[str, Any]) -> str:  # Any: nested, as JSON
        """Create a pod, and return its unique id.

        Raises:
            Refused: the server refuses, and would again.
            QueueSilent: it does not answer, or not now.
        """
        made = self._ask("to create a pod", self._api.create_namespaced_pod, self.namespace, pod)
        return str(made.metadata.uid)

    def create_secret(self, secret: Mapping[str, Any]) -> None:  # Any: nested, as JSON
        """Create a secret, unless it is there: the answer to an earlier request may have got lost.

        Raises:
            Refused, QueueSilent: as above.
        """
        self._ask("to create a secret", self._api.create_namespaced_secret, self.namespace, secret, without=THERE)

    def pods(self, selector: str) -> list[Any]:  # Any: the client is untyped
        """Return the pods with some labels.

        Raises:
            Refused, QueueSilent: as above.
        """
        found = self._ask("to list pods", self._api.list_namespaced_pod, self.namespace, label_selector=selector)
        return list(found.items)

    def pod(self, name: str) -> Any:  # Any: the client is untyped
        """Return a pod; None if there is none.

        Raises:
            Refused, QueueSilent: as above.
        """
        return self._ask("to get a pod", self._api.read_namespaced_pod, name, self.namespace, without=NOT_FOUND)

    def delete(self, name: str) -> None:
        """Delete a pod; one that is gone is passed over.

        Raises:
            QueueSilent: the server does not answer, or refuses; with its words.
        """
        try:
            ask = self._api.delete_namespaced_pod
            self._ask("to delete a pod", ask, name, self.namespace, grace_period_seconds=END_S, without=NOT_FOUND)
        except Refused as error:
            raise QueueSilent(str(error)) from error

    def log(self, name: str) -> list[str]:
        """Return the last lines that a pod printed.

        Raises:
            Refused, QueueSilent: as above.
        """
        ask = self._api.read_namespaced_pod_log
        said = self._ask("the log of a pod", ask, name, self.namespace, tail_lines=MOST_LINES, without=NO_LOG)
        return str(said or "").splitlines()

    def _ask(
        self, what: str, request: Any, *arguments: Any, without: tuple[int, ...] = (), **options: Any
    ) -> Any:  # Any: untyped
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = request(*arguments, _request_timeout=PATIENCE_S, **options)
        except ApiException as error:
            if error.status in without:
                return None
            if error.status == UNAUTHORIZED and self._was_answered:  # tokens are renewed while pods work
                raise QueueSilent(f"Kubernetes does not know this account at present: {error.reason}") from error
            self._was_answered |= error.status == FORBIDDEN
            raise refusal_of(error, what) from error
        except (HTTPError, OSError) as error:
            raise QueueSilent(f"Kubernetes cannot be asked {what}: {error}") from error
        self._was_answered = True
        return answer


def _namespace_of(context: str | None, contexts: list[Any], active: Any) -> str:  # Any: the client is untyped
    (found,) = (each for each in contexts if each["name"] == (context or active["name"]))
    return str(found["context"].get("namespace", "default"))
