"""Command line of lm-evaluation-harness, with groundup's models.

    python -m groundup.harness --model_args path=runs/book,checkpoint=best --tasks hellaswag,arc_easy --limit 500

Takes all options of lm_eval. `--model_args`: `path` is a run or checkpoint; optional are `checkpoint`, `precision`
(default fp32), `device` (default auto) and `tokens` (about how many tokens per forward pass).
"""

import sys

from groundup.errors import GroundupError, UsageError
from groundup.ui.format import single_line
from groundup.utils.extras import install_command

COMMANDS = ("run", "ls", "validate")


def main() -> int:
    """Register groundup's models, then run the harness's command line."""
    try:
        try:
            from lm_eval.__main__ import cli_evaluate
        except ImportError:
            raise UsageError(
                f"harness: lm-evaluation-harness is not installed; install it with: {install_command('eval')}"
            ) from None
        import groundup.harness.model  # noqa: F401  # registers the model

        if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
            sys.argv.insert(1, "run")
        if sys.argv[1] == "run" and "--model" not in sys.argv:
            sys.argv[2:2] = ["--model", "groundup"]
        cli_evaluate()
    except GroundupError as error:
        print(f"groundup: {single_line(str(error))}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
