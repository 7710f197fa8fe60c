"""Modal over its own SDK. `client` is the member of `pushtrain.cloud.Cloud`; the rest is what it stands on."""
