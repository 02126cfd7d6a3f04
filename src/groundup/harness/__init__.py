"""Our models in lm-evaluation-harness: `python -m groundup.harness --model_args path=RUN --tasks hellaswag`."""
