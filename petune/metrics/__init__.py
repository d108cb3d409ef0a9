"""Metrics, one file each: `evaluate.Metric` classes over scikit-learn and seqeval that need no network."""
