//! What both Freehold servers share: configuration, TLS, logs, health, shutdown.
