"""What `loragate demo` needs and a deployment does not: a small base and adapters for it.

Everything here ends up in a cache folder, built once. torch, transformers and gguf are imported inside
functions only: without the `cpu` or `gpu` extra, importing this package still works.
"""
