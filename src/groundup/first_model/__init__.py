"""Quickstart: from a text to a trained model without any decision by the user."""
