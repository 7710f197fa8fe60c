"""RunPod over REST v2. `client` is the member of `pushtrain.cloud.Cloud`; the rest is what it stands on."""
