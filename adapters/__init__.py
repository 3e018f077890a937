"""What can be served: references, manifests, the catalog, and the way onto an engine.

`reference`, `manifest`, `lifecycle` and `catalog` are values and rules; `artifact` reads
folders; `loader` drives an engine through a protocol that it defines itself. Nothing in
here knows the gateway.
"""
