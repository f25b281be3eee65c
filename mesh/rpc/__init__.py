"""What the mesh's own processes say to each other, who is believed, and how they run."""
