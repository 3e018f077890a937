"""What can be served, is it what it should be, and which engine holds it. The story of a version:

sources/                 fetched: a folder, an archive, an object store; what trainers write
verify/                  everything that is wrong with it, before an engine sees it
fusion/                  or made out of other versions, by a `recipe`
artifact.py              its digest, and an immutable copy named by it
manifest.py, catalog.py  the facts of it, and all that is registered
reference.py             its name, `support@3f2a9c81d0e4`
lifecycle.py             its life, as a table
residency.py             which versions an engine holds, and what makes room for them
loader.py                one engine's adapters: brought in, checked, evicted, compared with what it lists
checking.py              checked after each load and on a timer: when, and what is remembered
prober.py                the probes, asked: each model alone, and several in one batch
fingerprint.py           what the answers prove
unchecked.py             the checker of engines that are not to be probed
ports.py                 what a loader asks of an engine, of a check, and of who counts

`safetensors_file`, `config_file`, `strict_json` and `lora_names` read files that may be hostile; `problem` is one thing
that is wrong with them. Nothing in here knows the gateway.
"""
