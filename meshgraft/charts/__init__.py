"""The Helm charts, which are the one source of all manifests: found, rendered, described.

`location` finds them, `helm` renders them, `manifests` puts what came out in order. `schema` and
`tables` make what stands beside the charts and is made from the code; ``python -m
meshgraft.charts`` writes it.
"""
