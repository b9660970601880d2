"""The Open Inference Protocol over REST: translation both ways, and the routes."""
