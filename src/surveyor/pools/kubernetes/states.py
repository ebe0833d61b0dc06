"""States of pods: whether one waits, runs or is over, and whether Kubernetes has taken it away.

Kubernetes takes pods away in two ways. It deletes a pod and gives it time, as for an eviction (kubectl drain), a taint,
or a pod of a higher priority. Or the kubelet ends the pod, which is then Failed but not deleted: the node shuts down or
lacks memory or disk. Versions from 1.26 mark both with the condition DisruptionTarget; before, reasons tell them.
"""

import re
import time
from typing import Any

from surveyor.pools.queues import Entry

OVER = ("Succeeded", "Failed")  # the server keeps them until somebody deletes them

# Why a container does not begin, and would not in another pod either.
CERTAIN = {
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
}
NO_CLAIM = re.compile(r"persistentvolumeclaim \S+ not found")

# Why the kubelet has ended or refused a pod. Of evictions, those count of which the pod may not be the cause.
TAKEN = {"Terminated", "Shutdown", "NodeShutdown", "Preempting", "NodeLost"}
EVICTED, OF_NODE = "Evicted", re.compile(r"^(Pod )?The node\b")
LOST = {"ContainerStatusUnknown"}  # why a container ended: its node has come back without it


def entry_of(pod: Any) -> Entry | None:  # Any: the client is untyped
    """Return the state of a pod; None for one that is over by itself.

    One for which there is a node counts as running: it occupies the node while its image is downloaded, and the time
    for its start is limited. A pod that somebody deletes, such as whoever drains its node, has some time left.
    """
    if pod.status.phase in OVER:
        return (
            Entry("ending", _words(pod.status.reason, pod.status.message), taken_at=time.time())
            if _is_taken(pod)
            else None
        )
    if pod.metadata.deletion_timestamp is not None:
        return Entry("ending", "somebody deletes the pod", taken_at=pod.metadata.deletion_timestamp.timestamp())
    if pod.status.phase != "Pending":
        return Entry("running", is_silent=_is_node_silent(pod))
    scheduled = _conditions(pod).get("PodScheduled")
    if scheduled is None or scheduled.status != "True":
        words = "" if scheduled is None else _words(scheduled.reason, scheduled.message)
        is_wrong = NO_CLAIM.search(words) is not None
        return Entry("pending", words, is_wrong, is_wrong)
    containers = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    waiting = [each.state.waiting for each in containers if each.state is not None and each.state.waiting is not None]
    for each in waiting:
        if each.reason in CERTAIN:
            return Entry("pending", _words(each.reason, each.message), is_hopeless=True, is_certain=True)
    return Entry("running", "; ".join(_words(each.reason, each.message) for each in waiting))


def deleted() -> Entry:
    """Return the state of a pod that is gone although its pool has not deleted it."""
    return Entry("ending", "somebody has deleted the pod", taken_at=time.time())


def end_of(pod: Any) -> str:  # Any: the client is untyped
    """Return why a pod ended, in the words of the cluster; empty if it did not, or said nothing."""
    if pod is None:
        return ""
    messages = [_words(pod.status.reason, pod.status.message)]
    for ended in _ends(pod):
        messages.append(f"{_words(ended.reason, ended.message)} (exit code {ended.exit_code})")
    words = "; ".join(each for each in messages if each)
    return f"Kubernetes says: {words}. " if words else ""


def _is_taken(pod: Any) -> bool:  # Any: the client is untyped
    """Return whether Kubernetes has taken away a pod that is over."""
    target = _conditions(pod).get("DisruptionTarget")
    if pod.metadata.deletion_timestamp is not None or (target is not None and target.status == "True"):
        return True
    if pod.status.reason == EVICTED:
        return OF_NODE.search(pod.status.message or "") is not None
    return pod.status.reason in TAKEN or any(each.reason in LOST for each in _ends(pod))


def _is_node_silent(pod: Any) -> bool:  # Any: the client is untyped
    """Return whether the node of a pod does not answer: others have noted that, and the kubelet has not."""
    states = {name: each.status for name, each in _conditions(pod).items()}
    is_noted = states.get("ContainersReady") == "True" and states.get("Ready") != "True"
    return is_noted or pod.status.phase == "Unknown"


def _conditions(pod: Any) -> dict[str, Any]:  # Any: the client is untyped
    return {each.type: each for each in pod.status.conditions or []}


def _ends(pod: Any) -> list[Any]:  # Any: the client is untyped
    states = [each.state for each in pod.status.container_statuses or []]
    return [each.terminated for each in states if each is not None and each.terminated is not None]


def _words(reason: str | None, message: str | None) -> str:
    return ": ".join(each for each in (reason, message) if each)
