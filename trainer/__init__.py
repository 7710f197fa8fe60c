"""The only room that imports torch: from a job spec to an adapter on the Hub. Runs on the pod."""
