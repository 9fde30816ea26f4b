"""Scores of answers against the truth, each with the interval that the number of patients allows."""
