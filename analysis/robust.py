"""Statistics that a few wrong measurements do not spoil."""
import numpy as np
import pandas as pd


def trimmed_mean(values, share: float = 0.25) -> float:
    """Return the mean of values without this share of the smallest and of the largest."""
    ordered = np.sort(values)
    cut = int(len(ordered) * share)
    return float(ordered[cut : len(ordered) - cut].mean())


def without_outliers(partition: pd.DataFrame, column: str, limit: float = 3.0) -> pd.DataFrame:
    """Drop rows whose value is too far from the median: limit times as far as it is in a typical row."""
    distance = (partition[column] - partition[column].median()).abs()
    return partition[distance <= limit * distance.median()]
