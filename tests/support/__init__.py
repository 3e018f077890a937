"""What tests share: a running gateway, engines and servers that misbehave, folders, waiting."""
