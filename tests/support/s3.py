"""An object store and what may be read of it."""

from collections.abc import Iterator

import pytest

from adapters.sources import (
    Allowed,
    FetchLimits,
)
from tests.support.s3_server import S3Server

KIB = 1024


LIMITS = FetchLimits(chunk_bytes=64 * KIB, backoff_seconds=0.01)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as environment, S3Server() as server:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


def allowed(url: str) -> Allowed:
    return Allowed(
        prefixes=("s3://models/loras/",),
        storage_options={"s3": {"endpoint_url": url, "client_kwargs": {"region_name": "us-east-1"}}},
    )
