"""lm-evaluation-harness with groundup's models: `python -m groundup.harness --model_args path=RUN --tasks piqa`."""
