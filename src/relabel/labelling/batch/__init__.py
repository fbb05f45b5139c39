"""Labelling by a provider's batches: a generic poller over small provider hooks."""
