"""`loragate demo`: a small base, adapters that are trained for it, and the story that the demo tells with them.

Models and adapters are built once, in a cache folder. torch, transformers and gguf are imported only inside functions,
so that this package can be imported without the `cpu` or `gpu` extra.
"""
