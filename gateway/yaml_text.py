"""Parses YAML that people write (settings, plans, routes), strictly: no key twice, no exponential aliases.

An alias (`*name`) repeats what an anchor (`&name`) has marked. Nine lines of aliases of aliases expand to a thousand
million values ("billion laughs"), which cost nothing until something walks over them.
"""

from typing import Any, Final

# Ten thousand routes with plans and notes are some 500,000 values.
MAX_VALUES: Final = 2_000_000


class InvalidYaml(ValueError):
    """The text is invalid, or exceeds a bound; the message says where and why, in one line."""


def parse(text: str | bytes) -> Any:
    """Parse YAML or JSON.

    Raises:
        InvalidYaml: The text is neither, has a key twice, is nested too deeply, or expands to too many values.
    """
    import yaml  # imported here: it takes as long as all settings together

    class StrictLoader(yaml.SafeLoader):
        """Refuses a duplicate key, of which YAML silently takes the last, and aliases that expand too far."""

        def construct_document(self, node: Any) -> Any:
            if _count_values(node, {}) > MAX_VALUES:
                raise yaml.constructor.ConstructorError(
                    None, None, f"its aliases repeat more than {MAX_VALUES:,} values; write them out", node.start_mark
                )
            return super().construct_document(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT002 (as yaml calls it)
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = _twice(keys)
            if twice is not None:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{twice}` stands there more than once", node.start_mark
                )
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader=StrictLoader)  # noqa: S506 (it is a SafeLoader)
    except yaml.YAMLError as error:
        raise InvalidYaml(" ".join(str(error).split()).replace(' in "<byte string>",', " in")) from None
    except RecursionError:
        raise InvalidYaml("it is nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:  # an impossible date, a list as a key
        raise InvalidYaml(f"{type(error).__name__}: {str(error)[:200]}") from None


def _twice(keys: list[str]) -> str | None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def _count_values(node: Any, known: dict[int, float]) -> float:
    """Return how many values a node expands to, counting those behind an alias each time."""
    found = known.get(id(node))
    if found is not None:
        return found
    known[id(node)] = float("inf")  # replaced below; a value that contains itself stays infinite
    below = 0.0
    if isinstance(node.value, list):
        for each in node.value:
            for part in each if isinstance(each, tuple) else (each,):
                below += _count_values(part, known)
    known[id(node)] = 1 + below
    return 1 + below
