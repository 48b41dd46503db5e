"""A server that speaks S3, for tests: moto's, in a thread of this process or in a process of its own."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any
from urllib.request import Request, urlopen

import pytest

SECRET = "a-secret-that-nobody-may-see"


def options_for(port: int) -> dict[str, Any]:
    """Return the storage options for the server at ``port``."""
    return {"key": "AKIATEST", "secret": SECRET, "endpoint_url": f"http://127.0.0.1:{port}"}


def environment_for(options: dict[str, Any]) -> dict[str, str]:
    """Return the variables that give the same ``options`` to a process that is told none."""
    names = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY"}
    names |= {"endpoint_url": "AWS_ENDPOINT_URL"}
    return {variable: options[name] for name, variable in names.items()}


def use(options: dict[str, Any], environment: pytest.MonkeyPatch) -> None:
    """Let this process, and those that it starts, reach with ``options`` what is reached without any."""
    import s3fs  # noqa: PLC0415 - seconds

    for name, value in environment_for(options).items():
        environment.setenv(name, value)
    # One that was opened before has what the environment said then.
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def serving() -> Generator[dict[str, Any]]:
    """Serve from a thread; give the storage options."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - it takes a second

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield options_for(server.get_host_and_port()[1])
    finally:
        server.stop()


@contextmanager
def serving_apart() -> Generator[dict[str, Any]]:
    """Serve from a process of its own; give the storage options."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:  # pyright: ignore[reportCallIssue, reportArgumentType]
        try:
            _wait_for(port)
            yield options_for(port)
        finally:
            process.kill()


def make_bucket(options: dict[str, Any], name: str, *, keeps_all: bool = False) -> str:
    """Make an empty bucket, which keeps all that is ever put if ``keeps_all``, and return its URL."""
    files = file_system(options)
    files.mkdir(name)
    if keeps_all:
        files.make_bucket_versioned(name)
    return f"s3://{name}"


def file_system(options: dict[str, Any]) -> Any:
    """Return the file system of the server."""
    import fsspec  # noqa: PLC0415

    return fsspec.filesystem("s3", use_listings_cache=False, **options)


def objects(url: str, options: dict[str, Any]) -> dict[str, bytes]:
    """Return the content of every object below ``url`` by its name from there."""
    import fsspec  # noqa: PLC0415

    files = fsspec.filesystem(url.partition("://")[0], use_listings_cache=False, **options)
    root = files._strip_protocol(url)  # noqa: SLF001
    return {path[len(root) + 1 :]: files.cat_file(path) for path in files.find(root)}


@contextmanager
def reading_only(options: dict[str, Any]) -> Generator[dict[str, Any]]:
    """Give options of a user who may read and list all, and write nothing; meanwhile others may do nothing."""
    import boto3  # noqa: PLC0415 - it takes a second

    told = dict(zip(_AS_BOTO3, (options[name] for name in _AS_OURS), strict=True))
    users: Any = boto3.client("iam", region_name="us-east-1", **told)
    name = f"reader-{token_hex(4)}"
    users.create_user(UserName=name)
    allowed = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    users.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=policy)
    made = users.create_access_key(UserName=name)["AccessKey"]
    _count_free_actions(options, "0")
    try:
        yield {**options, "key": made["AccessKeyId"], "secret": made["SecretAccessKey"]}
    finally:
        _count_free_actions(options, "inf")


def count_puts(url: str, options: dict[str, Any]) -> Counter[str]:
    """Return how often every object below ``url`` was put, in a bucket that keeps all."""
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{folder}/"}
    told = file_system(options).call_s3("list_object_versions", **asked)
    assert not told["IsTruncated"]
    return Counter(each["Key"].removeprefix(f"{folder}/") for each in told["Versions"])


_AS_OURS = ("key", "secret", "endpoint_url")
_AS_BOTO3 = ("aws_access_key_id", "aws_secret_access_key", "endpoint_url")


def _count_free_actions(options: dict[str, Any], number: str) -> None:
    """Let the server take so many requests before it looks at who may do what."""
    url = f"{options['endpoint_url']}/moto-api/reset-auth"
    urlopen(Request(url, number.encode(), {"Content-Type": "text/plain"})).close()


def _wait_for(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the server does not start")
