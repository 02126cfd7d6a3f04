"""Picture of the panel at the end of a run: `python -m bench.panel_picture runs/shakespeare docs/pictures/panel.svg`"""

import io
import re
import sys
from pathlib import Path

from groundup.checkpoint.log import iter_log
from groundup.ui.console import Console
from groundup.ui.panel import Panel
from groundup.utils.progress import StepInfo

WIDTH, HEIGHT = 80, 24


def main(run: Path, out: Path) -> None:
    """Show the records of a run's log to a panel, and write what it draws as SVG."""
    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=WIDTH, height=HEIGHT)
    panel = Panel(f"groundup quickstart: {run.name}", None, None, console)
    records = list(iter_log(run / "log.jsonl"))
    last = max(record["step"] for record in records if record["event"] == "step")
    for record in records:
        if record["event"] == "step":
            keys = ("step", "tokens", "cursor", "elapsed", "loss", "grad_norm", "lr", "dt", "tokens_per_s", "context")
            values = {key: record[key] for key in keys}
            is_last = record["step"] == last
            panel.step(
                StepInfo(**values, fraction=record["step"] / last, applied=True, finished=is_last, stopping=False)
            )
        elif record["event"] == "eval":
            keys = ("step", "train_loss", "val_loss", "bits_per_byte")
            panel.evaluation(**{key: record[key] for key in keys})
        elif record["event"] == "sample":
            panel.sample(record["text"])
    console.print(panel._render())
    picture = console.export_svg(title="groundup quickstart")
    out.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL), encoding="utf-8")  # no font is fetched


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
