"""Blocks: a small procedural picture world with language, edits, questions and a judge."""
