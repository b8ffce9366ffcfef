# An application of one tenant: reads that tenant's credential and its status, nothing else.
# The tenant is the `tenant` metadata of the caller's entity; a token without an entity gets nothing.

path "smtp/{{identity.entity.metadata.tenant}}/admin" {
  capabilities = ["read"]
}

path "smtp/{{identity.entity.metadata.tenant}}/status" {
  capabilities = ["read"]
}
