"""The client, against the real server and against servers that misbehave on purpose."""
