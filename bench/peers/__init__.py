"""The proxies that are measured, one file each; ALL is in the order of the table."""

from bench.peers import envoy, litellm, loragate, nginx, sglang_router, vllm_router
from bench.peers.peer import Launch, MissingError, Peer, Place

ALL: tuple[Peer, ...] = (
    nginx.PEER,
    envoy.PEER,
    vllm_router.PEER,
    vllm_router.ROUND_ROBIN,
    sglang_router.PEER,
    litellm.PEER,
    loragate.PEER,
)
REFERENCES = (vllm_router.PEER.name, vllm_router.ROUND_ROBIN.name)

__all__ = ["ALL", "REFERENCES", "Launch", "MissingError", "Peer", "Place"]
