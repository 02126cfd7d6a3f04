from groundup.ui.display import PlainDisplay
from groundup.utils.progress import StepInfo


def info(step: int, finished: bool = False) -> StepInfo:
    return StepInfo(
        step=step, tokens=64 * step, cursor=step, elapsed=2.0 * step, loss=5.55694, grad_norm=1.13, lr=6e-4, dt=2.0038,
        tokens_per_s=8176.4, fraction=step / 100, applied=True, finished=finished, stopping=False, context=16,
    )  # fmt: skip


def test_plain_lines() -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append)
    display.begin(1000)
    display.step(info(1))
    display.step(info(20))
    display.evaluation(step=1500, train_loss=1.9031, val_loss=1.9487, bits_per_byte=2.811)
    display.evaluation(step=500, train_loss=None, val_loss=1.9487, bits_per_byte=None)
    display.sample("Once\x1b[2J\nupon")
    display.message("saved")
    assert lines == [
        "step 1/1,000 | loss 5.5569 | dt 2003.8 ms | tok/s 8,176 | norm 1.13 | lr 6.00e-04",
        "step 20/1,000 | loss 5.5569 | dt 2003.8 ms | tok/s 8,176 | norm 1.13 | lr 6.00e-04 | 2m 40s left",
        "step 1,500 | train loss 1.9031 | val loss 1.9487 | bits/byte 2.811",
        "step 500 | val loss 1.9487",
        "  │ Once\\x1b[2J\n  │ upon",
        "saved",
    ]


def test_the_first_the_last_and_every_tenth_step_are_shown() -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append, log_every=10)
    for step in range(1, 26):
        display.step(info(step, finished=step == 25))
    assert [int(line.split()[1]) for line in lines] == [1, 10, 20, 25]
