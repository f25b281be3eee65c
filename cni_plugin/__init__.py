"""The node half: a chained CNI plugin that redirects a pod's traffic to its proxy."""
