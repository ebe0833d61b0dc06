"""`surveyor pool sweep` on a simulated EC2: block and tags suffice where folder and processes are gone."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Security
from metal import SECRET
from processes import PATIENCE_S
from simulated_cloud import Fault, simulated_cloud

from surveyor.blocks.pools import EC2Pool, load_sites
from surveyor.pools.ec2.instances import Instances
from surveyor.pools.ec2.site import EC2Site

NAME = "ec2/swept"


def surveyor(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "surveyor.flows.command_line", "pool", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_a_sweep_needs_the_block_alone(prefect_api_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated_cloud() as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        EC2Pool(**cloud.fields(prologue=["sleep 100"])).save("swept", overwrite=True)
        site = load_sites([NAME])[NAME]
        assert isinstance(site, EC2Site)
        files = {"tls_ca_file": "/ca.pem", "tls_worker_cert": "/ca.pem", "tls_worker_key": "/key.pem"}
        pool = Instances(NAME, site, tmp_path, "tls://127.0.0.1:1", Security(**files))
        protected, expired, alive = (asyncio.run(pool.submit(name)) for name in ("a", "b", "c"))
        past = {"Key": "surveyor-expires", "Value": "2026-01-01T00:00:00+00:00"}
        cloud.client.create_tags(Resources=[protected, expired], Tags=[past])
        fault = Fault(
            "TerminateInstances",
            "OperationNotPermitted",
            "is protected",
            concerns=lambda form: protected in form.values(),
        )
        cloud.faults.append(fault)
        swept = surveyor("sweep", NAME)
        assert swept.returncode != 0
        assert "is protected" in swept.stderr
        rows = {line.split("│")[1].strip(): line for line in swept.stdout.splitlines() if "i-" in line}
        assert "ended" in rows[expired]
        assert ["left" in rows[job] for job in (protected, alive)] == [True, True]
        assert {*cloud.alive()} == {protected, alive}
        cloud.faults.clear()
        all_swept = surveyor("sweep", NAME, "--all")
        assert (all_swept.returncode, all_swept.stdout.count("ended")) == (0, 2), all_swept.stderr
        assert cloud.alive() == []
        assert SECRET not in swept.stdout + swept.stderr
