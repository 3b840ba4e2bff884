"""Vocabularies: the bytes of tokens, two vocabularies aligned, the tokens that end a text."""
