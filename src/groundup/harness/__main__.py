"""lm-evaluation-harness's own command line, with our models in it.

    python -m groundup.harness --model_args path=runs/book,checkpoint=best --tasks hellaswag,arc_easy --limit 500

All its options hold. `--model_args`: `path` is a run or checkpoint; `checkpoint`, `precision` (fp32), `device` (auto)
and `tokens` (about how many go through the model at a time) may follow.
"""

from __future__ import annotations

import sys

from groundup.errors import GroundupError, UsageError

COMMANDS = ("run", "ls", "validate")


def main() -> int:
    """Register our models, then let the harness read the command line."""
    try:
        try:
            from lm_eval.__main__ import cli_evaluate
        except ImportError:
            raise UsageError(
                "harness: lm-evaluation-harness is not installed; install it with: pip install 'groundup[eval]'"
            ) from None
        import groundup.harness.model  # noqa: F401  # which registers itself

        if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
            sys.argv.insert(1, "run")
        if sys.argv[1] == "run" and "--model" not in sys.argv:
            sys.argv[2:2] = ["--model", "groundup"]
        cli_evaluate()
    except GroundupError as error:
        print(f"groundup: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
