"""Loragate and its peers side by side, in one run; `python -m bench`, see README.md."""
