"""SQL of webhooks: endpoints and their log, the outbox of events and deliveries, and the order of deliveries."""
