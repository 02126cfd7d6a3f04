"""`groundup serve`: models behind the API of OpenAI."""

import argparse
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from groundup.cli.parsing import Parser, add_quantize, add_speculation, whole_number
from groundup.config.types import parse_duration
from groundup.errors import UsageError
from groundup.ui.format import single_line
from groundup.utils.extras import install_command
from groundup.utils.reading import read_bytes

KEY_VARIABLE = "GROUNDUP_API_KEY"
LIBRARIES = ("fastapi", "prometheus_client", "uvicorn")
MAX_KEY_BYTES = 1 << 10
HOST = re.compile(r"[a-z0-9._:-]+")  # names, and addresses of IPv4 and IPv6
DEFAULT_PORTS = {"http": 80, "https": 443}


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Programs that know OpenAI's completions work with it: their base URL is http://127.0.0.1:8000/v1. Open the\n"
        "address in a browser for an example to copy. A model is called like its folder, or by NAME=RUN. Ctrl-C stops\n"
        "the server once the answers in progress are complete.\n\n"
        f"If ${KEY_VARIABLE} or --api-key-file has a key, every request but /health needs it.\n\n"
        "  groundup serve runs/book plays=runs/shakespeare"
    )
    parser.first = (
        "paths", "--host", "--port", "--checkpoint", "--device", "--api-key-file", "--max-requests", "--max-tokens",
        "--time-limit",
    )  # fmt: skip
    parser.add_argument("paths", metavar="RUN", nargs="+", help="runs, checkpoints or imported models; or NAME=RUN")
    parser.option("--host ADDRESS", "address to listen on; 0.0.0.0: all [127.0.0.1]", default="127.0.0.1")
    parser.option("--port N", "port to listen on; 0: any free one [8000]", type=whole_number, default=8000)
    parser.option("--checkpoint NAME", "latest, best, or a name such as step-00001000 [latest]", default="latest")
    parser.option("--device DEVICE", "auto, cpu, cuda, cuda:N or mps [auto]", default="auto")
    add_quantize(parser)
    add_speculation(parser)
    parser.option("--api-key-file FILE", f"file with the key that clients must send [${KEY_VARIABLE}, or none]")
    parser.option(
        "--cors-origin ORIGIN", "site whose pages may use the server, such as https://example.org; * for all; may be "
        "repeated [none]", action="append", default=[], type=origin,
    )  # fmt: skip
    parser.option("--slots N", "texts generated at once for each model; others wait [8]", type=whole_number, default=8)
    parser.option(
        "--max-requests N", "requests at once for each model, waiting ones included [64]", type=whole_number, default=64
    )
    parser.option("--max-tokens N", "highest max_tokens of a request [16384]", type=whole_number, default=16_384)
    parser.option("--time-limit TIME", "longest time for an answer, such as 90s or 10m [10m]", default="10m")


def run(args: argparse.Namespace) -> int:
    paths, key, seconds = model_paths(args.paths), _key(args.api_key_file), _seconds(args.time_limit)
    for option in ("slots", "max_requests", "max_tokens"):
        if getattr(args, option) < 1:
            raise UsageError(f"--{option.replace('_', '-')} {getattr(args, option)}: must be 1 or more")
    if missing := [name for name in LIBRARIES if not find_spec(name)]:
        raise UsageError(f"serve: needs the library {missing[0]}; install it with {install_command('serve')}")
    from groundup.server.listen import Listener, bind, is_loopback, url_of

    with bind(args.host, args.port) as bound:
        from groundup.checkpoint.state import load
        from groundup.server.app import create_app
        from groundup.server.limits import LOOPBACK_NAMES, Limits

        options = {"checkpoint": args.checkpoint, "device": args.device, "quantize": args.quantize}
        models = {name: load(path, **options) for name, path in paths.items()}
        loopback = is_loopback(bound)
        if not (loopback or key):
            print(
                f"warning  {args.host} can be reached from other machines, and without a key anybody there can use the "
                f"models; set {KEY_VARIABLE}, or leave --host out",
                file=sys.stderr,
            )
        limits = Limits(requests=args.max_requests, tokens=args.max_tokens, seconds=seconds)
        hosts = (*LOOPBACK_NAMES, args.host.lower()) if loopback and not key else ()
        app = create_app(
            models,
            limits=limits,
            slots=args.slots,
            speculation=args.speculation,
            key=key,
            hosts=hosts,
            cors_origins=args.cors_origin,
        )
        served = (f"{name} ({model.worker.describe()})" for name, model in app.state.server.models.items())
        ready = f"{url_of(bound)}  serves {', '.join(served)}; Ctrl-C stops"
        Listener(app, lambda: print(ready, flush=True)).run(sockets=[bound])
    print("stopped")
    return 0


def model_paths(words: list[str]) -> dict[str, str]:
    """Names of models and their folders, of arguments such as `runs/book` and `plays=runs/shakespeare`."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or os.path.lexists(word):
            name, path = Path(os.path.abspath(word)).name, word  # noqa: PTH100  # without following links
        if not name or single_line(name) != name or not path:
            raise UsageError(f"{word}: gives no name for the model; give NAME={path or 'RUN'}")
        if name in found:
            raise UsageError(f"{word}: {name} is the name of {found[name]} already; give another by NAME={path}")
        found[name] = path
    return found


def origin(word: str) -> str:
    """Type of an option that names a site: scheme and host as browsers send them, without a default port or a path."""
    if word in ("*", "null"):  # null: pages from files
        return word
    try:
        parts = urlsplit(word)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if not (parts.scheme and host) or more or not HOST.fullmatch(host):
        raise argparse.ArgumentTypeError(f"{word!r} is no origin; give scheme and host, such as https://example.org")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{port}")


def _key(file: str | None) -> str | None:
    """The key that clients must send, of a file or the environment; None: no key. It is in no message."""
    if file is not None:
        origin = f"--api-key-file {file}"
        try:
            key = read_bytes(Path(file), limit=MAX_KEY_BYTES).decode("utf-8", errors="replace").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{origin}: {reason}; give a file with the key") from None
    elif KEY_VARIABLE in os.environ:
        origin, key = KEY_VARIABLE, os.environ[KEY_VARIABLE].strip()
    else:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{origin}: holds no key; a key is one word of ASCII characters")
    return key


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--time-limit {text}: {error}") from None
    if not 0 < seconds < 1e6:
        raise UsageError(f"--time-limit {text}: must be more than 0 and less than 11 days")
    return seconds
