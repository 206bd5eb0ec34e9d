"""Models that run where no platform is: a signed folder with the model, what goes in and comes out, and a runner."""
