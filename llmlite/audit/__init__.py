"""The audit (notebook 08): where the paper's perplexity of 1.17 comes from, by the runs of `plan`,
and what of its claims holds, by the verdicts of `scorecard`."""
