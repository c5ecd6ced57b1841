"""An S3 server on loopback: moto in a process of its own, behind a door that can be shut.

with S3Server() as s3: ...  # s3.endpoint, s3.environment, s3.make_bucket("fovea"); s3.door.shut(), s3.door.open()
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from servers.ports import Door, Server, free_port, wait_for

ACCESS_KEY, SECRET_KEY = "FOVEATESTKEYID", "fovea-test-secret-8a61f0"


class S3Server(Server):
    def __init__(self) -> None:
        port = free_port()
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parent,
        )
        try:
            wait_for(port)
        except TimeoutError:
            self.close()
            raise
        self.door = Door(port)
        self.direct = f"http://127.0.0.1:{port}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.door.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Credentials, as a user sets them."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """boto3's client, past the door."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.direct,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )

    def make_bucket(self, name: str = "fovea") -> str:
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str = "fovea", prefix: str = "") -> dict[str, bytes]:
        """Every object's content by key."""
        with contextlib.closing(self.client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            keys = [o["Key"] for page in pages for o in page.get("Contents", ())]
            return {k: client.get_object(Bucket=bucket, Key=k)["Body"].read() for k in keys}

    def close(self) -> None:
        if hasattr(self, "door"):
            self.door.shut()
        self.process.kill()
        self.process.wait()
