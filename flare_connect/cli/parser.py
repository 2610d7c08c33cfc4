"""The parser of a command's arguments. It takes long to import, so that commands do it when they run."""

import difflib
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

_KINDS = {
    "tuple": "a list in brackets, such as {list}",
    "list": "a list in brackets, such as {list}",
    "dict": "names with values in braces, such as '{{holes: free}}'",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
}


class Parser(ArgumentParser):
    """Says what is wrong in one line, and where to read on in a second."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints and ends the process with 2."""
        parser = getattr(ex, "subcommand_parser", None) or self
        program = parser.prog.replace(" [options]", "")
        sys.stderr.write(f"error: {_plain(message, list(options_of(parser)))}\nsee {program} --help\n")
        raise SystemExit(2)


def options_of(parser: Any) -> Iterator[str]:
    """All that starts with `--`, also of what the first argument chooses."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        if isinstance(action.choices, dict):
            for inner in action.choices.values():
                yield from options_of(inner)


def _plain(message: str, options: list[str]) -> str:
    """A message of the parser on one line, with a hint where the mistake is a common one."""
    message = " ".join(message.split())
    message = re.sub(r'^Parser key "([^"]+)": ', lambda m: f"`--{m[1]}`: ".replace("----", "--"), message)
    if message.startswith("the following arguments are required: "):
        message = re.sub(r"(?<= )[\w.]+(?=,|$)", lambda m: f"--{m[0]}" if f"--{m[0]}" in options else m[0], message)
    wrong = re.search(r"Expected an? <class '(\w+)'>\. Got value: (.*)$", message)
    if wrong and wrong[1] in _KINDS:
        of = wrong[2] if re.fullmatch(r"[\w, ]+", wrong[2]) else "stress,displacement"
        kind = _KINDS[wrong[1]].format(list=f"'[{','.join(of.replace(',', ' ').split())}]'")
        message = f"{message[: wrong.start()]}expected {kind}, got {wrong[2]}"
    unknown = re.search(r"unrecognized arguments: (--[\w.]+)", message)
    if unknown:
        near = difflib.get_close_matches(unknown[1], options, n=1, cutoff=0.75)
        nested = [option for option in options if option.endswith(f".{unknown[1][2:]}")]
        message += f"; did you mean {(nested or near)[0]}?" if nested or near else ""
    return message
