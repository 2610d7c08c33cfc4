"""The command line: `flare-connect COMMAND`. Each command loads what it needs, when it runs."""

import os
import sys
from collections.abc import Sequence

from flare_connect import __version__
from flare_connect.errors import FlareConnectError

from .data import GENERATE, PREPARE
from .failures import FileError, print_error
from .fields import PLOT, PREDICT, ROLLOUT
from .info import INFO
from .pdebench import GENERATE_PDEBENCH, PREPARE_PDEBENCH
from .training import DEMO, EVALUATE, TRAIN, TRAIN_ROLLOUT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on wrong use or wrong input.

    Args:
        argv: arguments after the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"flare-connect {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"error: unknown command {arguments[0]!r}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = COMMANDS[arguments[0]]
    try:
        return command.run(arguments[0], arguments[1:])
    except FlareConnectError as error:
        print_error(str(error))
        if argv is None and isinstance(error, FileError) and error.of_hdf5:
            sys.stderr.flush()
            os._exit(2)  # HDF5 would try to write again while the interpreter ends, and crash
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def overview() -> str:
    """What `flare-connect --help` says."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = ["usage: flare-connect COMMAND [options]", "", "Surrogates of physics on real meshes.", "", "commands:"]
    return "\n".join([*head, *lines, "", "flare-connect COMMAND --help tells what a command takes."])


COMMANDS = {
    "info": INFO,
    "generate": GENERATE,
    "prepare": PREPARE,
    "generate-pdebench": GENERATE_PDEBENCH,
    "prepare-pdebench": PREPARE_PDEBENCH,
    "train": TRAIN,
    "train-rollout": TRAIN_ROLLOUT,
    "evaluate": EVALUATE,
    "predict": PREDICT,
    "rollout": ROLLOUT,
    "plot": PLOT,
    "demo": DEMO,
}
