"""Policies run on a task: the arms, the folder of results, and the tables made from it."""
