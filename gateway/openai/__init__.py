"""What requests of the OpenAI and Anthropic protocols say: endpoints, bodies, how a conversation begins. Pure."""
