"""Verify an adapter: is it what it says, does it fit the base, and will the engine serve it as trained?

`verify` checks a folder without an engine and without torch, and reports every problem at once. Each rule is a small
function that yields problems. The rules are in one file for each subject:

* `inventory`: the folder's files: links, sizes, pickles
* `config_rules`: what the config asks for, and what vLLM does with it
* `tensor_rules`: names, halves, shapes and ranks, compared with each other and with the config
* `finite`: the values
* `base_rules`, `identity`: the base's modules, its tokenizer and its chat template
* `signature`: who signed it
"""

from adapters.problem import Problem, Severity
from adapters.verify.base_model import BaseModel, InvalidBase
from adapters.verify.check import verify
from adapters.verify.limits import EngineLimits, FileLimits
from adapters.verify.report import Refused, Report
from adapters.verify.signature import InvalidKey, Trust

__all__ = [
    "BaseModel",
    "EngineLimits",
    "FileLimits",
    "InvalidBase",
    "InvalidKey",
    "Problem",
    "Refused",
    "Report",
    "Severity",
    "Trust",
    "verify",
]
