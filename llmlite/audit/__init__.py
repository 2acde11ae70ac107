"""The audit (notebook 08): where the paper's perplexity of 1.17 comes from, and what of its claims
holds.

plan       the runs, each with its mistake in plain sight   studies      text, heads: claims 9 to 13
runs       trained and measured for one experiment          harness      lm-eval's way of scoring
measures   what is measured of their models                 baselines    counting, published models
hypotheses what each mistake predicts, and what it does     claims       verdicts, by rule
causality  does a model see what it is to predict           scorecard    16 claims and their records
wording    claims, hypotheses, published perplexities: the TOML files
"""
