"""The statistical inefficiency of a trajectory, and its independent frames."""

import numpy as np

WINDOW = 5.0  # in correlation times: the sum of the noisy autocorrelation ends there


def statistical_inefficiency(values: np.ndarray) -> float:
    """Return how many successive values of a stationary series tell as much as one independent value.

    This is 1 + 2 tau, where tau is the integrated autocorrelation time in steps of the series, summed up to the window
    of Sokal (Monte Carlo Methods in Statistical Mechanics, 1997, section 3); see Chodera et al.,
    J. Chem. Theory Comput. 3, 26 (2007). It is at least 1, and the length of the series where that is constant.

    Args:
        values: shape (n,).
    """
    n = len(values)
    deviations = np.asarray(values, dtype=float) - np.mean(values) if n else np.zeros(0)
    variance = float(np.mean(deviations**2)) if n else 0.0
    if n < 2 or variance <= np.finfo(float).eps * float(np.mean(np.square(values))):
        return float(max(n, 1))
    transform = np.fft.rfft(deviations, n=2 * n)
    correlation = np.fft.irfft(np.abs(transform) ** 2)[:n] / (variance * n)
    sums = 2 * np.cumsum(correlation) - 1
    is_wide_enough = np.arange(n) >= WINDOW * sums / 2
    window = int(np.argmax(is_wide_enough)) if is_wide_enough.any() else n - 1
    return float(np.clip(sums[window], 1, n))


def decorrelated(values: np.ndarray) -> list[int]:
    """Return indices of frames one statistical inefficiency apart, including the last frame; empty without frames.

    Args:
        values: values of each frame, shape (n,) or (n, n_values). Of several values, the one with the longest
            correlation time is used; constant ones are ignored.
    """
    if len(values) == 0:
        return []
    columns = np.reshape(values, (len(values), -1)).T
    changing = columns[np.ptp(columns, axis=1) != 0]
    slowest = max((statistical_inefficiency(column) for column in changing), default=float(len(values)))
    distance = int(np.ceil(slowest))
    return list(range(len(values) - 1, -1, -distance))[::-1]
