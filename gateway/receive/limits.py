"""What one client may take: sizes in bytes, times in seconds. Values, made by settings."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection and one request; each default names its precedent."""

    # Long contexts and base64 images: OpenAI takes 512 MB uploads only as files, nginx defaults to 1 MB.
    max_body_bytes: int = 32 * 1024 * 1024
    # h11 16 KiB (its list: node 16, tomcat 8, IIS 16, Apache 8 KiB a line); official clients send about 1 KiB.
    max_header_bytes: int = 32 * 1024
    # Apache's LimitRequestFields.
    max_headers: int = 100
    # Two descriptors each while a request runs; the process limit is raised to match where it may be.
    max_connections: int = 16_384
    # nginx client_header_timeout and client_body_timeout, both 60 s, made stricter for headers.
    header_seconds: float = 20.0
    body_seconds: float = 60.0
    # Longer than the load balancers in front (AWS ALB idles at 60 s), so that they close first.
    keep_alive_seconds: float = 75.0
    # A prefill queue can be long; the official client itself gives up after 600 s.
    first_byte_seconds: float = 600.0
    # For an adapter that has to be loaded first: 0.1 s for a small one, tens of seconds from a slow disk.
    load_seconds: float = 30.0
    # Between two parts of a reply.
    idle_seconds: float = 120.0
    # A reader that takes nothing off a full buffer for so long is gone.
    stalled_reader_seconds: float = 120.0
    # nginx lingering_time: how long what a refused client still sends is read and dropped.
    linger_seconds: float = 30.0

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        wrong = [f"{name} is `{value}`" for name, value in values.items() if value <= 0]
        if wrong:
            raise ValueError(f"limits must be greater than 0: {', '.join(wrong)}")
