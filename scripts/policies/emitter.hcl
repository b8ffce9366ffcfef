# The engine's own emitter: has stored events written to the audit devices. What it asks for is
# answered as stored, whatever it sends; it can change nothing.
#
# For a mount elsewhere: the mount's path in front, namespaces included.

path "smtp/events/emit/+/+" {
  capabilities = ["update"]
}

# Lets smtp/status say whether the mount shows the events' fields in clear. Not needed for more.
path "sys/mounts/smtp/tune" {
  capabilities = ["read"]
}
