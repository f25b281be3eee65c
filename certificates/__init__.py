"""The webhook's certificates, from the authority in a Secret to the pair that is served."""
