"""Beyond the paper: the questions that it leaves open (§VI), as runs of a plan like the audit's."""
