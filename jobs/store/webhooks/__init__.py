"""SQL of webhooks: endpoints, the outbox of events and deliveries, and the order of deliveries."""
