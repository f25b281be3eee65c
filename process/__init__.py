"""What every long-running process needs: logs, health, background work, files, a heap at rest."""
