"""Choice of the service that runs the jobs of a site."""

from pathlib import Path

from distributed import Security

from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.clouds.ssh_door import alive_s_of
from surveyor.pools.ec2.instances import Instances
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.gcp.instances import GoogleInstances
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.jobs import Jobs
from surveyor.pools.kubernetes.pods import Pods
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.machines import Machines
from surveyor.pools.site import WorkersSite
from surveyor.pools.sites import JobQueueSite
from surveyor.pools.ssh.command import Login
from surveyor.pools.ssh.hosts import Hosts
from surveyor.pools.ssh.site import SSHSite
from surveyor.pools.ssh.tunnels import InstancesWithDoors, Tunnels


def machines_of(
    name: str, site: WorkersSite, folder: Path, address: str = "", security: Security | None = None, check: str = ""
) -> Machines:
    """Return the jobs of a pool.

    Args:
        name: name of the pool, such as slurm/genoa.
        site: what a job asks for.
        folder: of the pool.
        address: of the scheduler that the workers look for; needed to submit.
        security: certificates for the workers.
        check: command that a job runs before its worker, and without whose success it ends.

    Raises:
        InputError: a package or program that the service needs is missing, or a setting cannot work here.
    """
    match site:
        case JobQueueSite():
            return Jobs(site, folder, address, security, check)
        case EC2Site():
            instances = Instances(name, site, folder, address, security, check)
            return _reached(instances, site, folder, address, security)
        case GCPSite():
            of_google = GoogleInstances(name, site, folder, address, security, check)
            return _reached(of_google, site, folder, address, security)
        case KubernetesSite():
            return Pods(name, site, folder, address, security, check)
        case SSHSite():
            return Hosts(name, site, folder, address, security)
    raise TypeError(f"no jobs for {type(site).__name__}")


def _reached(
    instances: InstancesWithDoors, site: RentedSite, folder: Path, address: str, security: Security | None
) -> Machines:
    """Return instances as they are reached from here: directly, or by ssh."""
    if site.connection == "private":
        return instances
    login = Login(site.ssh_user, site.ssh_key_file, None, site.proxy_command, alive_s_of(60 * site.orphan_minutes))
    return Tunnels(instances, site, login, folder, address, security)
