"""OpenAI's REST API over the mesh's models: requests, answers, streams, errors and routes."""
