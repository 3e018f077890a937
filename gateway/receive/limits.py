"""What one client may take: sizes in bytes, times in seconds. Values, made by settings."""

from dataclasses import dataclass, fields
from typing import Final

_MAY_BE_0: Final = ("engine_concurrency", "queue_size", "comment_seconds", "early_head_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection and one request; each default names its precedent."""

    # Long contexts and base64 images: OpenAI takes 512 MB uploads only as files, nginx defaults to 1 MB.
    max_body_bytes: int = 32 * 1024 * 1024
    # Bodies of running requests in one worker's memory, all together and of one key (its account): 16 and 8 of the
    # largest. What is beyond 64 KiB of a body counts. An engine's answer, or the request's end, frees them.
    max_worker_body_bytes: int = 512 * 1024 * 1024
    max_key_body_bytes: int = 256 * 1024 * 1024
    # h11 16 KiB (its list: node 16, tomcat 8, IIS 16, Apache 8 KiB a line); official clients send about 1 KiB.
    max_header_bytes: int = 32 * 1024
    # Apache's LimitRequestFields.
    max_headers: int = 100
    # Two descriptors each while a request runs; the process limit is raised to match where it may be.
    max_connections: int = 16_384
    # nginx client_header_timeout and client_body_timeout, both 60 s, made stricter for headers.
    header_seconds: float = 20.0
    # The body's is for all of it, and longer by a second for so many bytes as have come: Apache's mod_reqtimeout asks
    # for 500 a second, Kestrel for 240; with 16 KiB, an upload of 32 MiB may take 35 minutes.
    body_seconds: float = 60.0
    min_body_bytes_per_second: int = 16 * 1024
    # Longer than the load balancers in front (AWS ALB idles at 60 s), so that they close first.
    keep_alive_seconds: float = 75.0
    # A prefill queue can be long; the official client itself gives up after 600 s.
    first_byte_seconds: float = 600.0
    # For an adapter that has to be loaded first: 0.1 s for a small one, tens of seconds from a slow disk.
    load_seconds: float = 30.0
    # Between two parts of a reply.
    idle_seconds: float = 120.0
    # A stream in which nothing has come for so long gets a comment, which clients skip: load balancers cut what is
    # silent for 60 s (AWS ALB, nginx). vLLM advises 15 s. 0: none.
    comment_seconds: float = 15.0
    # A stream that no engine has begun for so long, in line or for a load, gets its head (200) so that there can be
    # comments; a refusal after that is told in-band. Longer than `queue_seconds` and `load_seconds`, whose end is thus
    # still a 503. 0: never.
    early_head_seconds: float = 35.0
    # A reader that takes nothing off a full buffer for so long is gone.
    stalled_reader_seconds: float = 120.0
    # nginx lingering_time: how long what a refused client still sends is read and dropped.
    linger_seconds: float = 30.0

    # Requests that an engine gets at once from this gateway, split evenly among its workers, at least 1 each; 0: no
    # bound. vLLM queues what it cannot batch, but in the order of arrival and out of sight.
    engine_concurrency: int = 0
    # Requests that may wait in a worker until an engine has room; those beyond are refused with 503. 0: none waits.
    # Envoy max_pending_requests 1,024, HAProxy has no bound.
    queue_size: int = 1000
    # How long one may wait there, then 503. HAProxy timeout queue: 5 s is usual; here requests take longer.
    queue_seconds: float = 30.0
    # An engine that keeps a stream waiting for its head and sends nothing at all for so long is stuck: vLLM answers a
    # stream before it has a token. Replies that are not streamed are silent until they are whole: five times as long.
    engine_silent_seconds: float = 60.0
    # Failures in a row before a worker sends an engine nothing for a while: Envoy consecutive_5xx 5.
    eject_failures: int = 5
    # For how long at first, doubled each time it fails again, and at most: Envoy base_ejection_time 30 s, max 300 s;
    # shorter, as one request is enough to find out.
    eject_seconds: float = 5.0
    eject_longest_seconds: float = 60.0

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        wrong = [
            f"{name} is `{value}`" for name, value in values.items() if value <= 0 and (value or name not in _MAY_BE_0)
        ]
        if wrong:
            raise ValueError(f"limits must be greater than 0: {', '.join(wrong)}")
