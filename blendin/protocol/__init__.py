"""What requests of OpenAI's API say, read once for every server: the fields, names and refusals.

Nothing here needs torch: vLLM's frontend reads requests with it.
"""
