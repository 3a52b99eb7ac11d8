"""The accuracy on the experience that is known worst."""

from cl_framework import StreamRecord, metric


# `name` is what summaries and reports call it; `axis` is what it speaks of: stability, plasticity, transfer, cost,
# calibration or drift. R[i, j] is the accuracy on experience j after learning experience i, both from 0, k learned.
@metric(name="my_method", axis="stability", higher_is_better=True,
        formula="min_{j<k} R[k-1, j]",
        source="the minimum in place of the mean of Lopez-Paz and Ranzato 2017, Gradient Episodic Memory")
def my_method(record: StreamRecord) -> float:
    """The lowest accuracy after the last experience.

    A pure function of what a run measured: `record.accuracy` [T, T] with NaN where nothing was measured,
    `record.seconds` [T], `record.n_done`, and more. Where it has no meaning it is NaN, and left out of the summary.
    """
    done = record.accuracy[: max(record.n_done, 1)]
    return float(done[-1, : len(done)].min())
