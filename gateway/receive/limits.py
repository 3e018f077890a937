"""The bounds of one connection and one request, as settings give them: sizes in bytes, times in seconds."""

from dataclasses import dataclass, fields
from typing import Final

_MAY_BE_0: Final = ("engine_concurrency", "queue_size", "comment_seconds", "early_head_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of connections and requests; each default's comment names its precedent."""

    # Room for long contexts and base64 images: OpenAI takes 512 MB uploads only as files, nginx defaults to 1 MB.
    max_body_bytes: int = 32 * 1024 * 1024
    # Memory of running requests' bodies in one worker, in total and for one key (its account): 16 and 8 of the largest
    # bodies. Only the part of a body beyond 64 KiB counts, until an engine answers or the request ends.
    max_worker_body_bytes: int = 512 * 1024 * 1024
    max_key_body_bytes: int = 256 * 1024 * 1024
    # h11 16 KiB (its list: node 16, tomcat 8, IIS 16, Apache 8 KiB a line); official clients send about 1 KiB.
    max_header_bytes: int = 32 * 1024
    # Apache's LimitRequestFields.
    max_headers: int = 100
    # Each takes two file descriptors while a request runs; the process limit is raised to match if it may be.
    max_connections: int = 16_384
    # nginx client_header_timeout and client_body_timeout, both 60 s, made stricter for headers.
    header_seconds: float = 20.0
    # The body's time is for the whole body, and grows by a second for every `min_body_bytes_per_second` bytes received.
    # Apache's mod_reqtimeout asks for 500 a second, Kestrel for 240; with 16 KiB, a 32 MiB upload may take 35 minutes.
    body_seconds: float = 60.0
    min_body_bytes_per_second: int = 16 * 1024
    # Longer than the load balancers in front (AWS ALB idles at 60 s), so that they close first.
    keep_alive_seconds: float = 75.0
    # A prefill queue can be long; the official client itself gives up after 600 s.
    first_byte_seconds: float = 600.0
    # How long a request waits for its adapter to be loaded: 0.1 s for a small one, tens of seconds from a slow disk.
    load_seconds: float = 30.0
    # The longest silence between two parts of a reply.
    idle_seconds: float = 120.0
    # A stream that has been silent for this long gets an SSE comment, which clients skip: load balancers cut silent
    # connections after 60 s (AWS ALB, nginx). vLLM advises 15 s. 0: no comments.
    comment_seconds: float = 15.0
    # A stream that has waited this long for an engine (in the queue or for a load) gets an early head with status 200,
    # so that it can get comments; an error after that is sent in-band. Longer than `queue_seconds` and `load_seconds`,
    # so that their time-outs are still a 503. 0: never.
    early_head_seconds: float = 35.0
    # A client that takes nothing from a full send buffer for this long is cut off.
    stalled_reader_seconds: float = 120.0
    # nginx lingering_time: how long data that a refused client still sends is read and dropped.
    linger_seconds: float = 30.0

    # How many requests of this gateway an engine has at once, split evenly among its workers, at least 1 each; 0: no
    # bound. vLLM queues requests that it cannot batch, but only by arrival, and without showing its queue.
    engine_concurrency: int = 0
    # How many requests may wait in a worker until an engine has room; more are refused with 503. 0: none waits.
    # Envoy max_pending_requests 1,024, HAProxy has no bound.
    queue_size: int = 1000
    # How long a request may wait there, then 503. HAProxy timeout queue: 5 s is usual; here requests take longer.
    queue_seconds: float = 30.0
    # An engine is stuck if a stream waits for its head and the engine sends nothing at all for this long: vLLM sends a
    # stream's head before the first token. A reply that is not streamed is silent until it is whole: it gets five times
    # as long.
    engine_silent_seconds: float = 60.0
    # Failures in a row before a worker ejects an engine (sends it nothing for a while): Envoy consecutive_5xx 5.
    eject_failures: int = 5
    # Length of the first ejection, doubled each time the engine fails again, up to the longest. Envoy's
    # base_ejection_time is 30 s, its maximum 300 s; shorter here, as one request is enough to find out.
    eject_seconds: float = 5.0
    eject_longest_seconds: float = 60.0

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        wrong = [
            f"{name} is `{value}`" for name, value in values.items() if value <= 0 and (value or name not in _MAY_BE_0)
        ]
        if wrong:
            raise ValueError(f"limits must be greater than 0: {', '.join(wrong)}")
