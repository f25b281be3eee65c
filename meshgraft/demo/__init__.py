"""The demo: both halves at work on real input and on this machine's own kernel, with proofs.

No cluster is needed. The reviews in ``data/`` are what a Kubernetes 1.36 API server sent.
"""
