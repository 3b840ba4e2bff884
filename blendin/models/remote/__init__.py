"""Models behind OpenAI-compatible completions servers, vLLM's above all."""
