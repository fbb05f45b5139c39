"""Labelling: from tasks to answers to labels, and nothing that was paid for is lost."""
