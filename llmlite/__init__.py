"""LLM-Lite: a careful reproduction of "Implement a LLM-Lite" (J.-C. Huang, University of Oregon).

Data flows one way: text → articles → splits → tokenizer → token ids → windows → model → loss,
and from a trained model → scores, text, maps. Each arrow is one module of this package.
"""

__version__ = "0.1.0"
