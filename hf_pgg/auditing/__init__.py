"""Audits: how much the background decides what a classifier answers, by exchanging it."""
