"""HTTP server with the API of OpenAI for completions, on top of the generation engine."""
