"""What commands of single modules share: a parser and a line for each error."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, NoReturn

from llmsched_gym.errors import one_line, printable
from llmsched_gym.workload.inputs import unknown


class Parser(argparse.ArgumentParser):
    """A parser that tells a wrong argument in one line and exits with code 2."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments; of a flag that is unknown, the nearest is named."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = re.findall(r"--[\w-]+", self.format_help())
            self.error(str(unknown("argument", rest[0], set(flags))))
        return options

    def error(self, message: str) -> NoReturn:
        """Exit."""
        print(f"{self.prog}: {printable(message)} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def run(program: str, command: Callable[[], int]) -> int:
    """What a command returns; 2 after one line on stderr for bad input, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):  # names may have signs that the terminal has not
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:  # "| head" has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportError, OSError, ValueError) as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"{program}: this machine has not the memory", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted, nothing is written", file=sys.stderr)
        return 130
    return code
