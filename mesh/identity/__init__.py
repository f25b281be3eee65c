"""Who is who: signs for a pod's key what the API server says about that pod, and nothing else."""
