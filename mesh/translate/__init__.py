"""From the model to Envoy's resources: pure, and made anew only where something changed."""
