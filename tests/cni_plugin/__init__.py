"""Tests of the node half."""
