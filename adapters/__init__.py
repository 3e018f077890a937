"""Adapters: what can be served, whether it is sound, and which engine holds it. The steps of a version's life:

sources/                 fetch it from a folder, an archive or an object store, in any trainer's layout
verify/                  find everything that is wrong with it, before an engine loads it
fusion/                  or make it out of other versions, by a `recipe`
artifact.py              its digest, and an immutable copy that is named by the digest
manifest.py, catalog.py  its facts, and all registered versions
reference.py             its name, `support@3f2a9c81d0e4`
lifecycle.py             its states and events, as a table
residency.py             which versions an engine should hold, and which it evicts
loader.py                load, check and evict one engine's adapters, and compare with what it lists
checking.py              when a version's fingerprint is checked, and what is remembered of it
prober.py                ask an engine the probes: each model alone, and several in one batch
fingerprint.py           what the answers to the probes prove
unchecked.py             the checker for engines that may not be probed
ports.py                 the interfaces through which a loader uses an engine, a check and counters

`safetensors_file`, `config_file`, `strict_json` and `lora_names` read files that may be hostile; a `problem` is one
thing that is wrong with them. Nothing in this package imports the gateway.
"""
