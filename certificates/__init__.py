"""Certificates that look after themselves: from the authority in a Secret to what is served."""
