"""The mathematics of one decoding step: tensors in, tensors out; no models, text or loops.

Every function works on N independent rows at once: sequences of a batch, or positions of one.
"""
