"""The command `python -m simulator`. Every option is a flag."""

import argparse
import json
from typing import Any

from pydantic import ValidationError

from simulator.main import run
from simulator.options import Options


def _arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="simulator", description="The provider, on loopback.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 means any free port")
    for name, field in Options.model_fields.items():
        flag = "--" + name.replace("_", "-")
        text = (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, action="store_true", default=None, help=text)
        elif field.annotation == tuple[str, ...]:
            parser.add_argument(flag, type=lambda value: tuple(filter(None, value.split(","))), help=text)
        elif name == "chaos_mix":
            parser.add_argument(flag, type=json.loads, help=text + ", as JSON")
        else:
            parser.add_argument(flag, help=text)
    return parser, parser.parse_args()


def _flag(location: tuple[int | str, ...]) -> str:
    """Return the flag that is wrong; empty if two options do not fit together."""
    return f"--{'.'.join(map(str, location))}: " if location else ""


def main() -> None:
    """Parse the flags and run until a signal to stop."""
    parser, arguments = _arguments()
    given: dict[str, Any] = {name: value for name, value in vars(arguments).items() if value is not None}
    host, port = given.pop("host"), given.pop("port")
    try:
        options = Options.model_validate(given)
    except ValidationError as error:
        parser.error("; ".join(f"{_flag(each['loc'])}{each['msg']}" for each in error.errors()))
    run(host, port, options)


if __name__ == "__main__":
    main()
